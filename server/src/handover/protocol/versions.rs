//! The versions of the protocol, and which of them two replicas share.

use std::fmt;

/// The newest version that this build speaks. Version 2 added the service's name to the hello.
pub const VERSION: u8 = 2;

/// The version in the header of every message but the hello: the last one that changed any of them.
pub const MESSAGE_VERSION: u8 = 1;

/// The oldest version that this build speaks.
pub const OLDEST_VERSION: u8 = 1;

/// The versions of the protocol that a replica speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The oldest one.
    pub oldest: u8,
    /// The newest one, and all between.
    pub newest: u8,
}

impl Versions {
    /// Those of this build.
    pub const OURS: Self = Self { oldest: OLDEST_VERSION, newest: VERSION };

    /// The newest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u8> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_common_version_is_the_newest_that_both_speak(a: [u8; 2], b: [u8; 2]) {
            let versions = |[one, other]: [u8; 2]| Versions { oldest: one.min(other), newest: one.max(other) };
            let (a, b) = (versions(a), versions(b));
            let both = (0..=u8::MAX).filter(|version| {
                (a.oldest..=a.newest).contains(version) && (b.oldest..=b.newest).contains(version)
            });
            prop_assert_eq!(a.common(b), both.max());
        }
    }
}
