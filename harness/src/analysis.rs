//! From a recording to numbers, a verdict and its evidence. Pure.

pub mod assemble;
pub mod confidence;
pub mod evidence;
pub mod replica_states;
pub mod report;
pub mod summary;
pub mod verdict;
