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
//! [`tools`] belongs to the tests: what a machine lacks for some of them.
//!
//! The whole-system tests themselves are in `tests/tests/system/`.

pub mod account;
pub mod http;
pub mod sabotage;
pub mod server;
pub mod tools;

pub use sabotage::Sabotage;
pub use server::{Settings, run};
