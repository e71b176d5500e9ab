//! The two versions of a replacement: the one that runs and the one that takes its place.

use std::iter;

/// Which version of the server a replica runs, where a rollout replaces one by the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The one that runs at the beginning.
    Current,
    /// The one that takes its place.
    Replacement,
}

/// One value for each version; only one where nothing is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions<T> {
    /// For the version that runs at the beginning.
    pub current: T,
    /// For the one that takes its place, if anything is replaced.
    pub replacement: Option<T>,
}

impl<T> Versions<T> {
    /// The value for this version.
    pub fn of(&self, version: Version) -> &T {
        match version {
            Version::Current => &self.current,
            Version::Replacement => self.replacement.as_ref().unwrap_or(&self.current),
        }
    }

    /// The values, the current version first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        iter::once(&self.current).chain(&self.replacement)
    }
}
