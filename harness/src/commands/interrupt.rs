//! Ctrl-C, SIGTERM and SIGHUP.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::console;

/// Cancelled by the first Ctrl-C, SIGTERM or SIGHUP; the second ends the program at once.
pub(super) fn interrupt() -> CancellationToken {
    let token = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let Ok(mut signals) = signal(kind) else { continue };
        let token = token.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                // Acts first: the terminal may hang.
                let is_second = token.is_cancelled();
                token.cancel();
                if is_second {
                    std::process::exit(128 + kind.as_raw_value());
                }
                // On a thread of its own: nobody may read what is written, and the next signal has to be heard.
                std::thread::spawn(|| {
                    console::note(
                        "interrupted: cleaning up and writing what was seen (again to end at once; then `hitless \
                         clean` removes what is left)",
                    );
                });
            }
        });
    }
    token
}
