//! `hitless compare`: what is a regression and what is noise, and the exit codes that say so.

#![expect(clippy::unwrap_used, reason = "a step of a test that fails ends the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use hitless::analysis::report::Report;
use hitless::compare::{self, Change, Comparison, DEFAULT_TOLERANCE, Outcome};
use hitless::report::terminal::Style;

/// A run of two cohorts over some restarts, as its report.json. Each restart is its failures, its p99 and how long it
/// drained, in milliseconds.
fn run(requests: u64, restarts: &[(u64, f64, f64)]) -> Value {
    let failed: u64 = restarts.iter().map(|restart| restart.0).sum();
    let counts = |requests: u64, failed: u64| {
        let by_class = if failed == 0 { json!({}) } else { json!({ "refused": failed }) };
        json!({ "requests": requests, "ok": requests - failed, "failed": failed, "by_class": by_class })
    };
    let latency = |p99: f64| json!({ "p50": 2.0, "p90": 4.0, "p99": p99, "p999": p99, "max": p99 });
    let with = |mut counts: Value, more: Value| {
        counts.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        counts
    };
    let cohort = |name: &str, failed: u64| {
        let more = json!({
            "name": name, "latency": latency(9.0), "service_time": latency(9.0), "connections_opened": 10,
            "replayed": null, "closed_idle": null, "abandoned": 0, "waited": 0, "lateness_p99_ms": 3.0,
            "upper_bound_per_million": 60.0
        });
        with(counts(requests / 2, failed), more)
    };
    let restarts: Vec<Value> = restarts
        .iter()
        .enumerate()
        .map(|(index, (failed, p99, draining))| {
            let more = json!({
                "replica": "server-a", "round": index + 1, "t": 1_000.0 + 5_000.0 * index as f64, "duration_ms": 4_000.0,
                "phases": { "draining": draining, "gap": 200.0 }, "first_answer_ms": 1.0, "exit_code": 0,
                "killed": false, "is_complete": true, "latency": latency(*p99), "account": {}
            });
            with(counts(1_000, *failed), more)
        })
        .collect();
    let holds = failed == 0;
    let plan = |name: &str| json!({ "name": name, "rate": 300.0, "concurrency": 256, "url": "http://127.0.0.1:8080/" });
    json!({
        "schema_version": 1,
        "run": {
            "id": "20260101-000000-0000", "hitless": "0.1.0", "started_unix_ms": 0, "duration_ms": 20_000.0,
            "load_ms": 20_000.0, "command": "hitless run"
        },
        "verdict": if holds { "pass" } else { "fail" },
        "reasons": if holds { json!([]) } else { json!(["budget failed==0 is broken"]) },
        "blind_spots": [],
        "budgets": [{ "budget": "failed==0", "seen": failed as f64, "holds": holds }],
        "scenario": {
            "subject": "preset handover", "preset": "handover", "image": null, "replicas": 2, "rounds": 2,
            "url": "http://127.0.0.1:8080/", "cohorts": [plan("fresh"), plan("pooled")], "seed": 1
        },
        "totals": counts(requests, failed),
        "cohorts": [cohort("fresh", failed), cohort("pooled", 0)],
        "phases": [], "replicas": [], "restarts": restarts, "failures": [], "failures_cut": 0,
        "timeline": {
            "began_ms": 0.0, "width_ms": 500.0,
            "buckets": vec![json!({ "ok": 300, "p50": 2.0, "p99": 5.0, "max": 9.0, "replicas": {} }); 2]
        },
        "environment": { "kernel": "6.18", "tcp_migrate_req": false, "engine": "Docker 20.10", "cpus": 2 }
    })
}

/// Four restarts of one kind.
fn even(failed: u64, p99: f64, draining: f64) -> Value {
    run(10_000, &[0.0, 1.0, 2.0, 3.0].map(|more| (failed, p99 + more, draining + more)))
}

fn quiet() -> Value {
    even(0, 10.0, 3_000.0)
}

fn compared(base: &Value, new: &Value) -> Comparison {
    let report = |value: &Value| serde_json::from_value::<Report>(value.clone()).unwrap();
    Comparison::of(&report(base), &report(new), DEFAULT_TOLERANCE)
}

fn change(comparison: &Comparison, name: &str) -> Change {
    let failures = comparison.failures.iter().map(|row| (&row.name, row.change));
    let timings = comparison.timings.iter().map(|row| (&row.name, row.change));
    failures.chain(timings).find(|row| row.0 == name).unwrap().1
}

#[test]
fn run_is_no_regression_of_itself() {
    for report in [quiet(), even(7, 10.0, 3_000.0), even(900, 400.0, 9_000.0)] {
        let comparison = compared(&report, &report);
        assert_eq!(comparison.outcome, Outcome::NoRegression, "{:?}", comparison.reasons);
        assert!(comparison.differences.is_empty() && comparison.reasons.is_empty());
    }
}

