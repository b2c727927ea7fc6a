//! Printing for people. Where they stop reading (`netlab test | head`), the program ends as it would by Ctrl-C: quietly,
//! and with nothing left behind.

use std::fmt;
use std::io::{ErrorKind, Write};

use crate::session::end_at_once;

/// The exit code of a program that nobody listens to any more, as shells have it: 128 and SIGPIPE.
const NOBODY_READS: i32 = 141;

/// Prints a line to the standard output, for [`say!`](crate::say). Does not return if nobody reads it.
pub fn print_line(line: fmt::Arguments<'_>) {
    let mut output = std::io::stdout().lock();
    let Err(error) = writeln!(output, "{line}").and_then(|()| output.flush()) else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        end_at_once(NOBODY_READS);
    }
    let _ = writeln!(std::io::stderr(), "netlab: cannot print: {error}");
    end_at_once(1);
}

/// As [`println!`], but a reader that has gone away is no reason to panic: see [`terminal`](crate::terminal).
#[macro_export]
macro_rules! say {
    () => { $crate::terminal::print_line(format_args!("")) };
    ($($arguments:tt)+) => { $crate::terminal::print_line(format_args!($($arguments)+)) };
}
