//! What this machine says: `/proc`, netlink, this process's limits, the container engine.

pub mod conntrack;
pub mod engine;
pub mod kernel;
pub mod limits;
pub mod listeners;
mod namespace;
mod sockets;
pub(crate) use namespace::{is_shared, listening_ports};
pub(crate) use sockets::holds_listener;
pub mod owner;
pub mod watch;
