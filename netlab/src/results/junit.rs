//! JUnit's XML, as GitHub, GitLab and Jenkins read it.

use std::fmt::Write as _;

use super::{Record, Verdict, escaped};
use crate::fault::Recovery;

pub(super) fn document(title: &str, records: &[Record]) -> String {
    let count = |verdict| records.iter().filter(|record| record.verdict == verdict).count();
    let seconds: f64 = records.iter().map(|record| record.seconds).sum();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" \
         time=\"{seconds:.3}\">\n",
        escaped(title),
        records.len(),
        count(Verdict::Failed),
        count(Verdict::Skipped),
    );
    for record in records {
        let _ = write!(
            xml,
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\">",
            escaped(title),
            escaped(&record.name),
            record.seconds
        );
        if let Some(recovery) = &record.recovery {
            properties(&mut xml, recovery);
        }
        let line = escaped(&record.line);
        let _ = match record.verdict {
            Verdict::Passed => write!(xml, "<system-out>{line}</system-out>"),
            Verdict::Failed => write!(xml, "<failure message=\"{line}\">{}</failure>", escaped(&record.sentence)),
            Verdict::Skipped => write!(xml, "<skipped message=\"{line}\"/>"),
        };
        xml.push_str("</testcase>\n");
    }
    xml.push_str("</testsuite>\n");
    xml
}

/// What a fault did to the call and what mended it.
fn properties(xml: &mut String, recovery: &Recovery) {
    let Recovery { fault, silence_milliseconds: silence, freeze_milliseconds: freeze, restarts, cure } = recovery;
    let longest = |both: &[i64; 2]| both[0].max(both[1]).to_string();
    xml.push_str("<properties>");
    for (name, value) in [
        ("fault", fault.clone()),
        ("silence-milliseconds", longest(silence)),
        ("freeze-milliseconds", longest(freeze)),
        ("ice-restarts", restarts.iter().sum::<usize>().to_string()),
        ("cure", cure.to_string()),
    ] {
        let _ = write!(xml, "<property name=\"{name}\" value=\"{}\"/>", escaped(&value));
    }
    xml.push_str("</properties>");
}
