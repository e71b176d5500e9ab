//! The reader of what siblings send: no bytes make it panic, and whatever it takes for a message is written as those very
//! bytes again.
//!
//! `cargo +nightly fuzz run protocol -- -max_total_time=600` in `server/`.

#![no_main]

use hitless_server::handover::protocol::{MAX_MESSAGE, MAX_UNREAD, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::decode(bytes) else { return };
    assert!(bytes.len() <= MAX_MESSAGE);
    if let Message::GiveConnection { unread, .. } = &message {
        assert!(unread.len() <= MAX_UNREAD);
    }
    assert_eq!(message.encode(), bytes);
});
