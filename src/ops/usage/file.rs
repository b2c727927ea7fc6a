//! Records as lines of a file, which is put aside when it has grown.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::UsageFile;

pub(super) struct FileSink {
    settings: UsageFile,
    open: Option<File>,
}

impl FileSink {
    pub(super) const fn new(settings: UsageFile) -> Self {
        Self { settings, open: None }
    }

    /// Somebody has put it aside, or will.
    pub(super) fn reopen(&mut self) {
        self.open = None;
    }

    /// Appends lines, and waits for the disk.
    pub(super) async fn deliver(&mut self, records: Vec<Box<[u8]>>) -> Result<(), String> {
        let (settings, open) = (self.settings.clone(), self.open.take());
        let write = move || append(&settings, open, &records);
        let written = tokio::task::spawn_blocking(write).await.map_err(|error| error.to_string())?;
        self.open = Some(written.map_err(|error| format!("{}: {error}", self.settings.path.display()))?);
        Ok(())
    }
}

fn append(settings: &UsageFile, open: Option<File>, records: &[Box<[u8]>]) -> io::Result<File> {
    let mut file = match open {
        Some(file) => file,
        None => open_at(&settings.path)?,
    };
    let before = file.metadata()?.len();
    if settings.rotate_bytes.is_some_and(|most| before >= most) {
        put_aside(&settings.path, settings.keep)?;
        file = open_at(&settings.path)?;
    }
    let before = file.metadata()?.len();
    let mut lines = Vec::with_capacity(records.iter().map(|record| record.len() + 1).sum());
    for record in records {
        lines.extend_from_slice(record);
        lines.push(b'\n');
    }
    if let Err(error) = file.write_all(&lines) {
        // The next attempt begins a line of its own.
        file.set_len(before)?;
        return Err(error);
    }
    file.sync_data()?;
    Ok(file)
}

fn open_at(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().append(true).read(true).create(true).mode(0o640).open(path)?;
    // A crash may have left half a line, which will come again as a whole one.
    let len = file.metadata()?.len();
    if len > 0 {
        let mut last = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut last, len - 1)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// `x` becomes `x.1`, `x.1` becomes `x.2`, and so on up to `keep`; the oldest is overwritten.
fn put_aside(path: &Path, keep: usize) -> io::Result<()> {
    let name = |number: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let is_there = (1..=keep).take_while(|number| name(*number).exists()).count();
    for number in (1..=is_there.min(keep - 1)).rev() {
        fs::rename(name(number), name(number + 1))?;
    }
    fs::rename(path, name(1))
}
