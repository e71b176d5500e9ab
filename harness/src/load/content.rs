//! What is sent and what has to come back: made, and checked, byte by byte. Pure.

use http::HeaderValue;

use crate::model::expectation::{Expectation, ExpectedBody, pattern};
use crate::model::failure::{Failure, FailureClass};
use crate::model::observation::Outcome;

/// Bodies of which something is expected are read up to this size: what is longer is something else.
pub(crate) const MAX_BODY: u64 = 16 << 20;
/// How much of an unexpected body a report shows.
const SHOWN_BODY: usize = 120;

/// Whether an answer is the one to the request that carried the token `sent`, if it repeats one at all; the failure if
/// it is another's.
pub(crate) fn check_token(sent: u64, repeated: Option<&HeaderValue>) -> Option<Failure> {
    let repeated = repeated.filter(|repeated| !is_token(repeated.as_bytes(), sent))?;
    let shown = String::from_utf8_lossy(&repeated.as_bytes()[..repeated.len().min(SHOWN_BODY)]).into_owned();
    let detail =
        format!("the answer to another request: it repeats the token {shown:?} instead of \"{sent}\"");
    Some(Failure::new(FailureClass::WrongBody, detail))
}

/// Whether a header's value is that number, digit by digit.
fn is_token(value: &[u8], number: u64) -> bool {
    value.first() != Some(&b'+') && str::from_utf8(value).is_ok_and(|text| text.parse() == Ok(number))
}

/// Compares an answer with what was expected, chunk by chunk, without keeping more of it than a report shows.
#[derive(Debug)]
pub(crate) struct Check<'a> {
    expectation: &'a Expectation,
    status: u16,
    length: u64,
    is_as_expected: bool,
    beginning: Vec<u8>,
}

impl<'a> Check<'a> {
    pub(crate) const fn new(expectation: &'a Expectation, status: u16) -> Self {
        Self { expectation, status, length: 0, is_as_expected: true, beginning: Vec::new() }
    }

    /// Takes the next chunk of the body.
    ///
    /// # Errors
    /// The body is longer than any that is expected.
    pub(crate) fn take(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        let start = self.length;
        self.length += chunk.len() as u64;
        if self.length > MAX_BODY && self.expectation.body != ExpectedBody::Any {
            let detail = format!("the body is longer than {MAX_BODY} bytes");
            return Err(Failure::new(FailureClass::WrongBody, detail));
        }
        let room = SHOWN_BODY.saturating_sub(self.beginning.len()).min(chunk.len());
        self.beginning.extend_from_slice(&chunk[..room]);
        self.is_as_expected &= match &self.expectation.body {
            ExpectedBody::Any => true,
            ExpectedBody::Text(text) => usize::try_from(start)
                .ok()
                .and_then(|start| text.as_bytes().get(start..start + chunk.len()))
                .is_some_and(|expected| expected == chunk),
            ExpectedBody::Pattern(_) => (start..).zip(chunk).all(|(index, byte)| pattern(index) == *byte),
        };
        Ok(())
    }

    /// The failure that cut the body off, and how much of it had come by then.
    pub(crate) fn cut_by(&self, mut failure: Failure) -> Failure {
        if failure.class != FailureClass::WrongBody {
            failure.detail = format!("after {} bytes of the body: {}", self.length, failure.detail);
        }
        failure
    }

    /// How much of the body has come.
    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// Judges the whole answer.
    pub(crate) fn finish(self) -> Outcome {
        if self.status != self.expectation.status {
            let detail =
                format!("status {} instead of {}: {}", self.status, self.expectation.status, self.shown());
            return Outcome::failed(Failure::new(FailureClass::HttpError, detail));
        }
        let expected_length = match &self.expectation.body {
            ExpectedBody::Any => self.length,
            ExpectedBody::Text(text) => text.len() as u64,
            ExpectedBody::Pattern(bytes) => *bytes,
        };
        if self.is_as_expected && self.length == expected_length {
            return Outcome::Answered;
        }
        let detail = format!("{} bytes instead of {expected_length}: {}", self.length, self.shown());
        Outcome::failed(Failure::new(FailureClass::WrongBody, detail))
    }

