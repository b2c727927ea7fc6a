//! What the writer and the readers of the spool share: which files there are, and how far each reader has come.
//!
//! A spool is a directory with files `NUMBER.jsonl`, of which only the last grows, and one `SINK.cursor` for each receiver:
//! file, byte and nothing else. A cursor is saved after the receiver has what is before it; an older one, or none, only
//! means that something is delivered twice. Files that all readers are through with are removed.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::deliver::SinkKind;
use super::figures::{Drop, Figures};

/// A place in the spool: the file's number, and a byte in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cursor {
    pub file: u64,
    pub byte: u64,
}

/// One file. Records are counted from the oldest that was there at the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub number: u64,
    pub first: u64,
    pub bytes: u64,
}

pub(super) struct Spool {
    directory: PathBuf,
    figures: Arc<Figures>,
    state: Mutex<State>,
    /// Where written records end.
    head: watch::Sender<Cursor>,
}

struct State {
    segments: VecDeque<Segment>,
    /// All records, written ones included.
    written: u64,
    readers: Vec<Place>,
}

struct Place {
    kind: SinkKind,
    cursor: Cursor,
    /// Records it is through with.
    done: u64,
}

impl Spool {
    /// `count` tells how many records a file has before a byte.
    pub(super) fn new(
        directory: &Path,
        segments: VecDeque<Segment>,
        written: u64,
        head: Cursor,
        kinds: &[SinkKind],
        figures: Arc<Figures>,
    ) -> io::Result<Self> {
        let mut readers = Vec::new();
        for kind in kinds {
            let oldest = segments.front().map_or(head, |oldest| Cursor { file: oldest.number, byte: 0 });
            let saved = read_cursor(&directory.join(kind.cursor_file())).unwrap_or_default();
            // One from another spool, or from before files were removed, counts as the nearest there is.
            let cursor = saved.clamp(oldest, head);
            let segment = segments.iter().find(|segment| segment.number == cursor.file);
            let before = match segment {
                Some(segment) => segment.first + count_records(&segment_path(directory, segment.number), cursor.byte)?,
                None => written,
            };
            figures.set_waiting(*kind, written - before);
            readers.push(Place { kind: *kind, cursor, done: before });
        }
        // Whoever is not told any more shall get everything that is there when he is told again.
        for kind in SinkKind::ALL.iter().filter(|kind| !kinds.contains(kind)) {
            let _ = fs::remove_file(directory.join(kind.cursor_file()));
        }
        let state = Mutex::new(State { segments, written, readers });
        Ok(Self { directory: directory.to_owned(), figures, state, head: watch::Sender::new(head) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Changes whenever there is more to read.
    pub(super) fn head(&self) -> watch::Receiver<Cursor> {
        self.head.subscribe()
    }

    /// Where a reader goes on.
    pub(super) fn place(&self, kind: SinkKind) -> Cursor {
        self.state().readers.iter().find(|place| place.kind == kind).map(|place| place.cursor).unwrap_or_default()
    }

    /// The first file after this one, if it has been begun.
    pub(super) fn next_file(&self, number: u64) -> Option<u64> {
        self.state().segments.iter().map(|segment| segment.number).find(|found| *found > number)
    }

    /// The most that any receiver has not got yet.
    pub(super) fn waiting_max(&self) -> u64 {
        let state = self.state();
        state.readers.iter().map(|place| state.written - place.done).max().unwrap_or_default()
    }

    /// A file was begun, with `bytes` of a checkpoint in it.
    pub(super) fn begun(&self, number: u64, bytes: u64) {
        let mut state = self.state();
        let first = state.written;
        state.segments.push_back(Segment { number, first, bytes });
        self.head.send_replace(Cursor { file: number, byte: bytes });
        self.remove_read(&mut state);
    }

    /// So many records were appended to the last file.
    pub(super) fn appended(&self, bytes: u64, records: u64) {
        let mut state = self.state();
        state.written += records;
        if let Some(last) = state.segments.back_mut() {
            last.bytes += bytes;
        }
        self.show_waiting(&state);
        self.head.send_modify(|head| head.byte += bytes);
    }

    /// A receiver has got so many records, and everything before this place.
    pub(super) fn acknowledge(&self, kind: SinkKind, cursor: Cursor, records: u64) -> io::Result<()> {
        self.figures.delivered(kind, records);
        let path = self.directory.join(kind.cursor_file());
        let aside = path.with_extension("cursor.new");
        let saved = fs::write(&aside, format!("{} {}\n", cursor.file, cursor.byte));
        let saved = saved.and_then(|()| fs::rename(&aside, &path));
        let mut state = self.state();
        if let Some(place) = state.readers.iter_mut().find(|place| place.kind == kind) {
            place.done += records;
            place.cursor = cursor;
        }
        self.remove_read(&mut state);
        saved
    }

    /// Takes note that a reader was overtaken: the file it was in is gone, and it goes on at another.
    pub(super) fn skip(&self, kind: SinkKind, to: u64) -> Cursor {
        let cursor = Cursor { file: to, byte: 0 };
        let mut state = self.state();
        let first = state.segments.iter().find(|segment| segment.number == to).map(|segment| segment.first);
        if let Some(place) = state.readers.iter_mut().find(|place| place.kind == kind) {
            place.cursor = cursor;
            place.done = first.unwrap_or(place.done).max(place.done);
        }
        self.show_waiting(&state);
        cursor
    }

    /// Removes the oldest files until there is room for so many bytes more; never the last one.
    pub(super) fn make_room(&self, bytes: u64, bytes_max: u64) {
        let mut state = self.state();
        let total = |state: &State| state.segments.iter().map(|segment| segment.bytes).sum::<u64>();
        while state.segments.len() > 1 && total(&state) + bytes > bytes_max {
            let oldest = state.segments.pop_front().expect("there are two");
            let end = state.segments[0].first;
            let done = state.readers.iter().map(|place| place.done).min().unwrap_or(end);
            self.figures.dropped(Drop::SpoolFull, end.saturating_sub(done.max(oldest.first)));
            self.remove(oldest.number);
        }
    }

    fn remove_read(&self, state: &mut State) {
        let needed = state.readers.iter().map(|place| place.cursor.file).min().unwrap_or(u64::MAX);
        while state.segments.len() > 1 && state.segments[0].number < needed {
            let read = state.segments.pop_front().expect("there are two");
            self.remove(read.number);
        }
        self.show_waiting(state);
    }

    fn remove(&self, number: u64) {
        // One that stays is found at the next start.
        let _ = fs::remove_file(segment_path(&self.directory, number));
    }

    fn show_waiting(&self, state: &State) {
        for place in &state.readers {
            self.figures.set_waiting(place.kind, state.written.saturating_sub(place.done));
        }
    }
}

pub(super) fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016}.jsonl"))
}

fn read_cursor(path: &Path) -> Option<Cursor> {
    let text = fs::read_to_string(path).ok()?;
    let (file, byte) = text.strip_suffix('\n')?.split_once(' ')?;
    Some(Cursor { file: file.parse().ok()?, byte: byte.parse().ok()? })
}

/// Records, checkpoints left out, in the first bytes of a file.
pub(super) fn count_records(path: &Path, bytes: u64) -> io::Result<u64> {
    use std::io::{BufRead as _, Read as _};
    let mut file = io::BufReader::new(fs::File::open(path)?).take(bytes);
    let mut line = Vec::new();
    let mut count = 0;
    while file.read_until(b'\n', &mut line)? > 0 {
        count += u64::from(line.ends_with(b"\n") && !line.starts_with(super::record::LIVE_PREFIX));
        line.clear();
    }
    Ok(count)
}
