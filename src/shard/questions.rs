//! What the control plane asks shards, and how the answers get back.
//!
//! A question is a [`Command`] with a [`Reply`]. Whoever asks says what is to be done with the answers; that happens
//! exactly once, when every shard that was asked has answered or has lost the question in a panic, so that nobody waits
//! for a shard that started again. It happens on the thread of a shard and must not take long. How many questions there may
//! be at the same time is bounded, over all shards; how long to wait is for whoever asks to decide.
//!
//! Answers that look at many allocations are walks: each round of the loop takes a few steps, so that packets
//! wait no longer than for a batch.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Shards;
use super::mailbox::Command;
use super::reactor::Shard;
use super::recorder::{StoryQuery, Told};
use crate::turn::{EndReason, Revocation, Session, SessionFilter, WalkPlace};

/// Questions that are not answered yet, over all shards.
const QUESTIONS_MAX: usize = 16;
/// Sessions in one answer.
const SESSIONS_MAX: usize = 1000;
/// Places of the table looked at in one round: less work than a batch of packets.
const STEPS_A_ROUND: usize = 64;
/// The same where each may be the end of an allocation: sockets closed, lines in the log.
const ENDS_A_ROUND: usize = 16;

/// What a shard is asked.
#[derive(Debug)]
pub(super) enum Question {
    /// Which sessions there are.
    List { filter: SessionFilter, from: WalkPlace, limit: usize, reply: Reply<SessionsPage> },
    /// What happened to somebody.
    Explain { query: Arc<StoryQuery>, reply: Reply<Vec<Told>> },
    /// To end sessions, and how many it were.
    End { filter: Arc<SessionFilter>, why: EndReason, reply: Reply<usize> },
}

/// Sessions of one shard, in the order of their places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionsPage {
    /// What was found.
    pub sessions: Vec<Session>,
    /// Where to go on; `None` if there is nothing more in this shard.
    pub next: Option<WalkPlace>,
}

/// There are as many questions as allowed that have no answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyQuestions;

/// Where the answer to a question goes. Dropped without one, it says that there will be none.
pub(super) struct Reply<T: Send + 'static>(Arc<Gathering<T>>);

struct Gathering<T: Send + 'static> {
    answers: Mutex<Vec<T>>,
    then: Mutex<Option<Then<T>>>,
    _held: QuestionHeld,
}

type Then<T> = Box<dyn FnOnce(Vec<T>) + Send>;

/// One question, counted.
struct QuestionHeld(Arc<AtomicUsize>);

impl QuestionHeld {
    fn new(questions: &Arc<AtomicUsize>) -> Result<Self, TooManyQuestions> {
        let below = |count| (count < QUESTIONS_MAX).then_some(count + 1);
        match questions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below) {
            Ok(_) => Ok(Self(Arc::clone(questions))),
            Err(_) => Err(TooManyQuestions),
        }
    }
}

impl Drop for QuestionHeld {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T: Send + 'static> Reply<T> {
    pub(super) fn answer(self, answer: T) {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
    }
}

impl<T: Send + 'static> Drop for Gathering<T> {
    fn drop(&mut self) {
        let answers = std::mem::take(self.answers.get_mut().unwrap_or_else(PoisonError::into_inner));
        if let Some(then) = self.then.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            then(answers);
        }
    }
}

impl<T: Send + 'static> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply(…)")
    }
}

impl Shards {
    /// How many shards there are.
    pub fn count(&self) -> u16 {
        u16::try_from(self.mailboxes.len()).expect("as many as were asked for")
    }

    /// Asks one shard for the sessions to which the filter applies, from a place on, at most `limit` and never more than a
    /// thousand. `then` gets them; `None` if the shard has lost the question. A shard that does not exist loses it at once.
    ///
    /// # Errors
    /// Too many questions without an answer; `then` is not called.
    pub fn list_sessions(
        &self,
        shard: u16,
        filter: SessionFilter,
        from: WalkPlace,
        limit: usize,
        then: impl FnOnce(Option<SessionsPage>) + Send + 'static,
    ) -> Result<(), TooManyQuestions> {
        let limit = limit.min(SESSIONS_MAX);
        let reply = self.gather(move |pages: Vec<SessionsPage>| then(pages.into_iter().next()))?;
        if let Some(mailbox) = self.mailboxes.get(usize::from(shard)) {
            mailbox.command(Command::Ask(Question::List { filter, from, limit, reply }));
        }
        Ok(())
    }

    /// Has all shards end the sessions to which the filter applies. `then` gets for each shard that has done so how many it
    /// were; those that begin meanwhile may live on.
    ///
    /// # Errors
    /// As for [`Shards::list_sessions`].
    pub fn end_sessions(
        &self,
        filter: SessionFilter,
        why: EndReason,
        then: impl FnOnce(Vec<usize>) + Send + 'static,
    ) -> Result<(), TooManyQuestions> {
        let filter = Arc::new(filter);
        self.ask_all(|reply| Question::End { filter: Arc::clone(&filter), why, reply }, then)
    }

