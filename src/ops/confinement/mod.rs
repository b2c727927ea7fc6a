//! What the process gives up once its sockets are open: the rights of root, and system calls that a relay has no use for.
//!
//! Whoever finds a way to run code in a server that faces the Internet then has no rights to misuse, can start no program
//! and trace none. Everything here holds for all threads and cannot be taken back.

mod system_calls;

use std::fmt;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Group, Uid, User, geteuid, setgroups, setresgid, setresuid};
use tracing::{info, warn};

use crate::config::Confinement;

/// The user to become, looked up while that is still possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    user: Option<(Uid, Gid)>,
    filter: bool,
}

/// Why the process cannot be confined as configured.
#[derive(Debug)]
pub enum ConfinementError {
    /// No such user.
    NoUser(String),
    /// No such group.
    NoGroup(String),
    /// The name is that of root.
    Root(String),
    /// Only root can become somebody else.
    NotRoot(String),
    /// The kernel said no.
    Kernel(&'static str, Errno),
}

impl fmt::Display for ConfinementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUser(name) => write!(
                f,
                "process.user: there is no user {name:?} on this machine\n    fix: make one (useradd --system \
                 --shell /usr/sbin/nologin {name}), or write the name of another"
            ),
            Self::NoGroup(name) => {
                write!(f, "process.group: there is no group {name:?} on this machine\n    fix: write another, or none")
            }
            Self::Root(name) => write!(
                f,
                "process.user: {name:?} is root, whose rights are what there is to give up\n    fix: write the name of a \
                 user without rights"
            ),
            Self::NotRoot(name) => write!(
                f,
                "process.user: only root can become {name:?}\n    fix: start hairpin as root, or leave the key out and \
                 start it as that user"
            ),
            Self::Kernel(what, errno) => write!(f, "process.user: {what} failed: {}", errno.desc()),
        }
    }
}

impl Rights {
    /// To be called before any other thread exists: from here on no program that this process might start could gain
    /// rights by set-user-id bits.
    pub(super) fn look_up(confinement: &Confinement) -> Result<Self, ConfinementError> {
        if let Err(errno) = prctl::set_no_new_privs() {
            warn!(event = "no_new_privileges_failed", error = errno.desc());
        }
        let user = confinement.user.as_deref().map(|name| account(name, confinement.group.as_deref())).transpose()?;
        Ok(Self { user, filter: confinement.filter_system_calls })
    }

    /// Whom the process will become, if it does: files that are to be used then are to be this user's.
    pub(super) const fn user(&self) -> Option<(Uid, Gid)> {
        self.user
    }

    /// To be called when all sockets that need rights are open, and what relays in the kernel is loaded, if it does.
    pub(super) fn give_up(&self, has_offload: bool) -> Result<(), ConfinementError> {
        if let Some((user, group)) = self.user {
            become_user(user, group)?;
        }
        // Without a filter the server is as safe as others are; older kernels and some containers know none.
        let filter = match self.filter.then(|| system_calls::refuse_all_others(has_offload)) {
            None => "off",
            Some(Ok(())) => "on",
            Some(Err(error)) => {
                warn!(event = "system_call_filter_failed", key = "process.filter_system_calls", %error);
                "unavailable"
            }
        };
        info!(event = "confined", user = geteuid().as_raw(), filter_system_calls = filter);
        Ok(())
    }
}

fn account(name: &str, group: Option<&str>) -> Result<(Uid, Gid), ConfinementError> {
    let user = User::from_name(name).ok().flatten().ok_or_else(|| ConfinementError::NoUser(name.to_owned()))?;
    if user.uid.is_root() {
        return Err(ConfinementError::Root(name.to_owned()));
    }
    let group = match group {
        None => user.gid,
        Some(group) => {
            let found = Group::from_name(group).ok().flatten();
            found.ok_or_else(|| ConfinementError::NoGroup(group.to_owned()))?.gid
        }
    };
    if !geteuid().is_root() && (geteuid(), nix::unistd::getegid()) != (user.uid, group) {
        return Err(ConfinementError::NotRoot(name.to_owned()));
    }
    Ok((user.uid, group))
}

fn become_user(user: Uid, group: Gid) -> Result<(), ConfinementError> {
    if geteuid() == user {
        return Ok(());
    }
    let step = |what| move |errno| ConfinementError::Kernel(what, errno);
    // In this order: without root's rights the groups would stay.
    setgroups(&[]).map_err(step("leaving all supplementary groups"))?;
    setresgid(group, group, group).map_err(step("changing the group"))?;
    setresuid(user, user, user).map_err(step("changing the user"))?;
    if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err(ConfinementError::Kernel("giving up root for good", Errno::EPERM));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confinement(user: &str, group: Option<&str>) -> Confinement {
        Confinement { user: Some(user.into()), group: group.map(Into::into), filter_system_calls: false }
    }

    #[test]
    fn names_are_looked_up_and_root_is_nobody_to_become() {
        let missing = Rights::look_up(&confinement("no-such-user-of-hairpin", None)).unwrap_err();
        assert!(missing.to_string().contains("useradd --system"), "{missing}");
        let root = Rights::look_up(&confinement("root", None)).unwrap_err();
        assert!(matches!(root, ConfinementError::Root(_)), "{root}");
        let group = Rights::look_up(&confinement("nobody", Some("no-such-group-of-hairpin"))).unwrap_err();
        assert!(matches!(group, ConfinementError::NoGroup(_)), "{group}");
        let found = Rights::look_up(&confinement("nobody", None));
        if geteuid().is_root() {
            assert!(found.unwrap().user.is_some());
        } else {
            assert!(matches!(found, Err(ConfinementError::NotRoot(_))));
        }
    }
}
