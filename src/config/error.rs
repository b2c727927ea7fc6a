//! What is wrong with a configuration, said so that it can be put right without reading the source.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::Utf8Error;

/// Where in a file, both counted from 1; the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Position {
    /// The position of a byte offset. An offset beyond the end is the end.
    pub fn of(bytes: &[u8], offset: usize) -> Self {
        let before = &bytes[..offset.min(bytes.len())];
        let start_of_line = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Self {
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            column: 1 + String::from_utf8_lossy(&before[start_of_line..]).chars().count(),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, unless it is about something that is not in the file.
    pub position: Option<Position>,
    /// The key, like `auth.users[0].name`; empty if the text is not TOML at all.
    pub key: String,
    /// What is wrong, as a statement.
    pub wrong: String,
    /// What to do about it.
    pub fix: String,
}

/// Everything that is wrong, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    file: Option<PathBuf>,
    problems: Vec<Problem>,
}

impl Errors {
    /// Sorts them by position.
    pub(super) fn new(file: Option<&Path>, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.position);
        Self { file: file.map(Path::to_owned), problems }
    }

    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        let fix = match error.kind() {
            io::ErrorKind::NotFound => "give the path of an existing file, or leave --config out to run with defaults",
            io::ErrorKind::PermissionDenied => "let the user that runs hairpin read the file",
            _ => "give the path of a readable TOML file",
        };
        Self::whole_file(path, format!("cannot be read: {error}"), fix)
    }

    pub(super) fn not_text(path: &Path, bytes: &[u8], error: &Utf8Error) -> Self {
        let mut errors = Self::whole_file(path, "is not UTF-8 text".into(), "save the file as UTF-8");
        errors.problems[0].position = Some(Position::of(bytes, error.valid_up_to()));
        errors
    }

    fn whole_file(path: &Path, wrong: String, fix: &str) -> Self {
        let problem = Problem { position: None, key: String::new(), wrong, fix: fix.into() };
        Self::new(Some(path), vec![problem])
    }

    /// All of them.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

/// `FILE:LINE:COLUMN: KEY: what is wrong`, then an indented line with the remedy; several are set apart by a line end.
impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match &self.file {
                Some(file) => write!(f, "{}", file.display())?,
                None => f.write_str("built-in defaults")?,
            }
            if let Some(Position { line, column }) = problem.position {
                write!(f, ":{line}:{column}")?;
            }
            f.write_str(": ")?;
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            write!(f, "{}\n    fix: {}", problem.wrong, problem.fix)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Something allowed that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The key it is about.
    pub key: &'static str,
    /// A whole sentence or two.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "a = 1\nüb = 2\n".as_bytes();
        assert_eq!(Position::of(text, 0), Position { line: 1, column: 1 });
        assert_eq!(Position::of(text, 6), Position { line: 2, column: 1 });
        assert_eq!(Position::of(text, 9), Position { line: 2, column: 3 });
        assert_eq!(Position::of(text, 99), Position { line: 3, column: 1 });
    }
}
