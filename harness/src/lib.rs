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
//! A failed request is data ([`load::Outcome::Failed`]), never an error; an error means that the experiment itself
//! could not be carried out.

pub mod budget;
mod cause;
pub mod checkout;
pub mod clean;
pub mod clock;
pub mod compare;
pub mod confidence;
pub mod doctor;
pub mod environment;
pub mod events;
pub mod evidence;
pub mod experiment;
pub mod failure;
mod fingerprint;
pub mod image;
mod listeners;
pub mod lives;
pub mod load;
pub mod matrix;
pub mod owner;
pub mod phase;
mod placement;
pub mod program;
pub mod progress;
pub mod recorder;
pub mod recording;
pub mod replay;
pub mod report;
pub mod rollout;
pub mod run;
pub mod runtime;
#[cfg(test)]
mod samples;
pub mod scenario;
pub mod selftest;
pub mod shortage;
mod signals;
pub mod summary;
pub mod verdict;
