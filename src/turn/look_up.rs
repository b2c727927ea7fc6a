//! Keys that are kept elsewhere: who may have one looked up, who waits for it, and what becomes of a request that has
//! waited.
//!
//! A question costs work outside, so it is asked only for a client that has shown a good nonce, and so many times a
//! second for one network. Its request is kept as bytes, and is authenticated from them when the answer has come, under
//! the nonce that was good when it came. One question at a time is asked about one user; whoever else comes under the
//! name waits for the same answer. Nobody waits without end: a question that the shell does not answer in time counts
//! as one that the back end could not answer.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use ahash::RandomState;

use super::answer_limit::AnswerLimit;
use super::kept_keys::{Kept, KeptKeys};
use super::request::Answering;
use super::{Clock, Effect, FiveTuple, Limit, LookUp, Now, Reason, ReplyBuffer, Server, StaticUser, Verdict};
use crate::stun::{ErrorCode, Message, TransactionId};

/// Requests of one 5-tuple that may wait at the same time: what a client sends without waiting for answers.
const WAITING_PER_PATH: usize = 8;
/// A longer request is not kept. Those of browsers have a few hundred bytes.
const REQUEST_BYTES_MAX: usize = 4096;
/// While the back end is out of order a key that counts meanwhile is not asked for more often than this.
const STALE_SECS: u32 = 5;

/// Keys that are kept elsewhere: how long they are remembered, and how many may wait for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLookUps {
    /// Seconds that a key counts without being asked for again.
    pub found_secs: u32,
    /// Seconds that a name counts as unknown without being asked for again; also the least between two questions about
    /// a user whose remembered key does not fit.
    pub not_found_secs: u32,
    /// Seconds beyond `found_secs` that a key counts while the back end cannot answer; 0 is not at all.
    pub stale_secs: u32,
    /// Seconds after which a question is given up: a little more than the shell takes at most.
    pub timeout_secs: u32,
    /// Users remembered by one shard; and as many names of nobody.
    pub remembered: usize,
    /// Requests of one shard that wait. Beyond, they are dropped, or answered 500 where clients do not repeat them.
    pub waiting: usize,
    /// Requests a second of one shard that may wait from one IPv4 /24 or IPv6 /56; 0 is no limit.
    pub per_prefix: u32,
    /// Stands for where the keys are: what is remembered from elsewhere is forgotten.
    pub source: u64,
}

/// The answer to [`Effect::FindKey`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyAnswer {
    /// The user's keys.
    Found(Arc<StaticUser>),
    /// There is no such user.
    NotFound,
    /// The back end could not be asked, or not in time.
    Unavailable,
}

/// What there is to say about a user's key without asking.
#[derive(Debug)]
pub(super) enum Known {
    /// It may have changed since unless it `is_recent`.
    Key {
        user: Arc<StaticUser>,
        is_recent: bool,
    },
    Nobody,
    Unavailable,
    /// To be asked for.
    Unknown,
}

/// What is remembered, asked and waited for.
#[derive(Debug)]
pub(super) struct LookUps {
    keys: KeptKeys,
    /// Made when it is needed.
    limit: Option<AnswerLimit>,
    hashes: RandomState,
    /// By ticket.
    questions: HashMap<u64, Question, RandomState>,
    tickets: HashMap<Arc<str>, u64, RandomState>,
    /// Who waits, and with how many requests.
    paths: HashMap<FiveTuple, usize, RandomState>,
    waiting: usize,
    /// Ascending. The first one is always that of a question that is open.
    deadlines: VecDeque<(Now, u64)>,
    next_ticket: u64,
    /// The answer under which a request that has waited is being served.
    answer: Option<Answer>,
}

#[derive(Debug)]
struct Question {
    name: Arc<str>,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    path: FiveTuple,
    carrier: Option<u16>,
    transaction_id: TransactionId,
    bytes: Box<[u8]>,
    /// When it came, in Unix seconds.
    came: u64,
}

#[derive(Clone, Debug)]
struct Answer {
    name: Arc<str>,
    answer: KeyAnswer,
    came: u64,
}