#[test]
fn first_failure_is_a_regression_and_the_next_is_noise() {
    let (one, two) = (run(10_000, &[(1, 10.0, 3_000.0); 1]), run(10_000, &[(2, 10.0, 3_000.0); 1]));
    let first = compared(&quiet(), &one);
    assert_eq!((first.outcome, first.reasons.len()), (Outcome::Regression, 3), "{:?}", first.reasons);
    assert!(
        first.reasons[0].contains("0 of 10,000 failed in base, 1 of 10,000 in new"),
        "{:?}",
        first.reasons
    );
    assert_eq!([change(&first, "refused"), change(&first, "fresh")], [Change::Worse; 2]);
    assert_eq!(change(&compared(&one, &two), "failed"), Change::Same);
}

#[test]
fn failures_within_the_new_runs_own_budgets_are_held_against_chance() {
    let mut few = even(1, 10.0, 3_000.0);
    few["budgets"] = json!([{ "budget": "failed<10", "seen": 4.0, "holds": true }]);
    few["verdict"] = json!("pass");
    few["reasons"] = json!([]);
    assert_eq!(compared(&quiet(), &few).outcome, Outcome::NoRegression);
    let mut many = even(5, 10.0, 3_000.0);
    many["budgets"] = few["budgets"].clone();
    assert_eq!(change(&compared(&quiet(), &many), "failed"), Change::Worse);
}

#[test]
fn more_failures_count_only_beyond_chance_and_tolerance() {
    let failing = |failed| even(failed, 10.0, 3_000.0);
    assert_eq!(change(&compared(&failing(1), &failing(2)), "failed"), Change::Same, "chance explains it");
    assert_eq!(change(&compared(&failing(100), &failing(150)), "failed"), Change::Same, "less than twice");
    assert_eq!(change(&compared(&failing(10), &failing(30)), "failed"), Change::Worse);
    assert_eq!(change(&compared(&failing(30), &failing(10)), "failed"), Change::Better);
}

/// Four restarts that lose so many.
fn losing(failed: [u64; 4]) -> Value {
    run(10_000, &failed.map(|failed| (failed, 10.0, 3_000.0)))
}

#[test]
fn lumps_are_as_large_as_the_base_shows() {
    let change_of = |base, new| change(&compared(&losing(base), &losing(new)), "failed");
    assert_eq!(change_of([0, 0, 30, 0], [0, 25, 0, 40]), Change::Same, "the base loses in lumps too");
    assert_eq!(change_of([10, 0, 25, 3], [30, 2, 40, 8]), Change::Same);
    assert_eq!(change_of([0, 1, 0, 0], [0, 0, 0, 800]), Change::Worse, "a lump does not excuse itself");
    assert_eq!(change_of([2; 4], [0, 0, 0, 80]), Change::Worse);
    assert_eq!(change_of([0, 1, 0, 0], [0, 800, 0, 0]), Change::Worse);
}

#[test]
fn longer_pauses_do_not_thin_out_the_losses() {
    let more_requests = |failed: [u64; 4]| run(40_000, &failed.map(|failed| (failed, 10.0, 3_000.0)));
    assert_eq!(change(&compared(&more_requests([10; 4]), &losing([10; 4])), "failed"), Change::Same);
    assert_eq!(change(&compared(&losing([10; 4]), &more_requests([10; 4])), "failed"), Change::Same);
    assert_eq!(change(&compared(&losing([10; 4]), &more_requests([30; 4])), "failed"), Change::Worse);
    // A server that loses one of a hundred all the time does so in longer pauses too.
    let all_the_time = |requests: u64| {
        let mut run = run(requests, &[(0, 10.0, 3_000.0); 4]);
        let failed = (requests - 4_000) / 100;
        for counts in ["/totals", "/cohorts/0"] {
            run.pointer_mut(counts).unwrap()["failed"] = json!(failed);
        }
        run
    };
    assert_eq!(change(&compared(&all_the_time(40_000), &all_the_time(10_000)), "failed"), Change::Same);
    assert_eq!(change(&compared(&all_the_time(10_000), &all_the_time(40_000)), "failed"), Change::Same);
}

/// A run that loses one refused request a restart, held against these budgets.
fn budgeted(budgets: &[(&str, bool)]) -> Value {
    let mut run = even(1, 10.0, 3_000.0);
    let budgets: Vec<Value> =
        budgets.iter().map(|(text, holds)| json!({ "budget": text, "seen": 0.0, "holds": holds })).collect();
    run["verdict"] =
        json!(if budgets.iter().all(|budget| budget["holds"] == json!(true)) { "pass" } else { "fail" });
    run["budgets"] = json!(budgets);
    run["reasons"] = json!([]);
    run
}

