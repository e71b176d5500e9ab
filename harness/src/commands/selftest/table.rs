//! The self-test as a table, at most 80 columns wide.

use crate::commands::selftest::Finding;
use crate::report::terminal::{Style, painted, table};

/// The table: one case a row.
#[must_use]
pub fn render(findings: &[Finding], style: Style) -> String {
    let mut table = table(&["server", "expected", "seen", ""]);
    let mut words = Vec::new();
    for finding in findings {
        let word = (finding.outcome.verdict(), finding.outcome.word());
        words.push(word);
        table.add_row([
            finding.case.name.to_owned(),
            finding.case.expected.words(),
            finding.seen.clone(),
            word.1.to_owned(),
        ]);
    }
    painted(&table, style, &words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::selftest::{CASES, Outcome};

    #[test]
    fn table_of_the_findings_keeps_its_80_columns_and_its_words_whole() {
        let findings: Vec<Finding> = CASES
            .iter()
            .map(|case| Finding {
                case,
                seen: "refused 1,234, and ".repeat(6) + "ok",
                outcome: if case.name.len() % 2 == 0 { Outcome::Right } else { Outcome::Wrong },
            })
            .collect();
        let plain = render(&findings, Style::Plain);
        assert!(plain.lines().all(|line| line.chars().count() <= 80), "{plain}");
        let coloured = render(&findings, Style::Coloured);
        let right = findings.iter().filter(|finding| finding.outcome == Outcome::Right).count();
        assert_eq!(coloured.matches("\u{1b}[1;32mok\u{1b}[0m").count(), right, "{coloured}");
        assert_eq!(
            coloured.matches("\u{1b}[1;31mWRONG\u{1b}[0m").count(),
            findings.len() - right,
            "{coloured}"
        );
    }
}
