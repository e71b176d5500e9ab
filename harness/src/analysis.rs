//! From a recording to numbers, a verdict and its evidence. Pure.

pub mod confidence;
pub mod evidence;
pub mod lives;
pub mod summary;
pub mod verdict;