#[test]
fn budget_allows_what_it_counts_and_nothing_else() {
    for (budgets, expected) in [
        (&[("failed<10", true)][..], Outcome::NoRegression),
        (&[("refused<10", true)], Outcome::NoRegression),
        (&[("fresh.refused<10", true)], Outcome::NoRegression),
        (&[("reset==0", true), ("empty_reply==0", true)], Outcome::Regression),
        (&[("pooled.failed==0", true)], Outcome::Regression),
        (&[("requests>1", true), ("p(99)<9s", true)], Outcome::Regression),
        (&[("failed<2", false)], Outcome::Regression),
        (&[], Outcome::Regression),
    ] {
        let comparison = compared(&quiet(), &budgeted(budgets));
        assert_eq!(comparison.outcome, expected, "{budgets:?}: {:?}", comparison.reasons);
    }
}

#[test]
fn run_that_fails_against_a_base_that_passed_is_never_without_a_regression() {
    let mut slow = budgeted(&[("failed<10", true), ("p(99)<250ms", false)]);
    let comparison = compared(&quiet(), &slow);
    assert_eq!(comparison.outcome, Outcome::Inconclusive, "{:?}", comparison.reasons);
    assert_eq!(
        comparison.reasons,
        ["budget p(99)<250ms is broken in new, and base does not say whether it held"]
    );
    let mut base = quiet();
    base["budgets"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "budget": "p(99)<250ms", "seen": 9.0, "holds": true }));
    let comparison = compared(&base, &slow);
    assert_eq!(comparison.outcome, Outcome::Regression);
    assert_eq!(comparison.reasons, ["budget p(99)<250ms held in base and is broken in new"]);
    slow["budgets"][1]["excuse"] = json!("the harness itself was stalled");
    slow["verdict"] = json!("inconclusive");
    slow["reasons"] = json!(["budget p(99)<250ms is broken"]);
    assert_eq!(compared(&base, &slow).outcome, Outcome::Inconclusive, "the machine may have broken it");
}

#[test]
fn one_stall_is_noise_and_slower_restarts_are_a_regression() {
    let mut stalled = quiet();
    stalled["restarts"][2]["latency"]["p99"] = json!(4_000.0);
    stalled["restarts"][2]["phases"]["draining"] = json!(60_000.0);
    assert_eq!(compared(&quiet(), &stalled).outcome, Outcome::NoRegression);
    let slow = compared(&quiet(), &even(0, 300.0, 3_000.0));
    assert_eq!((slow.outcome, change(&slow, "p99 in restarts")), (Outcome::Regression, Change::Worse));
    let long = compared(&quiet(), &even(0, 10.0, 9_000.0));
    assert_eq!((long.outcome, change(&long, "draining")), (Outcome::Regression, Change::Worse));
    assert_eq!(
        change(&compared(&quiet(), &even(0, 40.0, 3_000.0)), "p99 in restarts"),
        Change::Same,
        "below the floor"
    );
    assert_eq!(change(&compared(&even(0, 10.0, 9_000.0), &quiet()), "draining"), Change::Better);
}

#[test]
fn machine_that_was_slower_throughout_is_no_regression() {
    let mut slower = even(0, 300.0, 3_000.0);
    for bucket in slower["timeline"]["buckets"].as_array_mut().unwrap() {
        bucket["p99"] = json!(250.0);
    }
    assert_eq!(change(&compared(&quiet(), &slower), "p99 in restarts"), Change::Same);
    assert_eq!(change(&compared(&slower, &quiet()), "p99 in restarts"), Change::Same, "and no improvement");
}

#[test]
fn what_a_run_could_not_show_makes_a_comparison_inconclusive() {
    let mut late = even(0, 900.0, 30_000.0);
    late["cohorts"][0]["lateness_p99_ms"] = json!(800.0);
    late["verdict"] = json!("inconclusive");
    late["reasons"] = json!(["cohort fresh could not keep its schedule"]);
    late["blind_spots"] = late["reasons"].clone();
    for (base, new, side) in [(&quiet(), &late, "new"), (&late, &quiet(), "base")] {
        let comparison = compared(base, new);
        assert_eq!(comparison.outcome, Outcome::Inconclusive);
        assert_eq!(comparison.reasons, [format!("the {side} run: cohort fresh could not keep its schedule")]);
        assert_eq!(
            [change(&comparison, "p99 in restarts"), change(&comparison, "draining")],
            [Change::NotJudged; 2]
        );
    }
    let thin = run(10_000, &[(0, 10.0, 3_000.0); 2]);
    let comparison = compared(&thin, &quiet());
    assert_eq!(comparison.outcome, Outcome::Inconclusive);
    assert!(comparison.reasons[0].contains("raise --rounds"), "{:?}", comparison.reasons);
}

