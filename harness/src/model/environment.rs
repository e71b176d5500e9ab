//! The machine that a run happened on.

use serde::{Deserialize, Serialize};

/// The machine that a run happened on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub struct Environment {
    /// `uname -r`.
    pub kernel: String,
    /// `net.ipv4.tcp_migrate_req`, if the kernel has it.
    pub tcp_migrate_req: Option<bool>,
    /// The engine's name and version, or that there is none.
    pub engine: String,
    /// How many CPUs this process may use.
    pub cpus: usize,
}
