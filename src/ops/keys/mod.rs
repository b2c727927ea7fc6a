//! Keys that are kept elsewhere: the shards' questions are put to a database, a Redis or a web server, and the answers
//! go back by mailbox.
//!
//! Nothing here is waited for by a shard. So many questions are asked at the same time, each has so long from when it
//! was put, and what cannot be asked is answered with that. The back end may be exchanged while questions are open.

mod http;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
mod sql;

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Duration, Instant, timeout_at};
use tracing::{error, warn};

use crate::config::{KeyBackend, KeyBackendKind, KeyRecord};
use crate::shard::KeyQuestion;
use crate::turn::KeyAnswer;

/// Questions on their way; the machines have a bound of their own, which is reached first.
const QUESTIONS_MAX: usize = 65_536;
/// At most one line in this time about a back end that cannot be asked; the counters have the rest.
const WARNING_PAUSE: Duration = Duration::from_secs(10);

/// What is known of a user, or that there is none; otherwise why it could not be found out, in words without secrets.
type Finding<'f> = Pin<Box<dyn Future<Output = Result<Option<KeyRecord>, String>> + Send + 'f>>;

/// Where keys are kept.
trait KeySource: Send + Sync {
    /// Looks for a user. It is given up by dropping it.
    fn find<'f>(&'f self, realm: &'f str, name: &'f str) -> Finding<'f>;
}

/// Puts questions to the back end in force. Cloning is cheap; all clones are the same.
#[derive(Clone)]
pub(super) struct Keys(Arc<Shared>);

struct Shared {
    active: Mutex<Option<Arc<Active>>>,
    warned: Mutex<Option<Instant>>,
    answers: IntCounterVec,
    seconds: HistogramVec,
}

/// A back end, and how it is asked.
struct Active {
    backend: KeyBackend,
    source: Box<dyn KeySource>,
    permits: Semaphore,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(…)")
    }
}

/// Upper bounds of the histogram, in seconds: from a cache on this machine to the longest `auth.backend.timeout`.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
/// How a question ended; a metric label each.
const RESULTS: [&str; 4] = ["found", "not_found", "failed", "timeout"];

impl Keys {
    /// Without a back end, until one is set; and where the shards leave their questions.
    pub(super) fn new() -> (Self, impl Fn(KeyQuestion) + Send + Sync + 'static, mpsc::Receiver<KeyQuestion>) {
        let answers =
            Opts::new("hairpin_key_answers_total", "Questions put to the back end that keeps keys, by result.");
        let answers = IntCounterVec::new(answers, &["result"]).expect("constants");
        RESULTS.iter().for_each(|result| drop(answers.with_label_values(&[result])));
        let help = "Time that questions to the back end have taken, answered or not.";
        let seconds = HistogramOpts::new("hairpin_key_answer_seconds", help).buckets(SECONDS.into());
        let seconds = HistogramVec::new(seconds, &["backend"]).expect("constants");
        KeyBackendKind::ALL.iter().for_each(|kind| drop(seconds.with_label_values(&[kind.label()])));
        let shared = Shared { active: Mutex::new(None), warned: Mutex::new(None), answers, seconds };
        let (entrance, questions) = mpsc::channel(QUESTIONS_MAX);
        // What does not fit is dropped, which answers it.
        let ask = move |question| drop(entrance.try_send(question));
        (Self(Arc::new(shared)), ask, questions)
    }

    pub(super) fn register(&self, registry: &Registry) {
        registry.register(Box::new(self.0.answers.clone())).expect("another name");
        registry.register(Box::new(self.0.seconds.clone())).expect("another name");
    }

    /// From now on this back end is asked. Nothing is connected to yet.
    pub(super) fn set(&self, backend: Option<&KeyBackend>) {
        let mut active = self.0.active.lock().unwrap_or_else(PoisonError::into_inner);
        if active.as_ref().map(|active| &active.backend) == backend {
            return;
        }
        *active = backend.and_then(|backend| match open(backend) {
            Ok(source) => {
                let permits = Semaphore::new(backend.concurrent);
                Some(Arc::new(Active { backend: backend.clone(), source, permits }))
            }
            Err(why) => {
                error!(event = "key_backend_unusable", why, "every user kept there is answered 500");
                None
            }
        });
    }

    /// Answers questions until there are no shards left to ask any.
    pub(super) async fn run(self, mut questions: mpsc::Receiver<KeyQuestion>) {
        while let Some(question) = questions.recv().await {
            let active = self.0.active.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // Dropped, a question is answered with that it cannot be.
            if let Some(active) = active {
                let shared = Arc::clone(&self.0);
                tokio::spawn(async move { shared.answer(&active, question).await });
            }
        }
    }
}

impl Shared {
    async fn answer(&self, active: &Active, question: KeyQuestion) {
        let begun = Instant::now();
        let asking = async {
            let _permit = active.permits.acquire().await;
            active.source.find(&question.realm, &question.who).await
        };
        let found = timeout_at(begun + active.backend.timeout, asking).await;
        let (result, answer) = match found {
            Ok(Ok(Some(record))) => match record.keys(&question.who, &question.realm, active.backend.saslprep) {
                Ok(user) => ("found", KeyAnswer::Found(Arc::new(user))),
                Err(why) => {
                    self.warn(why);
                    ("failed", KeyAnswer::Unavailable)
                }
            },
            Ok(Ok(None)) => ("not_found", KeyAnswer::NotFound),
            Ok(Err(why)) => {
                self.warn(&why);
                ("failed", KeyAnswer::Unavailable)
            }
            Err(_) => {
                self.warn("it did not answer in time");
                ("timeout", KeyAnswer::Unavailable)
            }
        };
        self.answers.with_label_values(&[result]).inc();
        let seconds = self.seconds.with_label_values(&[active.backend.kind.label()]);
        seconds.observe(begun.elapsed().as_secs_f64());
        question.answer(answer);
    }

    fn warn(&self, why: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|warned| warned.elapsed() >= WARNING_PAUSE) {
            *warned = Some(Instant::now());
            warn!(event = "key_backend_failed", why, "users kept there are answered 500, or by what is remembered");
        }
    }
}

fn open(backend: &KeyBackend) -> Result<Box<dyn KeySource>, String> {
    // Several libraries look for it; a second one is refused, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match backend.kind {
        #[cfg(feature = "sqlite")]
        KeyBackendKind::Sqlite => Ok(Box::new(sql::sqlite(backend)?)),
        #[cfg(feature = "postgres")]
        KeyBackendKind::Postgres => Ok(Box::new(sql::postgres(backend)?)),
        #[cfg(feature = "mysql")]
        KeyBackendKind::Mysql => Ok(Box::new(sql::mysql(backend)?)),
        #[cfg(feature = "redis")]
        KeyBackendKind::Redis => Ok(Box::new(redis::RedisSource::new(backend)?)),
        KeyBackendKind::Http => Ok(Box::new(http::HttpSource::new(backend)?)),
        #[allow(unreachable_patterns, reason = "depends on the features of the build")]
        kind => Err(format!("this build has no {kind:?}")),
    }
}
