//! Room for one file descriptor per allocation and connection.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::config::Config;

/// Listeners, epoll, logs, the admin port.
const OTHERS: u64 = 256;

/// Raises the limit of this process as far as it may, and says if that is not enough for what is configured.
pub(super) fn make_room(config: &Config) {
    let settings = &config.shards;
    // An allocation with both families has two sockets, but few have.
    let wanted = settings.quotas.allocations as u64 + settings.connections.total as u64 + OTHERS;
    // Each has a second one towards the web server.
    let passes_on = settings.listen.iter().any(|entry| entry.options.pass_through.is_some());
    let wanted = wanted + if passes_on { config.pass_through.connections as u64 } else { 0 };
    let wanted = wanted + settings.turn.relay_transports.tcp.as_ref().map_or(0, |_| settings.peer_connections as u64);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let granted = if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    info!(event = "file_descriptors", granted, wanted);
    if granted < wanted {
        warn!(
            event = "file_descriptors_missing",
            granted,
            wanted,
            "limits.allocations and limits.connections cannot be reached: raise the limit of open files (systemd: \
             LimitNOFILE), or lower them"
        );
    }
}
