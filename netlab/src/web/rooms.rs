//! Rooms: where the two pages of a call leave messages for each other, and their results for the lab.
//!
//! Everything is bounded. A room is made by its first use; the oldest goes when there are too many.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How many rooms are remembered.
const ROOMS_MAX: usize = 64;

/// How many messages one side of a room can receive. A call needs some thirty.
const MESSAGES_MAX: usize = 1_000;

/// How long [`Rooms::wait`] goes without looking, for conditions that depend on more than the rooms.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Which of the two pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The page that makes the offer.
    Caller,
    /// The page that answers.
    Callee,
}

impl Side {
    /// Both, caller first.
    pub const BOTH: [Side; 2] = [Side::Caller, Side::Callee];

    /// The one it talks to.
    pub fn other(self) -> Side {
        match self {
            Side::Caller => Side::Callee,
            Side::Callee => Side::Caller,
        }
    }
}

/// All rooms of one web server. Shared between its handlers and the lab.
#[derive(Default)]
pub struct Rooms {
    rooms: Mutex<VecDeque<(String, Room)>>,
    changed: Notify,
}

#[derive(Default)]
struct Room {
    sides: [SideOfRoom; 2],
}

#[derive(Default)]
struct SideOfRoom {
    inbox: Vec<Value>,
    /// How many of its messages are from the other page.
    numbered: usize,
    progress: Progress,
}

/// How far a page has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// `talking`, with faults `watching` and `recovered`, then `closed`.
    pub stage: Option<String>,
    /// Its result, once it has posted one.
    pub result: Option<Value>,
}

impl Rooms {
    /// Leaves a message for one side. Returns false when its inbox is full.
    pub fn post(&self, room: &str, to: Side, message: Value) -> bool {
        self.change(room, to, |side| {
            let fits = side.inbox.len() < MESSAGES_MAX;
            if fits {
                side.inbox.push(message);
            }
            fits
        })
    }

    /// Leaves a page's message for the other side, unless one with that number or a later one is there already. Returns
    /// false when the inbox is full.
    pub fn post_numbered(&self, room: &str, to: Side, number: usize, message: Value) -> bool {
        self.change(room, to, |side| {
            if number < side.numbered {
                return true;
            }
            let fits = side.inbox.len() < MESSAGES_MAX;
            if fits {
                side.inbox.push(message);
                side.numbered = number + 1;
            }
            fits
        })
    }

    /// One side's messages from number `after` on; waits up to `patience` for the first.
    pub async fn receive(&self, room: &str, side: Side, after: usize, patience: Duration) -> Vec<Value> {
        let messages = self.wait(patience, || {
            self.look(room, side, |side| side.inbox.get(after..).filter(|rest| !rest.is_empty()).map(<[Value]>::to_vec))
        });
        messages.await.unwrap_or_default()
    }

    /// Notes how far a page has come.
    pub fn set_stage(&self, room: &str, side: Side, stage: String) {
        self.change(room, side, |side| side.progress.stage = Some(stage));
    }

    /// Notes a page's result.
    pub fn set_result(&self, room: &str, side: Side, result: Value) {
        self.change(room, side, |side| side.progress.result = Some(result));
    }

    /// Leaves a message from the lab itself for both sides. An inbox that is full belongs to a page that has gone mad
    /// and will be noticed by its silence.
    pub fn tell_both(&self, room: &str, message: &Value) {
        for side in Side::BOTH {
            self.post(room, side, message.clone());
        }
    }

    /// How far a page has come.
    pub fn progress(&self, room: &str, side: Side) -> Progress {
        self.look(room, side, |side| Some(side.progress.clone())).unwrap_or_default()
    }

    /// Waits until `condition` gives something, looking again after every change in any room and twice a second.
    pub async fn wait<T>(&self, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        loop {
            // Registered before looking, so that a change between looking and waiting is not missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = condition() {
                return Some(found);
            }
            let look_again = deadline.min(Instant::now() + LOOK_INTERVAL);
            if timeout_at(look_again, changed).await.is_err() && Instant::now() >= deadline {
                return condition();
            }
        }
    }

    fn change<T>(&self, name: &str, side: Side, change: impl FnOnce(&mut SideOfRoom) -> T) -> T {
        let mut rooms = self.rooms.lock().expect("no handler panics while holding the rooms");
        if !rooms.iter().any(|(known, _)| known == name) {
            if rooms.len() == ROOMS_MAX {
                rooms.pop_front();
            }
            rooms.push_back((name.to_owned(), Room::default()));
        }
        let (_, room) = rooms.iter_mut().find(|(known, _)| known == name).expect("just made");
        let answer = change(&mut room.sides[side as usize]);
        drop(rooms);
        self.changed.notify_waiters();
        answer
    }

    fn look<T>(&self, name: &str, side: Side, look: impl FnOnce(&SideOfRoom) -> Option<T>) -> Option<T> {
        let rooms = self.rooms.lock().expect("no handler panics while holding the rooms");
        let (_, room) = rooms.iter().find(|(known, _)| known == name)?;
        look(&room.sides[side as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn a_waiting_receiver_gets_what_is_posted_later_and_only_what_is_new() {
        runtime().block_on(async {
            let rooms = Rooms::default();
            rooms.post("r", Side::Callee, Value::from(1));
            let receive = rooms.receive("r", Side::Callee, 1, Duration::from_secs(5));
            let post = async {
                tokio::task::yield_now().await;
                rooms.post("r", Side::Callee, Value::from(2));
            };
            let (received, ()) = tokio::join!(receive, post);
            assert_eq!(received, [Value::from(2)]);
        });
    }

    #[test]
    fn nothing_new_is_an_empty_answer_after_the_patience() {
        runtime().block_on(async {
            let rooms = Rooms::default();
            assert!(rooms.receive("r", Side::Caller, 0, Duration::from_millis(1)).await.is_empty());
        });
    }

    #[test]
    fn a_message_that_is_sent_again_is_there_once() {
        let rooms = Rooms::default();
        for (number, message) in [(0, "a"), (1, "b"), (1, "b"), (0, "a"), (2, "c")] {
            assert!(rooms.post_numbered("r", Side::Callee, number, message.into()));
        }
        let received = runtime().block_on(rooms.receive("r", Side::Callee, 0, Duration::ZERO));
        assert_eq!(received, ["a", "b", "c"]);
    }

    #[test]
    fn an_inbox_is_bounded() {
        let rooms = Rooms::default();
        for _ in 0..MESSAGES_MAX {
            assert!(rooms.post("r", Side::Caller, Value::Null));
        }
        assert!(!rooms.post("r", Side::Caller, Value::Null));
    }

    #[test]
    fn the_oldest_room_makes_place_for_a_new_one() {
        let rooms = Rooms::default();
        for number in 0..=ROOMS_MAX {
            rooms.set_stage(&number.to_string(), Side::Caller, "talking".into());
        }
        assert_eq!(rooms.progress("0", Side::Caller).stage, None);
        assert_eq!(rooms.progress("1", Side::Caller).stage.as_deref(), Some("talking"));
    }
}
