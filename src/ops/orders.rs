//! What operators want of the server's life over the admin API: done between signals, one after the other.

use tokio::sync::oneshot;
use tracing::Level;

use super::admin::Readiness;
use super::reload::Reloaded;
use crate::config::Errors;

/// Orders that wait to be carried out; who comes then is told to come again.
pub(super) const ORDERS_MAX: usize = 16;

/// One of them, and where to say what became of it.
#[derive(Debug)]
pub(super) enum Order {
    /// What SIGHUP asks for.
    Reload(oneshot::Sender<Result<Reloaded, Errors>>),
    /// To let no new allocations in, or to let them in again.
    Drain(bool, oneshot::Sender<Readiness>),
    /// To tell the least important level that is written, and to change it.
    LogLevel(Option<Level>, oneshot::Sender<Option<Level>>),
}
