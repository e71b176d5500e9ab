//! Where a rollout replaces what runs: which of the two it is.

use std::iter;

/// Which of the two things that a rollout puts into each other's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edition {
    /// What runs from the beginning.
    First,
    /// What takes its place.
    Other,
}

/// Something for each edition; for one alone where nothing is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Editions<T> {
    /// For what runs from the beginning.
    pub first: T,
    /// For what takes its place, if anything does.
    pub other: Option<T>,
}

impl<T> Editions<T> {
    /// What there is for this edition.
    pub fn of(&self, edition: Edition) -> &T {
        match edition {
            Edition::First => &self.first,
            Edition::Other => self.other.as_ref().unwrap_or(&self.first),
        }
    }

    /// What there is, for each edition that there is.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        iter::once(&self.first).chain(&self.other)
    }
}
