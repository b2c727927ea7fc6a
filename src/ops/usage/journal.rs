//! The writing end of the spool: appends records, begins new files, and finds what was left at the last start.
//!
//! Each file begins with a checkpoint: a line for everything that lives at that time. So the last file alone tells what a
//! server that crashed had left unfinished, and older ones can be removed as soon as they are delivered. A file comes into
//! being with its whole checkpoint, by being renamed.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::deliver::SinkKind;
use super::figures::Figures;
use super::record::{Kind, Record};
use super::spool::{Cursor, Segment, Spool, count_records, segment_path};
use crate::config::Usage as Settings;

/// As parts of all the room there is: with fewer, much would be lost at once when it is full.
const FILES: u64 = 16;
/// A file is not smaller than this.
const FILE_BYTES_MIN: u64 = 64 * 1024;
/// A larger one would take long to read at start.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

pub(super) struct Journal {
    spool: Arc<Spool>,
    bytes_max: u64,
    number: u64,
    file: File,
    /// Of the whole file, and of its checkpoint.
    bytes: u64,
    checkpoint_bytes: u64,
    is_dirty: bool,
    /// Held for as long as the process lives.
    _lock: File,
}

impl Journal {
    /// Opens the spool, or makes one. Returns what was alive at the end of the last server there, unless that has ended
    /// it itself.
    pub(super) fn open(
        settings: &Settings,
        kinds: &[SinkKind],
        figures: Arc<Figures>,
    ) -> io::Result<(Self, Vec<Record>)> {
        let directory = &settings.spool;
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let lock = private(OpenOptions::new().write(true)).open(directory.join("lock"))?;
        lock.try_lock().map_err(|_| io::Error::new(io::ErrorKind::AddrInUse, "another server uses this directory"))?;
        let mut numbers = numbers(directory)?;
        if numbers.is_empty() {
            let number = 1;
            begin(directory, number, &[])?;
            numbers.push(number);
        }
        let last = numbers[numbers.len() - 1];
        let path = segment_path(directory, last);
        let (live, whole) = recover(&path)?;
        let file = OpenOptions::new().append(true).open(&path)?;
        // What a crash has left half written.
        file.set_len(whole)?;
        let mut segments = VecDeque::new();
        let mut records = 0;
        for number in numbers {
            let path = segment_path(directory, number);
            let bytes = fs::metadata(&path)?.len();
            segments.push_back(Segment { number, first: records, bytes });
            records += count_records(&path, bytes)?;
        }
        let head = Cursor { file: last, byte: whole };
        let spool = Arc::new(Spool::new(directory, segments, records, head, kinds, figures)?);
        let journal = Self {
            spool,
            bytes_max: settings.spool_bytes,
            number: last,
            file,
            bytes: whole,
            checkpoint_bytes: 0,
            is_dirty: false,
            _lock: lock,
        };
        Ok((journal, live))
    }

    pub(super) fn spool(&self) -> Arc<Spool> {
        Arc::clone(&self.spool)
    }

    /// Appends whole lines; all of them or none.
    pub(super) fn append(&mut self, lines: &[u8], records: u64) -> io::Result<()> {
        self.spool.make_room(lines.len() as u64, self.bytes_max);
        if let Err(error) = self.file.write_all(lines) {
            // A part of it would run into the next line.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += lines.len() as u64;
        self.is_dirty = true;
        self.spool.appended(lines.len() as u64, records);
        Ok(())
    }

    /// Whether the file is large enough for another to begin.
    pub(super) fn is_full(&self) -> bool {
        let most = (self.bytes_max / FILES).clamp(FILE_BYTES_MIN, FILE_BYTES_MAX);
        self.bytes - self.checkpoint_bytes >= most
    }

    /// Begins another file, with this checkpoint.
    pub(super) fn begin_file(&mut self, checkpoint: &[u8]) -> io::Result<()> {
        self.sync()?;
        let number = self.number + 1;
        self.file = begin(self.spool.directory(), number, checkpoint)?;
        self.number = number;
        self.bytes = checkpoint.len() as u64;
        self.checkpoint_bytes = self.bytes;
        self.spool.begun(number, self.bytes);
        Ok(())
    }

    pub(super) const fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// Waits for the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.is_dirty) { self.file.sync_data() } else { Ok(()) }
    }
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.create(true).truncate(false).mode(0o600)
}

fn begin(directory: &Path, number: u64, checkpoint: &[u8]) -> io::Result<File> {
    let aside = directory.join("next");
    let mut file = private(OpenOptions::new().append(true)).open(&aside)?;
    file.set_len(0)?;
    file.write_all(checkpoint)?;
    file.sync_data()?;
    fs::rename(&aside, segment_path(directory, number))?;
    File::open(directory)?.sync_all()?;
    Ok(file)
}

/// Of the files there are, in order.
fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = PathBuf::from(entry?.file_name());
        let is_segment = path.extension().is_some_and(|extension| extension == "jsonl");
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        numbers.extend(number.filter(|_| is_segment));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// What lives at the end of a file, and how long its whole lines are.
fn recover(path: &Path) -> io::Result<(Vec<Record>, u64)> {
    let mut file = BufReader::new(File::open(path)?);
    let mut live: HashMap<SocketAddr, Record> = HashMap::new();
    let (mut line, mut whole) = (Vec::new(), 0);
    while file.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
        whole += line.len() as u64;
        // After a power failure there may be zeros: nothing that anybody could use.
        if let Ok(record) = serde_json::from_slice::<Record>(&line) {
            match record.kind {
                Kind::Stop => drop(live.remove(&record.relayed)),
                Kind::Start | Kind::Interim | Kind::Live => drop(live.insert(record.relayed, record)),
            }
        }
        line.clear();
    }
    Ok((live.into_values().collect(), whole))
}
