//! What a field of the description that cannot be used is refused with.

use std::fmt;

/// A field that cannot be used, its value, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: `{value}`: {remedy}")]
pub struct ScenarioError {
    /// The flag or the field of the scenario file.
    pub field: &'static str,
    /// What it said.
    pub value: String,
    /// What it should say.
    pub remedy: String,
}

impl ScenarioError {
    pub(super) fn new(field: &'static str, value: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self { field, value: format!("{value}"), remedy: format!("{remedy}") }
    }
}
