//! The secret of a server that was given none: made up once, and kept for the next start and for `hairpin credentials`.
//!
//! It lies in a file that only its owner can read, below the directory that the system provides for such things. It is
//! made when a command needs it, never by merely looking at a configuration.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Config;
use crate::turn::SharedSecret;

const FILE_NAME: &str = "secret";
/// Made ones have 64 bytes; anything this short was cut off.
const SECRET_BYTES_MIN: usize = 16;

/// Replaces the made-up secret of a configuration by the one that is kept, which is made now if there is none.
/// Returns where it is kept.
///
/// # Errors
/// What went wrong, in words; the configuration keeps the secret it had.
pub fn keep_secret(config: &mut Config) -> Result<PathBuf, String> {
    let directory = state_directory(|name| std::env::var_os(name))
        .ok_or("neither STATE_DIRECTORY nor XDG_STATE_HOME nor HOME says where to keep things")?;
    let path = directory.join(FILE_NAME);
    let secret = read_or_make(&directory, &path).map_err(|error| format!("{}: {error}", path.display()))?;
    Arc::make_mut(&mut config.shards.turn).credentials.secrets = vec![secret];
    Ok(path)
}

/// Where this user's programs keep what they must remember: what systemd says, or the XDG base directory.
pub(super) fn state_directory(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let given = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    given("STATE_DIRECTORY")
        .or_else(|| given("XDG_STATE_HOME").map(|path| path.join("hairpin")))
        .or_else(|| given("HOME").map(|path| path.join(".local/state/hairpin")))
}

fn read_or_make(directory: &Path, path: &Path) -> io::Result<SharedSecret> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // Written aside and then linked, so that nobody ever reads half of it and of two that make one the first wins.
    let aside = directory.join(format!("{FILE_NAME}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    let linked = writeln!(file, "{hex}").and_then(|()| file.sync_all()).and_then(|()| fs::hard_link(&aside, path));
    fs::remove_file(&aside)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => read(path),
    }
}

fn read(path: &Path) -> io::Result<SharedSecret> {
    let bytes = fs::read(path)?;
    let secret = bytes.trim_ascii_end();
    if secret.len() < SECRET_BYTES_MIN {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "too short for a secret; remove it to have a new one made",
        ));
    }
    Ok(SharedSecret(secret.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("hairpin-kept-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_secret_is_made_once_and_only_its_owner_can_read_it() {
        let scratch = Scratch::new("once");
        let path = scratch.0.join("a/b").join(FILE_NAME);
        let first = read_or_make(path.parent().unwrap(), &path).unwrap();
        assert_eq!(first.0.len(), 64);
        assert_eq!(read_or_make(path.parent().unwrap(), &path).unwrap(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_damaged_secret_is_neither_used_nor_replaced() {
        let scratch = Scratch::new("damaged");
        fs::create_dir_all(&scratch.0).unwrap();
        let path = scratch.0.join(FILE_NAME);
        fs::write(&path, "short\n").unwrap();
        assert!(read_or_make(&scratch.0, &path).unwrap_err().to_string().contains("too short"));
        assert_eq!(fs::read(&path).unwrap(), b"short\n");
    }

    #[test]
    fn the_directory_is_the_systems_then_the_users() {
        let at = |known: &[(&str, &str)]| {
            let known: Vec<(String, String)> = known.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
            state_directory(|name| known.iter().find(|(key, _)| key == name).map(|(_, value)| value.into()))
        };
        assert_eq!(at(&[("STATE_DIRECTORY", "/var/lib/hairpin"), ("HOME", "/root")]), Some("/var/lib/hairpin".into()));
        assert_eq!(at(&[("XDG_STATE_HOME", "/x"), ("HOME", "/root")]), Some("/x/hairpin".into()));
        assert_eq!(at(&[("XDG_STATE_HOME", "x"), ("HOME", "/root")]), Some("/root/.local/state/hairpin".into()));
        assert_eq!(at(&[]), None);
    }
}
