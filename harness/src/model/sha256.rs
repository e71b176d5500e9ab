//! SHA-256 (FIPS 180-4) in hexadecimal digits. The only user of sha2.

use std::fmt::Write as _;

use sha2::Digest;

/// The SHA-256 of what it was fed.
#[derive(Debug, Default)]
pub(crate) struct Sha256(sha2::Sha256);

impl Sha256 {
    /// That of these bytes alone.
    pub(crate) fn of(bytes: &[u8]) -> String {
        let mut hash = Self::default();
        hash.feed(bytes);
        hash.finish()
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// 64 digits in lower case.
    pub(crate) fn finish(self) -> String {
        self.0.finalize().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_is_that_of_the_published_test_vectors() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sha256::of(b"abc"), abc);
        let mut fed = Sha256::default();
        fed.feed(b"a");
        fed.feed(b"bc");
        assert_eq!(fed.finish(), abc);
    }
}