    /// Asks all shards for stories. `then` gets those of each shard that has answered, and of clients whose handshake
    /// failed, each in order of their latest events.
    ///
    /// # Errors
    /// As for [`Shards::list_sessions`].
    pub fn explain(
        &self,
        query: StoryQuery,
        then: impl FnOnce(Vec<Vec<Told>>) + Send + 'static,
    ) -> Result<(), TooManyQuestions> {
        let failed = self.handshakes.as_ref().map(|handshakes| handshakes.shared.find_failures(&query));
        let query = Arc::new(query);
        let with_failed = move |mut told: Vec<Vec<Told>>| {
            told.extend(failed);
            then(told);
        };
        self.ask_all(|reply| Question::Explain { query: Arc::clone(&query), reply }, with_failed)
    }

    /// Asks all shards the same.
    fn ask_all<T: Send + 'static>(
        &self,
        question: impl Fn(Reply<T>) -> Question,
        then: impl FnOnce(Vec<T>) + Send + 'static,
    ) -> Result<(), TooManyQuestions> {
        let Reply(gathering) = self.gather(then)?;
        self.command(|| Command::Ask(question(Reply(Arc::clone(&gathering)))));
        Ok(())
    }

    fn gather<T: Send + 'static>(
        &self,
        then: impl FnOnce(Vec<T>) + Send + 'static,
    ) -> Result<Reply<T>, TooManyQuestions> {
        let held = QuestionHeld::new(&self.questions)?;
        let (answers, then) = (Mutex::default(), Mutex::new(Some(Box::new(then) as Then<T>)));
        Ok(Reply(Arc::new(Gathering { answers, then, _held: held })))
    }
}

/// A question that takes several rounds.
#[derive(Debug)]
pub(super) struct Walk {
    at: WalkPlace,
    errand: Errand,
}

#[derive(Debug)]
enum Errand {
    List { filter: SessionFilter, limit: usize, found: Vec<Session>, reply: Reply<SessionsPage> },
    End { filter: Arc<SessionFilter>, why: EndReason, ended: usize, reply: Reply<usize> },
    Revoke(Revocation),
}

impl Shard<'_> {
    pub(super) fn hear_question(&mut self, question: Question) {
        let walk = match question {
            Question::Explain { query, reply } => {
                // The tables are small.
                let veil = self.home.veil();
                return reply.answer(self.home.recorder.find(crate::net::clock::read(), &veil, &query));
            }
            Question::List { filter, from, limit, reply } => {
                Walk { at: from, errand: Errand::List { filter, limit, found: Vec::new(), reply } }
            }
            Question::End { filter, why, reply } => {
                Walk { at: WalkPlace::default(), errand: Errand::End { filter, why, ended: 0, reply } }
            }
        };
        self.walks.push_back(walk);
    }

    /// Ends the allocations of those whose credentials are gone.
    pub(super) fn revoke(&mut self, revocation: Option<Revocation>) {
        let walk = |revocation| Walk { at: WalkPlace::default(), errand: Errand::Revoke(revocation) };
        self.walks.extend(revocation.map(walk));
    }

    /// Takes the next steps of one walk, whichever has waited longest.
    pub(super) fn walk_on(&mut self) {
        let Some(Walk { at, errand }) = self.walks.pop_front() else {
            return;
        };
        self.clock = crate::net::clock::read();
        match errand {
            Errand::List { filter, limit, mut found, reply } => {
                let next = self.server.walk_sessions(self.clock, at, STEPS_A_ROUND, &filter, |session| {
                    found.push(session);
                    if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                });
                match next {
                    Some(at) if found.len() < limit => {
                        self.walks.push_back(Walk { at, errand: Errand::List { filter, limit, found, reply } });
                    }
                    next => reply.answer(SessionsPage { sessions: found, next }),
                }
            }
            Errand::Revoke(revocation) => {
                let next = self.server.end_revoked(self.clock, at, ENDS_A_ROUND, &revocation);
                self.drain_effects();
                self.walks.extend(next.map(|at| Walk { at, errand: Errand::Revoke(revocation) }));
            }
            Errand::End { filter, why, ended, reply } => {
                let (more, next) = self.server.end_sessions(self.clock, at, ENDS_A_ROUND, &filter, why);
                self.drain_effects();
                let ended = ended + more;
                match next {
                    Some(at) => self.walks.push_back(Walk { at, errand: Errand::End { filter, why, ended, reply } }),
                    None => reply.answer(ended),
                }
            }
        }
    }
}
