//! `hairpin explain`: what happened to a client of a running server, and why.

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::admin_client::{Whereabouts, query};
use super::{Outcome, print};

/// Tell what happened to a client of a running server, and what usually causes it.
///
/// By session id, address of the client, or user name. The server remembers the latest events of many clients, also of those
/// that never got in (section `recorder` of the configuration).
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A user name, the IP address of a client, or a session id.
    #[arg(value_name = "USER|IP|ID")]
    about: String,

    #[command(flatten)]
    server: Whereabouts,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let path = format!("/v1/explain?{}", query([("about", Some(arguments.about.as_str()))]));
    let explanation = arguments.server.ask(Method::GET, &path)?;
    if arguments.server.json {
        return print(explanation);
    }
    let stories = explanation["stories"].as_array().map_or(&[][..], Vec::as_slice);
    if stories.is_empty() {
        return Err(format!(
            "nothing is remembered about {:?}\n    fix: check the spelling; the client may never have reached this \
             server, or too long ago",
            arguments.about
        ));
    }
    let mut text: Vec<String> = stories.iter().map(tell).collect();
    if let left_out @ 1.. = explanation["left_out"].as_u64().unwrap_or_default() {
        text.insert(0, format!("{left_out} older stories are left out\n"));
    }
    print(text.join("\n").trim_end())
}

fn tell(story: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let live = if story["is_live"] == true { ", with an allocation now" } else { "" };
    let who = match story["user"].as_str() {
        Some(user) => format!("{user:?} "),
        None => String::new(),
    };
    let mut lines = format!(
        "session {}: {who}from {} over {}{live}\n",
        text(&story["session"]),
        text(&story["client"]),
        text(&story["transport"])
    );
    let events = story["events"].as_array().map_or(&[][..], Vec::as_slice);
    for (place, event) in events.iter().enumerate() {
        lines.push_str(&format!("  {}  {}\n", text(&event["time"]), text(&event["words"])));
        // The first few are kept, whatever comes later.
        if let left_out @ 1.. = story["events_left_out"].as_u64().unwrap_or_default()
            && place == 3
        {
            lines.push_str(&format!("  …  {left_out} events are not remembered any more\n"));
        }
    }
    let advice = story["advice"].as_array().map_or(&[][..], Vec::as_slice);
    advice.iter().for_each(|advice| lines.push_str(&format!("  → {}\n", text(advice))));
    lines
}
