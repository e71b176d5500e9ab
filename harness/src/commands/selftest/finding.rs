//! How a case went, and how all of them did.

use super::expected::{closed_idle, has_died};
use super::{CASES, Case};
use crate::analysis::report::Report;
use crate::analysis::verdict::Verdict;

/// How a case went.
#[derive(Debug)]
pub struct Finding {
    /// The case.
    pub case: &'static Case,
    /// What was seen, in words.
    pub seen: String,
    /// Whether that is what had to be seen.
    pub outcome: Outcome,
}

/// Whether a case showed what it had to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did.
    Right,
    /// It did not.
    Wrong,
    /// The run could not have shown it: the machine was too busy, or it was interrupted.
    Unclear,
}

impl Outcome {
    /// What the self-test says as a whole: wrong if a case is, unclear if one is or was not carried out.
    #[must_use]
    pub fn of_all(findings: &[Finding]) -> Self {
        let has = |outcome| findings.iter().any(|finding| finding.outcome == outcome);
        if has(Self::Wrong) {
            Self::Wrong
        } else if has(Self::Unclear) || findings.len() < CASES.len() {
            Self::Unclear
        } else {
            Self::Right
        }
    }

    /// The verdict that it amounts to.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Right => Verdict::Pass,
            Self::Wrong => Verdict::Fail,
            Self::Unclear => Verdict::Inconclusive,
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Right => "ok",
            Self::Wrong => "WRONG",
            Self::Unclear => "unclear",
        }
    }
}

/// What a run showed, in a few words.
pub(super) fn describe(report: &Report) -> String {
    let mut parts: Vec<String> =
        report.totals.by_class.iter().map(|(class, count)| format!("{class} {count}")).collect();
    if parts.is_empty() {
        parts.push(format!("0 of {} failed", report.totals.requests));
    }
    if closed_idle(report) > 0 {
        parts.push(format!("{} closed while idle", closed_idle(report)));
    }
    let killed = report.restarts.iter().filter(|restart| restart.restart.killed).count();
    if killed > 0 {
        parts.push(format!("killed {killed}"));
    }
    let mut codes: Vec<i64> =
        report.restarts.iter().filter_map(|restart| restart.restart.exit_code).collect();
    codes.dedup();
    if codes.iter().any(|code| *code != 0) && killed == 0 {
        parts.push(format!(
            "exit code {}",
            codes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ));
    }
    if has_died(report) {
        parts.push("ended on its own".to_owned());
    }
    parts.push(report.verdict.name().to_owned());
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_case_makes_all_wrong_and_one_missing_makes_them_unclear() {
        let findings = |outcome: fn(usize) -> Outcome, count: usize| -> Vec<Finding> {
            let case = |number: usize| Finding {
                case: &CASES[number],
                seen: String::new(),
                outcome: outcome(number),
            };
            (0..count).map(case).collect()
        };
        let all = CASES.len();
        assert_eq!(Outcome::of_all(&findings(|_| Outcome::Right, all)), Outcome::Right);
        assert_eq!(Outcome::of_all(&findings(|_| Outcome::Right, all - 1)), Outcome::Unclear);
        let one = |number| if number == 3 { Outcome::Wrong } else { Outcome::Unclear };
        assert_eq!(Outcome::of_all(&findings(one, all)), Outcome::Wrong);
    }
}
