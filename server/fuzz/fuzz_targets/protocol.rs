//! The reader of what siblings send: no bytes make it panic, and whatever it takes for a message of its own version is
//! written as those very bytes again.
//!
//! ```sh
//! mkdir -p fuzz/corpus/protocol
//! RUSTC_BOOTSTRAP=1 cargo fuzz run protocol fuzz/corpus/protocol fuzz/seeds/protocol -- -max_total_time=600
//! ```
//!
//! in `server/`: what it finds goes to the first directory, what it begins with is in the second. A nightly compiler needs
//! no `RUSTC_BOOTSTRAP`.

#![no_main]

use hitless_server::handover::protocol::{MAX_MESSAGE, MAX_UNREAD, Message, VERSION};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::decode(bytes) else { return };
    assert!(bytes.len() <= MAX_MESSAGE);
    if let Message::GiveConnection { unread, .. } = &message {
        assert!(unread.len() <= MAX_UNREAD);
    }
    match message {
        // A newer version may add to the end of its hello, and that is not kept.
        Message::Hello { versions, .. } if versions.newest > VERSION => {
            assert!(bytes.starts_with(&message.encode()))
        }
        _ => assert_eq!(message.encode(), bytes),
    }
});
