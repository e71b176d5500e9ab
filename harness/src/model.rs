//! The vocabulary of a run: plain data, no I/O. Imports nothing of the crate.

pub mod budget;
pub mod clock;
pub mod cohort;
pub mod cut_short;
pub mod environment;
pub mod error_chain;
pub mod expectation;
pub mod failed_request;
pub mod failure;
pub mod fresh_connections;
pub mod interference;
pub mod lifecycle;
pub mod listener;
pub mod observation;
pub mod phase;
pub mod restart;
pub mod scenario_info;
pub mod sha256;
pub mod signals;
pub mod sink;
pub mod tally;
