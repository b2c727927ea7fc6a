//! The text of a configuration file: it never panics, and whatever is wrong with it has a place and a remedy.
//!
//! Input: the text. A configuration that is accepted must be one that the machine can be made with.

#![no_main]

use std::path::Path;
use std::sync::Arc;

use hairpin::config::{Machine, Position, check_text};
use hairpin::turn::{Server, ShardIndex};
use libfuzzer_sys::fuzz_target;

fn machine() -> Machine {
    Machine {
        cores: 2,
        interfaces: vec!["127.0.0.1".parse().expect("an address"), "10.0.0.5".parse().expect("an address")],
        default_routes: vec!["10.0.0.5".parse().expect("an address")],
        can_bind: |ip| ip.is_ipv4(),
        is_another: false,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    // Paths in it lead into a folder that is not there.
    let file = Path::new("/nonexistent/hairpin/hairpin.toml");
    if text.contains("/dev/") || text.contains("..") {
        return;
    }
    match check_text(text, Some(file), &machine()) {
        Ok(config) => {
            let count = config.shards.count;
            assert!(count > 0);
            let mut server =
                Server::new(Arc::clone(&config.shards.turn), ShardIndex { index: count - 1, count }, [7; 32]);
            server.check_invariants();
        }
        Err(errors) => {
            assert!(!errors.problems().is_empty());
            let end = Position::of(bytes, bytes.len());
            for problem in errors.problems() {
                let at = problem.position.unwrap_or_else(|| panic!("no place: {problem:?}"));
                assert!((1..=end.line).contains(&at.line) && at.column >= 1, "{at:?} is outside");
                assert!(!problem.wrong.is_empty() && !problem.fix.is_empty(), "{problem:?}");
            }
            assert!(errors.to_string().starts_with("/nonexistent/hairpin/hairpin.toml:"));
        }
    }
});
