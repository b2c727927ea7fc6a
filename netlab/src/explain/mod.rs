//! Calls that fail, and what `hairpin explain` tells about them: real browsers get into trouble, and the operator's
//! command must say why.
//!
//! Here is the suite's table; `perform.rs` lets it happen. Each story is left in `story.md` of the scenario's
//! directory of logs, in the form in which docs/explain.md has it.

mod perform;

use crate::browser::BrowserKind;
use crate::call::{Offer, Policy};
use crate::options::{Options, Tools};
use crate::scenario::Outcome;
use crate::session::Session;
use crate::turn::{PASSWORD, TurnServerKind, USER};

/// One scenario.
#[derive(Clone, Debug)]
pub struct ExplainScenario {
    /// A short name, for filters and directories.
    pub name: &'static str,
    /// What is shown, as a sentence.
    pub sentence: &'static str,
    /// The story's headline in the documentation.
    headline: &'static str,
    /// Lines of the server's configuration beside the lab's.
    configuration: &'static str,
    /// What L's page, the caller's, is told; M's gets its own address by STUN.
    caller: Caller,
    course: Course,
    /// What must be in the story, in this order.
    words: &'static [&'static str],
}

/// What the caller's page is told.
#[derive(Clone, Copy, Debug)]
struct Caller {
    offer: Offer,
    policy: Policy,
    user: &'static str,
    password: &'static str,
}

/// What the pages do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// They try.
    Try,
    /// The callee's candidates never reach the caller.
    TryWithoutCandidates,
    /// They talk, and hang up.
    Talk,
    /// They talk until the callee's browser is killed.
    Vanish,
}

/// What was measured: the story, and how long the browsers were open before it was told.
#[derive(Clone, Debug)]
pub struct Told {
    /// As the operator reads it.
    pub story: String,
    /// Seconds from the first browser's start.
    pub after: f64,
}

/// The suite's.
pub fn all() -> Vec<ExplainScenario> {
    let lab = Caller { offer: Offer::TurnUdp, policy: Policy::Relay, user: USER, password: PASSWORD };
    let story = |name, headline, sentence| ExplainScenario {
        name,
        sentence,
        headline,
        configuration: "",
        caller: lab,
        course: Course::Try,
        words: &[],
    };
    vec![
        ExplainScenario {
            caller: Caller { password: "mistaken", ..lab },
            words: &[
                r#""lab" from"#,
                "over udp\n",
                "asked without credentials and was told to come with some",
                "failed authentication: wrong password",
                "→ The client's password is not ours for this name",
            ],
            ..story(
                "explain-wrong-password",
                "Wrong password",
                "L's page has a wrong password, and the operator reads so",
            )
        },
        ExplainScenario {
            // 2023-11-14.
            caller: Caller { user: "1700000000:carol", password: "c2lnbmVkIGluIDIwMjMuLi4uLi4=", ..lab },
            words: &[
                r#""carol" from"#,
                "failed authentication: the credential has expired",
                "→ The client uses credentials from an earlier time",
            ],
            ..story(
                "explain-expired-credential",
                "Expired credential",
                "L's page comes with a credential of long ago, and the operator reads so",
            )
        },
        ExplainScenario {
            caller: Caller { offer: Offer::StunAndTurn, policy: Policy::All, ..lab },
            course: Course::Talk,
            words: &[
                "authenticated, allocated 198.18.",
                "was refused permission to ",
                ": private peer",
                "was ended by its client, after",
                "→ Usually harmless",
            ],
            ..story(
                "explain-refused-peer",
                "Refused peer",
                "L tries M's private address through the relay, which refuses, and they talk over another path",
            )
        },
        ExplainScenario {
            configuration: "[limits]\nallocations_per_user = 1\n",
            caller: Caller { offer: Offer::StunAndTurn, ..lab },
            words: &[
                "authenticated, was refused an allocation: quota reached (486, limits: allocations_per_user)",
                "→ This user has as many allocations as limits.allocations_per_user allows",
            ],
            ..story(
                "explain-quota",
                "Quota",
                "L's page asks for two allocations, over UDP and over TCP, where a user may have one",
            )
        },
        ExplainScenario {
            course: Course::TryWithoutCandidates,
            words: &[
                "authenticated, allocated 198.18.",
                "data from 198.18.",
                "was dropped: no permission for that address",
                "→ A peer sends from an address that the client has not asked for",
            ],
            ..story(
                "explain-no-permission",
                "No permission",
                "M sends to L's relayed address, and L has not heard of M's",
            )
        },
        ExplainScenario {
            configuration: "[recorder]\nsilence = \"2s\"\n",
            course: Course::Vanish,
            words: &[
                ", with an allocation now\n",
                "authenticated, allocated 198.18.",
                "got permission for 198.18.",
                "no data from any peer for 2 s",
                "→ The client sends and no peer answers",
            ],
            ..story("explain-silent-peer", "Silent peer", "L and M talk through the relay until M's browser is killed")
        },
        ExplainScenario {
            caller: Caller { offer: Offer::TurnTls, ..lab },
            words: &[
                "over tls\n",
                "failed the TLS handshake: the client refused, mostly the certificate",
                "→ The client does not trust the certificate",
            ],
            ..story(
                "explain-tls-failure",
                "TLS failure",
                "L's browser does not trust the server's certificate, and the operator reads so",
            )
        },
    ]
}

