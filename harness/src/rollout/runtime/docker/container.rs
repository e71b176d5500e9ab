//! One replica's container: which it is, and what is known of it.

use std::sync::Arc;

use crate::rollout::runtime::watched::Watched;

/// One replica's container.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) watched: Arc<Watched>,
}
