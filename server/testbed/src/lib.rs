//! Servers that misbehave on purpose, each in one known way and with an account of it.
//!
//! A harness that reports zero failures is worth as much as its worst day: whether it would have seen one. The
//! saboteurs are its negative controls. Each is a plain HTTP/1.1 server, on threads and raw TCP so that no HTTP library
//! repairs what is broken on purpose, and apart from its one [`Sabotage`] it behaves: it answers `hello world`, keeps
//! connections alive, and leaves after a lame-duck period in which every answer says `Connection: close`.
//!
//! The modules, in the order of the way of a request:
//!
//! - [`sabotage`]: what goes wrong and when, as data; decides, touches nothing.
//! - [`server`]: the listener, the connections, the signals and the end; carries out what was decided.
//! - [`http`]: as much of RFC 9112 as that takes.
//! - [`account`]: JSON lines on stdout: what was done to how many requests, to be held against a harness' report.
//!
//! The testbed's server, which loses nothing on purpose, is the binary `hitless-server`.

#[cfg(feature = "saboteur")]
pub mod account;
#[cfg(feature = "saboteur")]
pub mod http;
#[cfg(feature = "saboteur")]
pub mod sabotage;
#[cfg(feature = "saboteur")]
pub mod server;

#[cfg(feature = "saboteur")]
pub use sabotage::Sabotage;
#[cfg(feature = "saboteur")]
pub use server::{Settings, run};
