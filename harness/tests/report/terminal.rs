//! What is printed: at most 80 columns, and plain unless a person looks at it.

use hitless::analysis::report::Report;
use hitless::analysis::summary::CohortSummary;
use hitless::commands::matrix;

use hitless::report::terminal::{self, Style};

use crate::runs::{self, Run};

#[test]
fn nothing_printed_is_wider_than_eighty_columns() {
    for run in [Run::clean(), Run::failing(), Run { is_replacing: true, ..Run::failing() }] {
        let directory = run.written();
        let text = String::from_utf8(runs::rendered(directory.path()).stdout).expect("UTF-8");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line:?}", line.chars().count());
        }
    }
}

#[test]
fn pipe_gets_no_colours() {
    let directory = Run::failing().written();
    let text = String::from_utf8(runs::rendered(directory.path()).stdout).expect("UTF-8");
    assert!(text.contains("FAIL") && !text.contains('\x1b'), "{text}");
}

/// `script` of util-linux runs a command on a terminal of its own.
#[test]
fn terminal_gets_colours_unless_they_are_unwanted() {
    let directory = Run::failing().written();
    let on_a_terminal = |no_color: Option<&str>| {
        let command = format!("{} report {}", env!("CARGO_BIN_EXE_hitless"), directory.path().display());
        let mut script = std::process::Command::new("script");
        script.args(["--quiet", "--return", "--command", &command, "/dev/null"]).env_remove("NO_COLOR");
        script
            .env_remove("GITHUB_ACTIONS")
            .env_remove("GITHUB_STEP_SUMMARY")
            .stdin(std::process::Stdio::null());
        script.envs(no_color.map(|value| ("NO_COLOR", value)));
        let output = script.output().expect("script of util-linux can be started");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let coloured = on_a_terminal(None);
    assert!(coloured.contains("\x1b[1;31mFAIL\x1b[0m"), "{coloured:?}");
    let plain = on_a_terminal(Some("1"));
    assert!(plain.contains("FAIL") && !plain.contains('\x1b'), "{plain:?}");
    assert!(on_a_terminal(Some("")).contains('\x1b'), "an empty NO_COLOR says nothing (no-color.org)");
}

#[test]
fn run_that_was_killed_is_told_as_cut_off() {
    let directory = Run::failing().written();
    let events = runs::text(directory.path(), "events.jsonl");
    let torn = events.len() * 2 / 3;
    assert_ne!(events.as_bytes()[torn - 1], b'\n', "the last line is torn");
    std::fs::write(directory.path().join("events.jsonl"), &events[..torn]).expect("room for the events");
    let output = runs::rendered(directory.path());
    let told = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(told.contains("the run was killed"), "{told}");
    for file in ["report.html", "summary.md", "junit.xml", "report.json"] {
        assert!(runs::text(directory.path(), file).contains("the run was killed"), "{file} does not say it");
    }
}

/// Everything as wide as it gets: seven cohorts, counts of eight digits, replicas with long names.
fn wide() -> Report {
    let mut report = Run::failing().report();
    let cohort = report.cohorts[0].clone();
    report.cohorts = ["fresh", "pooled", "strict", "h2", "slow", "upload", "stream"]
        .map(|name| {
            let mut cohort = CohortSummary { name: name.to_owned(), ..cohort.clone() };
            (cohort.counts.requests, cohort.counts.failed) = (12_345_678, 1_234_567);
            cohort.connections_opened = 9_876_543;
            (cohort.latency.p50, cohort.latency.p99, cohort.latency.max) = (1_234.0, 23_456.0, 123_456.0);
            cohort.upper_bound_per_million = Some(189_622.1);
            cohort
        })
        .to_vec();
    report.totals.requests = 86_419_746;
    for restart in &mut report.restarts {
        restart.restart.replica = "shop-frontend-7c9d8f6b5d-production-europe-west".repeat(3).into();
        (restart.restart.killed, restart.is_complete) = (true, false);
    }
    for replica in &mut report.replicas {
        replica.name = "shop-frontend-7c9d8f6b5d-production-europe-west".repeat(3);
    }
    report
}

#[test]
fn widest_report_keeps_its_80_columns_and_its_numbers_whole() {
    let text = terminal::render(&wide(), Style::Plain);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    for whole in ["12345678", "1234567", "9876543", "1234 ms", "23.5 s", "123.5 s", "189,623 ppm", "upload"] {
        let times = text.lines().filter(|line| line.contains(whole)).count();
        assert!(times >= 1, "{whole} is torn apart:\n{text}");
    }
}

#[test]
fn table_of_the_presets_keeps_its_80_columns_and_has_colours_only_if_asked() {
    let reports = [wide(), Run::clean().report()];
    let table = |style| matrix::table::render(&matrix::judge(&reports), style);
    let plain = table(Style::Plain);
    assert!(plain.lines().all(|line| line.chars().count() <= 80), "{plain}");
    assert!(!plain.contains('\u{1b}') && table(Style::Coloured).contains("\u{1b}[1;31mfail"), "{plain}");
    assert!(plain.contains("86419746") && plain.contains("fail") && plain.contains("pass"), "{plain}");
}

#[test]
fn terminal_begins_its_end_with_the_pages_sentence_and_says_what_to_do() {
    use hitless::report::headline::{advice, sentence};
    let report = Run::failing().report();
    let told = terminal::render(&report, Style::Plain).replace("\n  ", " ").replace('\n', " ");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let told = words(&told);
    assert!(told.contains(&words(&sentence(&report))), "{told}");
    for one in advice(&report) {
        assert!(told.contains(&words(&one)), "{one} is missing: {told}");
    }
}

#[test]
fn report_of_a_directory_of_runs_is_the_newest_ones() {
    let runs = tempfile::tempdir().expect("a directory of runs");
    for (name, run) in [("older", Run::failing()), ("newer", Run::clean())] {
        let written = run.written();
        std::fs::create_dir(runs.path().join(name)).expect("a directory");
        // Later than the one before, whatever the clock's step.
        let copy = runs.path().join(name).join("events.jsonl");
        std::fs::copy(written.path().join("events.jsonl"), &copy).expect("room for the events");
        let time = std::time::SystemTime::now()
            + std::time::Duration::from_secs(if name == "newer" { 60 } else { 0 });
        std::fs::File::options()
            .write(true)
            .open(&copy)
            .and_then(|file| file.set_modified(time))
            .expect("a time");
    }
    let read = hitless::stored_report::read(runs.path()).expect("a report");
    assert_eq!(read.totals.failed, 0, "not the older one");
    let empty = tempfile::tempdir().expect("a directory");
    assert!(hitless::stored_report::read(empty.path()).is_err());
}
