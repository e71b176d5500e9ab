//! Errors in words: what went wrong, and what was behind it. Pure.

use std::error::Error;

/// An error and all its sources, outermost first. A source that repeats the text of its parent is left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
