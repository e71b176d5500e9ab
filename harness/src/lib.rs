//! Rolls containers under HTTP load and says which requests were lost, when, and why.
//!
//! The data flows one way:
//!
//! ```text
//! Options -> Scenario -> experiment::run(Runtime) -> Recording -> Summary -> Judgement -> Report -> sinks -> exit code
//!                          | rollout (events)   \
//!                          | load (observations) > recorder, one monotonic clock
//! ```
//!
//! A failed request is data ([`model::observation::Outcome::Failed`]), never an error; an error means that the experiment itself
//! could not be carried out.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod analysis;
pub mod artifacts;
pub mod commands;
pub mod compare;
pub mod console;
pub mod experiment;
pub mod host;
pub mod load;
pub mod model;
pub mod options;
pub mod progress;
pub mod record;
pub mod report;
pub mod rollout;
#[cfg(test)]
mod samples;
pub mod scenario;
pub mod stored_report;