#[test]
fn only_what_both_runs_have_is_compared_and_the_rest_is_said() {
    let (mut base, mut new) = (quiet(), even(3, 10.0, 3_000.0));
    base["cohorts"] = json!([base["cohorts"][1]]);
    base["scenario"]["cohorts"] = json!([base["scenario"]["cohorts"][1]]);
    new["scenario"]["subject"] = json!("preset reuseport");
    let comparison = compared(&base, &new);
    assert_eq!(comparison.outcome, Outcome::Inconclusive, "only `fresh` failed, and base has no `fresh`");
    assert_eq!(
        comparison.reasons,
        [
            "budget failed==0 is broken in new, and base does not say whether it held",
            "cohort fresh is only in new, and lost 12"
        ]
    );
    assert_eq!(
        comparison.differences,
        ["subject preset handover -> preset reuseport", "cohort fresh only in new (12 failed)"]
    );
    new["cohorts"] = json!([new["cohorts"][0]]);
    let apart = compared(&base, &new);
    assert_eq!(apart.outcome, Outcome::Inconclusive);
    assert!(apart.reasons[0].contains("no cohort is in both runs"), "{:?}", apart.reasons);
}

#[test]
fn no_name_from_outside_is_markup_or_a_colour() {
    let mut named = even(5, 10.0, 3_000.0);
    named["scenario"]["subject"] = json!("<b>|\u{1b}[31m@who");
    named["environment"]["kernel"] = json!("`6`\u{202e}".repeat(100));
    let comparison = compared(&quiet(), &named);
    let text = compare::terminal::render(&comparison, Style::Plain);
    assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let markdown = compare::markdown::render(&comparison);
    assert!(!markdown.contains("<b>") && !markdown.contains("@who"), "{markdown}");
    assert!(markdown.starts_with("<!-- hitless compare -->\n### ❌"), "{markdown}");
}

/// A place for reports.
struct Shelf(TempDir);

impl Shelf {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// Lays `text` down as the report.json of the run `name`.
    fn put(&self, name: &str, text: &str) -> PathBuf {
        let directory = self.0.path().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("report.json"), text).unwrap();
        directory
    }
}

fn hitless(base: &Path, new: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hitless")).arg("compare").args([base, new]).args(more).output().unwrap()
}

fn exit_code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn exit_code_is_0_1_or_4() {
    let shelf = Shelf::new();
    let good = shelf.put("good", &quiet().to_string());
    let bad = shelf.put("bad", &even(5, 10.0, 3_000.0).to_string());
    let thin = shelf.put("thin", &run(10_000, &[(0, 10.0, 3_000.0)]).to_string());
    for (base, new, expected, word) in [
        (&good, &good, 0, "NO REGRESSION"),
        (&good, &bad, 1, "REGRESSION"),
        (&good, &thin, 4, "INCONCLUSIVE"),
    ] {
        let output = hitless(base, &new.join("report.json"), &[]);
        let said = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(exit_code(&output), expected, "{said}");
        assert!(said.contains(&format!("\n{word}\n")), "{said}");
    }
    let lenient = hitless(&bad, &bad, &["--tolerance", "1", "--quiet"]);
    assert_eq!((exit_code(&lenient), lenient.stdout.len()), (0, 0));
    let output = hitless(&good, &bad, &["--format", "json"]);
    let comparison: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((exit_code(&output), &comparison["outcome"]), (1, &json!("regression")));
    let output = hitless(&good, &bad, &["--markdown"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("| failed | 0 | 20 | - | **worse** |"));
}

#[test]
fn what_cannot_be_compared_is_exit_code_2_and_one_line_with_a_remedy() {
    let shelf = Shelf::new();
    let good = shelf.put("good", &quiet().to_string());
    let mut later = quiet();
    later["schema_version"] = json!(9);
    let mut wrong = quiet();
    wrong["cohorts"][0]["failed"] = json!(1_000_000);
    let missing = shelf.0.path().join("missing");
    for (path, words) in [
        (missing, ["missing", "directory of a run"]),
        (shelf.put("broken", "{\"schema_version\": 1"), ["broken", "report.json"]),
        (shelf.put("later", &later.to_string()), ["schema_version is 9", "one version of hitless"]),
        (shelf.put("wrong", &wrong.to_string()), ["failed of cohort `fresh` is 1000000", "hitless report"]),
    ] {
        for (base, new) in [(&good, &path), (&path, &good)] {
            let output = hitless(base, new, &[]);
            let said = String::from_utf8(output.stderr.clone()).unwrap();
            assert_eq!((exit_code(&output), said.lines().count()), (2, 1), "{said}");
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
        }
    }
    for tolerance in ["0.5", "NaN", "twice"] {
        let output = hitless(&good, &good, &["--tolerance", tolerance]);
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        assert!(
            exit_code(&output) == 2 && said.contains("--tolerance") && said.contains(tolerance),
            "{said}"
        );
    }
}
