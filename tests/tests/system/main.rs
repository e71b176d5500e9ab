//! Whole-system tests: real containers on a real engine, real connections, and the `hitless` binary as people run it.
//!
//! The names of the tests are claims, and a file is about one kind of claim. A test begins with [`lab::run`], which
//! gives it an engine, a port and a place for its files, and takes away whatever it leaves. Without an engine every test
//! fails with one line that says so; none is skipped.
//!
//! All of it is one binary, so that the images and the `hitless` binary are made once.

#![expect(clippy::unwrap_used, reason = "a step of a test that fails ends the test")]

// What the tests stand on.
mod artifacts;
mod client;
mod hitless;
mod lab;
mod own_image;
mod replica;

// What they claim.
mod bad_environment;
mod busy;
mod clean_up;
mod compose;
mod exit_codes;
mod handover;
mod presets;
mod processes;
mod saboteurs;
mod server;
mod story;
mod witness;