impl LookUps {
    pub(super) fn new(hashes: &RandomState, first_ticket: u64) -> Self {
        Self {
            keys: KeptKeys::new(hashes),
            limit: None,
            hashes: hashes.clone(),
            questions: HashMap::with_hasher(hashes.clone()),
            tickets: HashMap::with_hasher(hashes.clone()),
            paths: HashMap::with_hasher(hashes.clone()),
            waiting: 0,
            deadlines: VecDeque::new(),
            next_ticket: first_ticket,
            answer: None,
        }
    }

    /// What is known of a user, to be counted by what it is known from.
    pub(super) fn known(&mut self, now: Now, policy: &KeyLookUps, name: &str) -> (Known, Option<LookUp>) {
        if let Some(answer) = self.answer.as_ref().filter(|answer| *answer.name == *name) {
            let known = match &answer.answer {
                KeyAnswer::Found(user) => Known::Key { user: Arc::clone(user), is_recent: true },
                KeyAnswer::NotFound => Known::Nobody,
                KeyAnswer::Unavailable => Known::Unavailable,
            };
            return (known, None);
        }
        if let Some(kept) = self.keys.get(now, name)
            && now < kept.fresh_until
        {
            let is_recent = now < kept.asked.plus_secs(policy.not_found_secs);
            return (Known::Key { user: Arc::clone(&kept.user), is_recent }, Some(LookUp::Remembered));
        }
        if self.keys.is_nobody(now, name) {
            return (Known::Nobody, Some(LookUp::RememberedNotFound));
        }
        (Known::Unknown, None)
    }

    /// When the request being served came, if it has waited: its nonce was good then.
    pub(super) fn came(&self) -> Option<u64> {
        self.answer.as_ref().map(|answer| answer.came)
    }

    /// When the first question is given up.
    pub(super) fn next_deadline(&self) -> Option<Now> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn waits(&self, path: &FiveTuple) -> bool {
        self.waiting > 0 && self.paths.contains_key(path)
    }

    fn allows(&mut self, now: Now, rate: u32, client: IpAddr) -> bool {
        let hashes = &self.hashes;
        self.limit.get_or_insert_with(|| AnswerLimit::new(hashes.clone())).allows_look_up(now, rate, client)
    }

    fn waits_for_this(&self, path: &FiveTuple, transaction_id: TransactionId) -> bool {
        let is_this = |waiting: &Waiting| waiting.transaction_id == transaction_id && waiting.path == *path;
        self.waits(path) && self.questions.values().any(|question| question.waiting.iter().any(is_this))
    }

    fn take(&mut self, ticket: u64) -> Option<Question> {
        let question = self.questions.remove(&ticket)?;
        self.tickets.remove(&question.name);
        while self.deadlines.front().is_some_and(|(_, ticket)| !self.questions.contains_key(ticket)) {
            self.deadlines.pop_front();
        }
        for waiting in &question.waiting {
            self.leave(&waiting.path);
        }
        Some(question)
    }

    fn leave(&mut self, path: &FiveTuple) {
        self.waiting -= 1;
        if let Some(count) = self.paths.get_mut(path) {
            *count -= 1;
            if *count == 0 {
                self.paths.remove(path);
            }
        }
    }

    /// Nobody is left to be answered on this path.
    pub(super) fn path_closed(&mut self, path: &FiveTuple) {
        if let Some(count) = self.paths.remove(path) {
            self.waiting -= count;
            let questions = self.questions.values_mut();
            questions.for_each(|question| question.waiting.retain(|waiting| waiting.path != *path));
        }
    }

    /// The configuration has changed: what was found out before is to be asked again.
    pub(super) fn configure(&mut self, is_same_source: bool) {
        if is_same_source {
            self.keys.expire();
        } else {
            self.keys.clear();
        }
    }

    /// Nobody is answered any more.
    pub(super) fn shut_down(&mut self) {
        self.questions.clear();
        self.tickets.clear();
        self.paths.clear();
        self.deadlines.clear();
        self.waiting = 0;
    }

