//! Observations in, recording out: the recorder's thread, the event log, and replay.

pub mod events;
mod placement;
pub mod recorder;
pub mod recording;
pub mod replay;