    /// The beginning of the body, with control characters made visible.
    fn shown(&self) -> String {
        let dots = if self.length > self.beginning.len() as u64 { "…" } else { "" };
        format!("\"{}{dots}\"", String::from_utf8_lossy(&self.beginning).escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judged(body: ExpectedBody, status: u16, chunks: &[&[u8]]) -> Option<FailureClass> {
        let expectation = Expectation { status: 200, body };
        let mut check = Check::new(&expectation, status);
        for chunk in chunks {
            check.take(chunk).unwrap();
        }
        match check.finish() {
            Outcome::Answered => None,
            Outcome::Failed(failure) => Some(failure.class),
        }
    }

    #[test]
    fn status_comes_before_body() {
        let hello = || ExpectedBody::Text("hello".into());
        assert_eq!(judged(hello(), 200, &[b"hel", b"lo"]), None);
        assert_eq!(judged(hello(), 200, &[b"hell"]), Some(FailureClass::WrongBody));
        assert_eq!(judged(hello(), 200, &[b"hello", b"!"]), Some(FailureClass::WrongBody));
        assert_eq!(judged(hello(), 200, &[b"HELLO"]), Some(FailureClass::WrongBody));
        assert_eq!(judged(hello(), 503, &[b"hello"]), Some(FailureClass::HttpError));
        assert_eq!(judged(ExpectedBody::Any, 200, &[b"anything"]), None);
    }

    #[test]
    fn body_of_which_nothing_is_expected_may_be_of_any_length() {
        let chunk = vec![0; 1 << 20];
        let taken = |body| {
            let expectation = Expectation { status: 200, body };
            let mut check = Check::new(&expectation, 200);
            let mut chunks = (0..=MAX_BODY >> 20).map(|_| check.take(&chunk));
            chunks.all(|taken| taken.is_ok())
        };
        assert!(taken(ExpectedBody::Any));
        assert!(!taken(ExpectedBody::Text("hello".into())));
    }

    #[test]
    fn shown_bodies_are_short_and_harmless() {
        let expectation = Expectation { status: 200, body: ExpectedBody::Text(String::new()) };
        let mut check = Check::new(&expectation, 200);
        check.take(&[b'\x1b'; 500]).unwrap();
        let Outcome::Failed(failure) = check.finish() else { panic!("it was not empty") };
        assert!(failure.detail.contains("\\u{1b}") && failure.detail.ends_with("…\""), "{}", failure.detail);
        assert!(!failure.detail.chars().any(char::is_control));
    }

    #[test]
    fn token_is_known_by_its_digits() {
        let checked = |repeated: &'static str| check_token(7, Some(&HeaderValue::from_static(repeated)));
        assert_eq!(checked("7"), None);
        assert_eq!(check_token(7, None), None, "it need not be repeated");
        for other in ["8", "77", "+7", "", " ", "seven"] {
            let failure = checked(other).unwrap_or_else(|| panic!("{other:?} passed for 7"));
            assert_eq!(failure.class, FailureClass::WrongBody);
            assert!(failure.detail.contains(&format!("{other:?} instead of \"7\"")), "{}", failure.detail);
        }
    }

    proptest! {
        #[test]
        fn pattern_is_recognised_however_it_is_cut(length in 0u64..5_000, cut in 1usize..700) {
            let content: Vec<u8> = (0..length).map(pattern).collect();
            let chunks: Vec<&[u8]> = content.chunks(cut).collect();
            prop_assert_eq!(judged(ExpectedBody::Pattern(length), 200, &chunks), None);
        }

        #[test]
        fn one_wrong_byte_is_seen(length in 1u64..5_000, at in 0u64..5_000) {
            let mut content: Vec<u8> = (0..length).map(pattern).collect();
            let at = usize::try_from(at % length).unwrap();
            content[at] ^= 0x10;
            prop_assert_eq!(judged(ExpectedBody::Pattern(length), 200, &[&content]), Some(FailureClass::WrongBody));
        }
    }
}
