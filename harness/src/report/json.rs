//! `report.json`: the report as it is.

use crate::analysis::report::Report;

/// The text of `report.json`.
///
/// # Panics
/// Never: every map of a report has names for keys.
#[must_use]
pub fn render(report: &Report) -> String {
    serde_json::to_string_pretty(report).expect("a report is plain data") + "\n"
}

/// The reports of several runs, as an array.
///
/// # Panics
/// Never, as with [`render`].
#[must_use]
pub fn render_all(reports: &[Report]) -> String {
    serde_json::to_string_pretty(reports).expect("a report is plain data") + "\n"
}
