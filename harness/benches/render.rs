//! How long it takes to tell a run of a million requests over a thousand restarts, with a thousand failures kept: from
//! its events to a report, and from the report to each file. `cargo bench -p hitless --bench render`; the exit code is 1
//! if the files together take longer than [`MOST`].

use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hitless::analysis::report::Report;
use hitless::record::replay::replay;
use hitless::report::{html, json, junit, markdown, metrics};
use hitless::stored_report::report_of;

#[path = "../tests/report/runs.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod runs;

/// A person who asked for the report is still looking at the screen.
const MOST: Duration = Duration::from_secs(2);

type Render = fn(&Report) -> String;

fn main() -> ExitCode {
    let directory = runs::Run::biggest().written();
    let events = File::open(directory.path().join("events.jsonl")).expect("the run's events");
    let began = Instant::now();
    let report = report_of(replay(BufReader::new(events)).expect("the events are a run"));
    println!("events.jsonl to report  {:>8.1?}", began.elapsed());
    let sinks: [(&str, Render); 5] = [
        ("report.html", html::render),
        ("junit.xml", junit::render),
        ("summary.md", markdown::render),
        ("metrics.txt", metrics::render),
        ("report.json", json::render),
    ];
    let mut together = Duration::ZERO;
    for (name, render) in sinks {
        let began = Instant::now();
        let text = render(&report);
        let took = began.elapsed();
        together += took;
        println!("report to {name:<12}  {took:>8.1?}  {:>9} bytes", text.len());
    }
    println!("all files               {together:>8.1?}  at most {MOST:?}");
    ExitCode::from(u8::from(together > MOST))
}
