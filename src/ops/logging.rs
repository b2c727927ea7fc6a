//! Log lines on the standard error output, as text, logfmt or JSON.
//!
//! A line is one line, whatever is in it: what is neither a letter, a digit nor a plain sign is escaped in each format, so
//! that nobody can write lines of his own or speak to a terminal (abuse S20).

use std::fmt;
use std::io::{self, IsTerminal};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt as lines, reload};

use crate::config::{Log, LogFormat};

/// Changes the least important level that is written.
#[derive(Debug)]
pub struct LogLevel(reload::Handle<LevelFilter, Registry>);

impl LogLevel {
    pub(super) fn set(&self, level: Level) {
        // It fails only when nobody writes lines any more.
        let _ = self.0.reload(LevelFilter::from(level));
    }

    /// `None` when nothing is written.
    pub(super) fn get(&self) -> Option<Level> {
        self.0.clone_current().and_then(|level| level.into_level())
    }
}

/// Sends log lines, those of panics included, where they belong. Only the first call in a process does anything.
pub fn install(log: Log) -> LogLevel {
    let (level, handle) = reload::Layer::new(LevelFilter::from(log.level));
    let registry = tracing_subscriber::registry().with(level);
    let layer = lines::layer().with_writer(io::stderr);
    let installed = match log.format {
        LogFormat::Text => {
            registry.with(layer.with_ansi(io::stderr().is_terminal()).fmt_fields(Text).event_format(plain())).try_init()
        }
        LogFormat::Logfmt => registry.with(layer.event_format(Logfmt)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_current_span(false)).try_init(),
    };
    if installed.is_ok() {
        // A shard that panics is started again; the line about it must not break a stream of JSON.
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current();
            tracing::error!(
                event = "panic",
                thread = thread.name().unwrap_or("?"),
                location = panic.location().map(tracing::field::display),
                message = panic.payload_as_str().unwrap_or("?"),
            );
        }));
    }
    LogLevel(handle)
}

fn plain() -> tracing_subscriber::fmt::format::Format {
    tracing_subscriber::fmt::format::Format::default()
}

/// Fields for people: the message as it is, strings in quotes.
struct Text;

impl<'w> FormatFields<'w> for Text {
    fn format_fields<R: tracing_subscriber::field::RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = Fields { writer, is_first: true, is_text: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

/// `key=value` throughout.
struct Logfmt;

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'w> FormatFields<'w> + 'static> FormatEvent<S, N> for Logfmt {
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writer.write_str("time=")?;
        SystemTime.format_time(&mut writer)?;
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        write!(writer, " level={level} target={} ", event.metadata().target())?;
        let mut visitor = Fields { writer: writer.by_ref(), is_first: true, is_text: false, result: Ok(()) };
        event.record(&mut visitor);
        visitor.result?;
        writeln!(writer)
    }
}

struct Fields<'w> {
    writer: Writer<'w>,
    is_first: bool,
    /// For people; otherwise everything has its key, and quotes only where it needs them.
    is_text: bool,
    result: fmt::Result,
}

impl Fields<'_> {
    fn write(&mut self, field: &Field, value: &str, is_string: bool) {
        if self.result.is_ok() {
            self.result = self.try_write(field.name(), value, is_string);
        }
    }

    fn try_write(&mut self, name: &str, value: &str, is_string: bool) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if self.is_text && name == "message" {
            return self.writer.write_str(&escaped(value));
        }
        let name = if name == "message" { "msg" } else { name };
        let is_bare = !value.is_empty() && value.chars().all(|one| one.is_ascii_graphic() && !"\"=\\".contains(one));
        if if self.is_text { is_string || !is_bare } else { !is_bare } {
            write!(self.writer, "{name}=\"{}\"", escaped(value).replace('"', "\\\""))
        } else {
            write!(self.writer, "{name}={value}")
        }
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, value, field.name() != "message");
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, &format!("{value:?}"), false);
    }
}

/// Without anything that a terminal or a reader of lines obeys.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            '\\' => safe.push_str("\\\\"),
            // Also what turns the direction of writing.
            _ if one.is_control()
                || matches!(one, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}') =>
            {
                safe.extend(one.escape_default());
            }
            _ => safe.push(one),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::info;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'w> MakeWriter<'w> for Written {
        type Writer = Self;

        fn make_writer(&'w self) -> Self {
            self.clone()
        }
    }

    fn written(format: LogFormat, act: impl FnOnce()) -> String {
        let written = Written::default();
        let layer = lines::layer().with_writer(written.clone());
        let registry = tracing_subscriber::registry();
        match format {
            LogFormat::Text => tracing::subscriber::with_default(
                registry.with(layer.with_ansi(false).fmt_fields(Text).event_format(plain())),
                act,
            ),
            LogFormat::Logfmt => tracing::subscriber::with_default(registry.with(layer.event_format(Logfmt)), act),
            LogFormat::Json => {
                tracing::subscriber::with_default(registry.with(layer.json().flatten_event(true)), act);
            }
        }
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    const HOSTILE: &str = "% ' \" \n \0 \u{1b}[31m \u{202e} \\ x=\"y\" event=\"forged\"";

    /// Abuse S20: one call, one line, and nothing that a terminal obeys.
    #[test]
    fn hostile_text_stays_in_its_field_in_every_format() {
        for format in [LogFormat::Text, LogFormat::Logfmt, LogFormat::Json] {
            let text = written(format, || info!(event = "real", name = HOSTILE, shown = %HOSTILE, "and {HOSTILE}"));
            assert_eq!(text.matches('\n').count(), 1, "{format:?}: {text:?}");
            let is_safe = |one: char| one == '\n' || !one.is_control();
            assert!(text.chars().all(is_safe), "{format:?}: {text:?}");
            match format {
                LogFormat::Json => {
                    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                    assert_eq!((value["event"].as_str(), value["name"].as_str()), (Some("real"), Some(HOSTILE)));
                }
                LogFormat::Text | LogFormat::Logfmt => {
                    assert!(text.contains("\\u{1b}[31m") && text.contains("\\u{202e}"), "{text}");
                    assert!(!text.contains(" event=\"forged\"") || text.contains("\\\"forged\\\""), "{text}");
                }
            }
        }
    }

    #[test]
    fn logfmt_quotes_only_what_needs_it() {
        let text = written(
            LogFormat::Logfmt,
            || info!(event = "allocated", lifetime_secs = 600, client = %"192.0.2.1:7", why = "two words", none = "", "hello"),
        );
        let rest = text.split_once(" level=").unwrap().1;
        let expected = "info target=hairpin::ops::logging::tests msg=hello event=allocated lifetime_secs=600 \
                        client=192.0.2.1:7 why=\"two words\" none=\"\"\n";
        assert_eq!(rest, expected);
        assert!(text.starts_with("time=20"), "{text}");
    }

    #[test]
    fn text_is_as_people_know_it() {
        let text = written(LogFormat::Text, || info!(event = "ended", bytes = 7, "a line"));
        let rest = text.split_once("INFO").unwrap().1;
        assert_eq!(rest, " hairpin::ops::logging::tests: a line event=\"ended\" bytes=7\n");
    }
}
