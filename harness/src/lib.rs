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

pub mod analysis;
pub mod artifacts;
pub mod clean;
pub mod compare;
pub mod doctor;
pub mod experiment;
pub mod host;
pub mod load;
pub mod matrix;
pub mod model;
pub mod progress;
pub mod record;
pub mod report;
pub mod rollout;
pub mod run;
#[cfg(test)]
mod samples;
pub mod scenario;
pub mod selftest;
pub mod stored_report;
