//! `stun:` and `turn:` URIs: reading never panics, and what was read is written so that it reads the same.

#![no_main]

use hairpin::cli::uri::{Host, Uri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(uri) = text.parse::<Uri>() else {
        // What it says is for people.
        assert!(!text.parse::<Uri>().expect_err("as before").to_string().is_empty());
        return;
    };
    assert_ne!(uri.port, Some(0));
    assert!(uri.is_turn || uri.transport.is_none(), "URI-7065-3-03");
    if let Host::Name(name) = &uri.host {
        assert!(name.is_ascii() && !name.is_empty() && name.len() <= 253, "{name:?} is no name for DNS");
        assert!(!name.contains(['/', '?', '#', '@', ':', '[', ']', ' ', '%']), "{name:?}");
    }
    let again = uri.to_string();
    assert_eq!(again.parse::<Uri>().as_ref(), Ok(&uri), "{text:?} became {again:?}");
});
