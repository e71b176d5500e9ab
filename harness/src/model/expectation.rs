//! What an answer has to be, and the content that both sides generate.

/// What an answer has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: ExpectedBody,
}

/// What a body has to be. Whatever it is, it has to be complete: as long as its head, or its last chunk, says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedBody {
    /// Anything.
    Any,
    /// This text.
    Text(String),
    /// So many bytes of [`pattern`].
    Pattern(u64),
}

/// Byte number `index` of generated content. It repeats only after 64 KiB, so that a swapped or a missing piece shows.
#[must_use]
pub fn pattern(index: u64) -> u8 {
    (31 * index + index / 256).to_le_bytes()[0]
}

/// What our server answers to an upload of `bytes` bytes of [`pattern`]: the length and the FNV-1a hash.
#[must_use]
pub fn upload_receipt(bytes: u64) -> String {
    let hash = (0..bytes).fold(0xcbf2_9ce4_8422_2325_u64, |hash, index| {
        (hash ^ u64::from(pattern(index))).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{bytes} {hash:016x}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipt_is_the_hash_of_the_published_test_vectors() {
        // FNV-1a of nothing is its offset basis.
        assert_eq!(upload_receipt(0), "0 cbf29ce484222325\n");
        assert_eq!(pattern(0), 0);
        assert_eq!(pattern(256), 1);
    }
}
