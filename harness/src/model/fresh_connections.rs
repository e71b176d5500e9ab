//! How the rollout asks the clients to open new connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many new connections clients that keep theirs are asked to open: a replica that comes back meets no request if
/// every client stays where it is.
#[derive(Debug, Clone, Default)]
pub struct FreshConnectionRequests(Arc<AtomicU64>);

impl FreshConnectionRequests {
    /// Asks for one more.
    pub(crate) fn ask(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks for no more.
    pub(crate) fn enough(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Whether whoever asks is to open a new connection; each asking is answered once.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
            && self
                .0
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |wanted| wanted.checked_sub(1))
                .is_ok()
    }
}