    pub(super) fn check_invariants(&self) {
        let waiting: usize = self.questions.values().map(|question| question.waiting.len()).sum();
        assert_eq!((waiting, self.paths.values().sum()), (self.waiting, self.waiting), "who waits");
        assert_eq!(self.questions.len(), self.tickets.len());
        for (name, ticket) in &self.tickets {
            assert_eq!(self.questions[ticket].name, *name);
            assert!(self.deadlines.iter().any(|(_, other)| other == ticket), "a question without a deadline");
        }
        assert!(self.deadlines.front().is_none_or(|(_, ticket)| self.questions.contains_key(ticket)));
        assert!(self.deadlines.iter().is_sorted());
        assert!(self.answer.is_none());
    }
}

impl Server {
    /// The answer to [`Effect::FindKey`].
    pub fn key_found(&mut self, clock: Clock, ticket: u64, answer: KeyAnswer) {
        self.on_key_found(clock, ticket, answer);
    }

    /// Whether a request of this client waits for a key: its connection is in use.
    pub fn waits_for_key(&self, path: &FiveTuple) -> bool {
        self.look_ups.waits(path)
    }

    /// Requests that wait for a key.
    pub fn requests_waiting(&self) -> usize {
        self.look_ups.waiting()
    }

    /// Has a request wait for the key of a user. Its client has shown a good nonce.
    pub(super) fn wait_for_key(
        &mut self,
        clock: Clock,
        path: FiveTuple,
        message: &Message<'_>,
        name: Arc<str>,
        reply: &mut ReplyBuffer,
    ) -> Verdict {
        let config = Arc::clone(&self.config);
        let Some(policy) = &config.credentials.look_ups else {
            unreachable!("nobody is looked up without a back end");
        };
        let transaction_id = message.transaction_id();
        if self.look_ups.waits_for_this(&path, transaction_id) {
            return Verdict::Drop(Reason::RetransmissionPending);
        }
        if !self.look_ups.allows(clock.now, policy.per_prefix, path.client.ip()) {
            return self.refuse_to_wait(path, message, reply, Reason::LookUpRateLimited);
        }
        let is_full = self.look_ups.waiting >= policy.waiting
            || self.look_ups.paths.get(&path).is_some_and(|count| *count >= WAITING_PER_PATH)
            || self.effects.len() >= config.limits.effects
            || message.bytes().len() > REQUEST_BYTES_MAX;
        if is_full {
            self.counters.limits[Limit::LookUpsWaiting as usize] += 1;
            return self.refuse_to_wait(path, message, reply, Reason::LookUpsFull);
        }
        let look_ups = &mut self.look_ups;
        let ticket = match look_ups.tickets.get(&name) {
            Some(ticket) => *ticket,
            None => {
                let ticket = look_ups.next_ticket;
                look_ups.next_ticket = ticket.wrapping_add(1);
                // A reload may have made waiting shorter; the order is kept.
                let latest = look_ups.deadlines.back().map_or(Now(0), |(deadline, _)| *deadline);
                let deadline = clock.now.plus_secs(policy.timeout_secs.max(1)).max(latest);
                look_ups.deadlines.push_back((deadline, ticket));
                look_ups.tickets.insert(Arc::clone(&name), ticket);
                look_ups.questions.insert(ticket, Question { name: Arc::clone(&name), waiting: Vec::new() });
                let realm = config.realm.as_str().into();
                self.effects.push_back(Effect::FindKey { ticket, realm, who: name });
                ticket
            }
        };
        let waiting = Waiting {
            path,
            carrier: self.carrier,
            transaction_id,
            bytes: message.bytes().into(),
            came: clock.unix_secs,
        };
        look_ups.questions.get_mut(&ticket).expect("asked above").waiting.push(waiting);
        *look_ups.paths.entry(path).or_default() += 1;
        look_ups.waiting += 1;
        Verdict::Later
    }

    /// Over UDP the client repeats its request, and may have more luck; over a stream it does not.
    fn refuse_to_wait(
        &mut self,
        path: FiveTuple,
        message: &Message<'_>,
        reply: &mut ReplyBuffer,
        reason: Reason,
    ) -> Verdict {
        if !path.transport.is_stream() {
            return Verdict::Drop(reason);
        }
        Verdict::Reply { len: self.respond(reply, Answering::to(message), Err(ErrorCode::ServerError), None) }
    }

