//! The sentence at the top, and what GitHub shows beside a job: what broke comes first, and only what the server is to
//! blame for is an error.

use hitless::analysis::report::Report;
use hitless::analysis::verdict::Verdict;
use hitless::model::failure::FailureClass;
use hitless::report::annotations;
use hitless::report::headline::{advice, sentence};

use crate::runs::Run;

fn report(budgets: &[&'static str], run: Run) -> Report {
    Run { budgets: budgets.to_vec(), ..run }.report()
}

#[test]
fn broken_budget_is_named_and_users_are_only_if_a_failure_broke_it() {
    let lost = report(&["failed==0", "max<5ms"], Run::failing());
    let said = sentence(&lost);
    assert!(said.starts_with("Users see it: 40 of 4,000 requests failed over 4 restarts"), "{said}");
    assert!(said.ends_with("which breaks failed==0 and max<5ms (10 ms)."), "{said}");
    let slow = sentence(&report(&["failed<100", "max<5ms"], Run::failing()));
    assert!(slow.starts_with("max<5ms (10 ms) is broken. 40 of 4,000 requests failed"), "{slow}");
    assert!(slow.ends_with("which the budgets allow."), "{slow}");
    let answered = sentence(&report(&["failed==0", "max<5ms"], Run::clean()));
    assert!(answered.starts_with("max<5ms (10 ms) is broken, although all of 4,000 requests"), "{answered}");
    assert!(sentence(&report(&["failed==0"], Run::clean())).starts_with("No user saw it: 4,000 requests"));
}

#[test]
fn every_class_is_told_in_words() {
    let said = sentence(&report(&["failed==0"], Run::failing()));
    for words in ["4 refused", "4 empty replies", "4 HTTP errors", "4 wrong bodies", "4 connect timeouts"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn causes_are_ranked_by_all_failures_and_not_by_those_that_were_kept() {
    use hitless::model::failure::FailureClass::{Refused, Truncated};
    let mut report = report(&["failed==0"], Run { lost: vec![Refused, Truncated], ..Run::clean() });
    assert!(advice(&report)[0].starts_with("Connections were refused"), "{:?}", advice(&report));
    report.totals.by_class.insert(Truncated, 1_000_000);
    assert!(advice(&report)[0].starts_with("Requests that were being answered"), "{:?}", advice(&report));
    report.failures.clear();
    assert!(advice(&report)[0].starts_with("Requests that were being answered"), "{:?}", advice(&report));
}

#[test]
fn advice_comes_from_how_the_replicas_ended() {
    use hitless::model::failure::FailureClass::{EmptyReply, ResetBeforeResponse};
    let first = |lost: &[FailureClass], code: i64, killed: bool| {
        let mut report = report(&["failed<1000"], Run { lost: lost.to_vec(), ..Run::clean() });
        for restart in &mut report.restarts {
            (restart.restart.exit_code, restart.restart.killed) = (Some(code), killed);
        }
        advice(&report)[0].clone()
    };
    let lost = [EmptyReply];
    for (told, code, killed, lost) in [
        ("A replica ended with exit code 143: SIGTERM ended it", 143, false, &lost[..]),
        ("A replica ended with exit code 137, and hitless did not kill it", 137, false, &lost),
        (
            "A replica did not end within its stop timeout and was killed, and requests were lost",
            137,
            true,
            &lost,
        ),
        ("A replica did not end within its stop timeout and was killed; no request was lost", 137, true, &[]),
        ("Requests that were being answered were cut off", 0, false, &lost),
        ("Connections were reset before an answer, and nothing tells", 0, false, &[ResetBeforeResponse]),
        ("Nothing to do", 143, false, &[]),
    ] {
        let advice = first(lost, code, killed);
        assert!(advice.starts_with(told), "{code} {killed}: {advice}");
    }
    let mut queue = report(&["failed==0"], Run { lost: vec![ResetBeforeResponse], ..Run::clean() });
    for failure in &mut queue.failures {
        failure.cause = Some(hitless::model::failure::Cause::AcceptQueue);
    }
    assert!(
        advice(&queue)[0].starts_with("Connections that the kernel had accepted"),
        "{:?}",
        advice(&queue)
    );
}

/// The lines of a level that contain a text.
fn lines(report: &Report, level: &str, text: &str) -> usize {
    let begin = format!("::{level} ");
    annotations::render(report).lines().filter(|line| line.starts_with(&begin) && line.contains(text)).count()
}

#[test]
fn annotations_are_errors_only_where_the_server_is_to_blame() {
    let lost = report(&["failed==0", "p(99)<250ms", "max<5ms"], Run::failing());
    assert_eq!(lines(&lost, "error", "budget failed==0 is broken: 40"), 1);
    assert_eq!(lines(&lost, "error", "budget max<5ms is broken: 10 ms"), 1);
    assert_eq!((lines(&lost, "error", "p(99)"), lines(&lost, "warning", "p(99)")), (0, 0));
    assert_eq!(lines(&lost, "error", "4 refused, the first one at"), 1);
    assert_eq!(lines(&lost, "error", "harness out of resources"), 0);
    assert_eq!(lines(&lost, "warning", "4 harness out of resources"), 1);
    assert!(lines(&lost, "error", "") <= 10 && lines(&lost, "warning", "") <= 10);

    let mut unsure = report(&["failed<100", "max<5ms"], Run::failing());
    assert_eq!((lines(&unsure, "error", "max<5ms"), lines(&unsure, "warning", "4 refused")), (2, 1));
    unsure.budgets[1].excuse = Some("the harness itself was stalled".to_owned());
    unsure.verdict = Verdict::Inconclusive;
    assert_eq!(lines(&unsure, "error", ""), 0);
    assert_eq!(lines(&unsure, "warning", "budget max<5ms is broken: 10 ms; but the harness"), 1);
}
