//! Answers whose length nothing declares: they end with their connection (RFC 9112, section 6.3, item 8), and one that was
//! cut looks whole to every client (section 8). Other answers to the same request may show it.

use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, header};

use crate::model::failure::{Failure, FailureClass};

/// As many answers of one length in a row make it the length of all.
const SAME: u64 = 20;

/// The lengths of such answers to one request.
#[derive(Debug, Default)]
pub(super) struct UndeclaredLengths(Mutex<Lengths>);

#[derive(Debug, Default)]
struct Lengths {
    seen: u64,
    /// The length of every answer so far.
    length: u64,
    vary: bool,
}

/// Whether neither the head of an answer nor its framing says how long its body is.
pub(super) fn is_undeclared(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING)
}

impl UndeclaredLengths {
    /// Takes the length of an answer that is right as far as it can be seen; the failure if it is shorter than all others.
    pub(super) fn judge(&self, length: u64) -> Option<Failure> {
        let mut lengths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let are_same = lengths.seen >= SAME && !lengths.vary;
        if are_same && length < lengths.length {
            let whole = lengths.length;
            let detail = format!(
                "after {length} bytes of the body: the connection ended, which is all that ends this answer; the \
                 others have {whole} bytes"
            );
            return Some(Failure::new(FailureClass::Truncated, detail));
        }
        if lengths.seen == 0 {
            lengths.length = length;
        }
        lengths.vary |= length != lengths.length;
        lengths.seen += 1;
        None
    }

    /// How many answers could have been cut without being noticed: all of them if their lengths vary.
    pub(super) fn unverified(&self) -> Option<u64> {
        let lengths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lengths.vary.then_some(lengths.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_that_is_shorter_than_all_others_was_cut() {
        let lengths = UndeclaredLengths::default();
        assert!((0..SAME).all(|_| lengths.judge(11).is_none()));
        let failure = lengths.judge(5).unwrap();
        assert_eq!(failure.class, FailureClass::Truncated);
        assert!(
            failure.detail.contains("after 5 bytes") && failure.detail.contains("11 bytes"),
            "{}",
            failure.detail
        );
        assert_eq!(lengths.unverified(), None);
        assert!(lengths.judge(11).is_none() && lengths.judge(0).is_some());
    }

    #[test]
    fn lengths_that_vary_prove_nothing_and_are_counted() {
        let lengths = UndeclaredLengths::default();
        for length in [11, 12, 5, 11] {
            assert_eq!(lengths.judge(length), None);
        }
        assert_eq!(lengths.unverified(), Some(4));
        // One that grows shows that the length was no constant.
        let grown = UndeclaredLengths::default();
        assert!((0..SAME).all(|_| grown.judge(11).is_none()) && grown.judge(12).is_none());
        assert_eq!((grown.judge(5), grown.unverified()), (None, Some(SAME + 2)));
    }

    #[test]
    fn length_is_declared_by_the_head_or_by_chunks() {
        let head =
            |name: header::HeaderName| is_undeclared(&[(name, "1".parse().unwrap())].into_iter().collect());
        assert!(!head(header::CONTENT_LENGTH) && !head(header::TRANSFER_ENCODING) && head(header::SERVER));
    }
}