    pub(super) fn on_key_found(&mut self, clock: Clock, ticket: u64, answer: KeyAnswer) {
        // Not ours, given up, or answered before.
        let Some(question) = self.look_ups.take(ticket) else {
            return;
        };
        let answer = self.remember(clock, &question.name, answer);
        for waiting in question.waiting {
            let Waiting { path, carrier, bytes, came, .. } = waiting;
            let answer = Answer { name: Arc::clone(&question.name), answer: answer.clone(), came };
            self.look_ups.answer = Some(answer);
            self.carrier = carrier;
            self.serve_again(clock, path, &bytes);
            self.look_ups.answer = None;
            self.carrier = None;
            if let Some(carrier) = carrier {
                self.stop_carrier(clock, carrier, path);
            }
        }
    }

    /// What the answer comes to: a key that is remembered stands in for a back end that cannot answer.
    fn remember(&mut self, clock: Clock, name: &Arc<str>, answer: KeyAnswer) -> KeyAnswer {
        let now = clock.now;
        let config = Arc::clone(&self.config);
        let Some(policy) = &config.credentials.look_ups else {
            return answer;
        };
        let keys = &mut self.look_ups.keys;
        let (counted, answer) = match answer {
            KeyAnswer::Found(user) => {
                let fresh_until = now.plus_secs(policy.found_secs);
                let stale_until = fresh_until.plus_secs(policy.stale_secs);
                let kept = Kept { user: Arc::clone(&user), asked: now, fresh_until, stale_until };
                keys.found(policy.remembered, name, kept);
                (LookUp::Found, KeyAnswer::Found(user))
            }
            KeyAnswer::NotFound => {
                keys.not_found(policy.remembered, name, now.plus_secs(policy.not_found_secs));
                (LookUp::NotFound, KeyAnswer::NotFound)
            }
            KeyAnswer::Unavailable => match keys.get(now, name) {
                Some(kept) => {
                    // Asked because it did not fit, it may be fresh still.
                    kept.asked = now;
                    let again = now.plus_secs(STALE_SECS).min(kept.stale_until);
                    kept.fresh_until = kept.fresh_until.max(again);
                    (LookUp::Stale, KeyAnswer::Found(Arc::clone(&kept.user)))
                }
                None => (LookUp::Unavailable, KeyAnswer::Unavailable),
            },
        };
        self.counters.look_ups[counted as usize] += 1;
        answer
    }

    /// Serves a request that has waited. What it would have been answered at once is sent now.
    fn serve_again(&mut self, clock: Clock, path: FiveTuple, bytes: &[u8]) {
        let message = Message::parse(bytes).expect("parsed before");
        let mut reply = ReplyBuffer::new();
        let verdict = self.serve_request(clock, path, &message, &mut reply);
        match verdict {
            Verdict::Reply { len } => self.effects.push_back(Effect::Send { to: path, bytes: reply[..len].into() }),
            Verdict::Bound { len, connection } => {
                self.effects.push_back(Effect::Bound { to: path, bytes: reply[..len].into(), connection });
            }
            Verdict::Later => {}
            Verdict::Drop(reason) => self.counters.drops[reason as usize] += 1,
            // It belongs to another shard. By now this one knows the client; sent again, the request goes there.
            Verdict::NotMine { .. } if path.transport.is_stream() => {
                let len = self.respond(&mut reply, Answering::to(&message), Err(ErrorCode::ServerError), None);
                self.effects.push_back(Effect::Send { to: path, bytes: reply[..len].into() });
            }
            Verdict::NotMine { .. } => self.counters.drops[Reason::Stray as usize] += 1,
            Verdict::ToPeer { .. } | Verdict::ToClient { .. } | Verdict::ToRelay { .. } => {
                unreachable!("requests carry no data")
            }
        }
    }

    /// Gives up questions that nobody answers.
    pub(super) fn end_overdue_look_ups(&mut self, clock: Clock) {
        while let Some((deadline, ticket)) = self.look_ups.deadlines.front().copied()
            && deadline <= clock.now
        {
            self.on_key_found(clock, ticket, KeyAnswer::Unavailable);
        }
    }
}
