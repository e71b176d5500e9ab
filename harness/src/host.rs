//! What the kernel says: `/proc`, netlink, this process's limits.

pub mod conntrack;
pub mod kernel;
pub mod limits;
pub mod listeners;
pub mod owner;
pub mod watch;
