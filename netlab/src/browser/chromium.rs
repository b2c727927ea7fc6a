//! How Chromium is run.

use std::io::{PipeReader, PipeWriter};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use command_fds::{CommandFdExt, FdMapping};

/// Names it goes by. Debian's real executable first: the `chromium` in PATH is a shell script around it.
pub(super) const NAMES: &[&str] = &["/usr/lib/chromium/chromium", "chromium", "chromium-browser", "google-chrome"];

/// Where it looks for its certificate store, below its home.
pub(super) const TRUST: &str = ".pki/nssdb";

/// No window, no sandbox (it needs privileges a lab in a user namespace cannot give; the only pages it sees are ours),
/// no traffic of its own, and fake devices that are granted without asking.
const FLAGS: &[&str] = &[
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-breakpad",
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--window-size=1120,940",
    "--enable-logging=stderr",
];

/// Adds what Chromium needs, and makes the pipes for its DevTools.
pub(super) fn prepare(
    command: &mut Command,
    home: &Path,
    url: &str,
    proxy: Option<&str>,
) -> Result<(PipeWriter, PipeReader)> {
    let (commands_out, commands_in) = std::io::pipe().context("cannot make a pipe")?;
    let (answers_out, answers_in) = std::io::pipe().context("cannot make a pipe")?;
    command.args(FLAGS).arg(format!("--user-data-dir={}", home.join("profile").display()));
    command.arg(match proxy {
        Some(proxy) => format!("--proxy-server=http://{proxy}"),
        None => "--no-proxy-server".to_owned(),
    });
    command.arg(url);
    command.fd_mappings(vec![
        FdMapping { parent_fd: commands_out.into(), child_fd: 3 },
        FdMapping { parent_fd: answers_in.into(), child_fd: 4 },
    ])?;
    Ok((commands_in, answers_out))
}
