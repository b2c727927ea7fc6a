//! The reading end of the spool, for one receiver.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom};

use super::deliver::SinkKind;
use super::record::LIVE_PREFIX;
use super::spool::{Cursor, Spool, segment_path};

/// One delivery is not larger than this, unless it is a single record.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What is delivered together.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    /// Whole lines, without their ends.
    pub records: Vec<Box<[u8]>>,
    /// Where to go on afterwards.
    pub end: Cursor,
}

/// Reads the next records, at most `most`, from a place on. An empty batch may end at another place, too.
pub(super) fn read(spool: &Spool, kind: SinkKind, from: Cursor, head: Cursor, most: usize) -> io::Result<Batch> {
    let mut batch = Batch { records: Vec::new(), end: from };
    let mut bytes = 0;
    loop {
        let Cursor { file: number, byte } = batch.end;
        let mut file = match File::open(segment_path(spool.directory(), number)) {
            Ok(file) => BufReader::new(file),
            // Removed because there was no room.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match spool.next_file(number) {
                // What was read belongs to what is not skipped.
                Some(_) if !batch.records.is_empty() => return Ok(batch),
                Some(next) => {
                    batch.end = spool.skip(kind, next);
                    continue;
                }
                None => return Err(error),
            },
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(byte))?;
        loop {
            if batch.records.len() >= most || bytes >= BATCH_BYTES_MAX || batch.end >= head {
                return Ok(batch);
            }
            let mut line = Vec::new();
            let len = file.read_until(b'\n', &mut line)? as u64;
            if len == 0 || !line.ends_with(b"\n") {
                break;
            }
            batch.end.byte += len;
            line.pop();
            if !line.starts_with(LIVE_PREFIX) {
                bytes += line.len();
                batch.records.push(line.into());
            }
        }
        match spool.next_file(number) {
            Some(next) => batch.end = Cursor { file: next, byte: 0 },
            None => return Ok(batch),
        }
    }
}