impl ExplainScenario {
    /// Builds its lab, lets it happen, checks the story, and takes the lab down again. Takes seconds; blocks.
    pub fn run(&self, session: &Session, options: &Options) -> Outcome<Told> {
        if let Err(mistake) = options.check() {
            return Outcome::Failed(mistake);
        }
        let tools = match Tools::find(options, &[BrowserKind::Chromium]) {
            Ok(tools) => tools,
            Err(missing) => return Outcome::Skipped(missing.to_string()),
        };
        if let TurnServerKind::Coturn(_) = &tools.turn {
            return Outcome::Skipped("coturn does not explain".to_owned());
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return Outcome::Failed(format!("cannot make an async runtime: {error}")),
        };
        match runtime.block_on(self.perform(session, &tools, options)) {
            Ok(told) => {
                let lines = told.story.lines().count();
                let summary = format!(
                    "{:?} in {lines} lines, {:.1} s after the browsers",
                    self.words[self.words.len() - 1],
                    told.after
                );
                Outcome::Passed { summary, measurements: Box::new(told) }
            }
            Err(error) => Outcome::Failed(format!("{error:#}; logs in {}", options.output.join(self.name).display())),
        }
    }
}

/// The first of the words that is missing behind those before it.
fn missing(story: &str, words: &[&'static str]) -> Option<&'static str> {
    let mut rest = story;
    for word in words {
        match rest.split_once(word) {
            Some((_, behind)) => rest = behind,
            None => return Some(word),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTATION: &str = include_str!("../../../docs/explain.md");

    #[test]
    fn names_are_unlike_those_of_calls() {
        let calls = crate::scenario::all();
        for scenario in all() {
            assert!(calls.iter().all(|other| other.name != scenario.name), "{} is there twice", scenario.name);
        }
    }

    /// What it shows is what these scenarios tell, word by word where they look.
    #[test]
    fn the_documentation_has_every_story() {
        for scenario in all() {
            let headline = format!("### {}\n", scenario.headline);
            let (_, section) = DOCUMENTATION.split_once(&headline).unwrap_or_else(|| panic!("no {headline}"));
            let section = section.split("\n### ").next().expect("split gives one at least");
            assert_eq!(missing(section, scenario.words), None, "in {}", scenario.headline);
        }
    }

    #[test]
    fn words_count_in_their_order_only() {
        assert_eq!(missing("one two three", &["one", "three"]), None);
        assert_eq!(missing("one two three", &["three", "one"]), Some("one"));
    }
}
