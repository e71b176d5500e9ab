//! Programs that some tests need and that a person's machine need not have: a browser, a validator, a Compose.
//!
//! A test that lacks one says so and ends, unless every test has to run: a check that can be skipped in silence where it
//! counts is none.

use std::io::Write as _;

/// Set where every test has to run, as `.ci/run` sets it.
const ALL_MUST_RUN: &str = "HITLESS_TESTS_ALL_MUST_RUN";

/// Says that a test cannot run without `what`.
///
/// # Panics
/// If `HITLESS_TESTS_ALL_MUST_RUN` is set.
pub fn lack(what: &str) {
    let why = format!("this test needs {what}, and it is not installed");
    assert!(std::env::var_os(ALL_MUST_RUN).is_none(), "{why}");
    let _ = writeln!(std::io::stderr(), "not run: {why}");
}
