//! The whole-system tests are in `tests/tests/system/`; here is what they share with the harness's own.

pub mod tools;
