//! What this machine says: `/proc`, netlink, this process's limits, the container engine.

pub mod conntrack;
pub mod engine;
pub mod kernel;
pub mod limits;
pub mod listeners;
mod namespace;
pub(crate) use namespace::{is_shared, listening_ports};
pub mod owner;
pub mod watch;
