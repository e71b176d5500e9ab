//! `metrics.txt`: the counts and latencies of a run in Prometheus' text format 0.0.4, for a push gateway, a node exporter's
//! text files or a pipeline's metrics report.

use std::fmt::Write as _;

use crate::analysis::report::Report;
use crate::analysis::verdict::Verdict;
use crate::model::failure::FailureClass;
use crate::report::text::clipped;

const NAME_LENGTH: usize = 80;

/// The text of `metrics.txt`.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut out = Metrics::default();
    let subject = [("subject", report.scenario.subject.as_str())];

    out.family("hitless_run_info", "gauge", "Which run, and of what.");
    let about = [
        ("id", report.run.id.as_str()),
        ("subject", report.scenario.subject.as_str()),
        ("hitless", report.run.hitless.as_str()),
    ];
    out.sample("hitless_run_info", &about, 1.0);

    out.family("hitless_verdict", "gauge", "What the run says about its subject.");
    for verdict in [Verdict::Pass, Verdict::Fail, Verdict::Inconclusive] {
        let labels = [subject[0], ("hitless_verdict", verdict.name())];
        out.sample("hitless_verdict", &labels, f64::from(u8::from(verdict == report.verdict)));
    }

    out.family("hitless_requests_total", "counter", "Requests whose end was seen, by cohort.");
    for cohort in &report.cohorts {
        let labels = [subject[0], ("cohort", &cohort.name)];
        out.sample("hitless_requests_total", &labels, cohort.counts.requests as f64);
    }

    out.family(
        "hitless_failed_total",
        "counter",
        "Requests that failed, but for the harness's own interference, by cohort.",
    );
    for cohort in &report.cohorts {
        let labels = [subject[0], ("cohort", &cohort.name)];
        out.sample("hitless_failed_total", &labels, cohort.counts.failed as f64);
    }

    out.family(
        "hitless_failures_total",
        "counter",
        "Requests that failed, by cohort and class; harness_resource is the harness's own interference.",
    );
    for cohort in &report.cohorts {
        for class in FailureClass::ALL {
            let failed = cohort.counts.by_class.get(&class).copied().unwrap_or(0);
            let labels = [subject[0], ("cohort", &cohort.name), ("class", class.name())];
            out.sample("hitless_failures_total", &labels, failed as f64);
        }
    }

    out.family("hitless_connections_total", "counter", "Connections that were established, by cohort.");
    for cohort in &report.cohorts {
        let labels = [subject[0], ("cohort", &cohort.name)];
        out.sample("hitless_connections_total", &labels, cohort.connections_opened as f64);
    }

    out.family("hitless_latency_seconds", "summary", "Latency from the scheduled start, by cohort.");
    for cohort in &report.cohorts {
        let latency = &cohort.latency;
        for (quantile, ms) in [
            ("0.5", latency.p50),
            ("0.9", latency.p90),
            ("0.99", latency.p99),
            ("0.999", latency.p999),
            ("1.0", latency.max),
        ] {
            let labels = [subject[0], ("cohort", &cohort.name), ("quantile", quantile)];
            out.sample("hitless_latency_seconds", &labels, ms / 1e3);
        }
    }

    out.family(
        "hitless_restarts_total",
        "counter",
        "Restarts, by whether the replica came back and answered.",
    );
    for (is_complete, word) in [(true, "yes"), (false, "no")] {
        let restarts = report.restarts.iter().filter(|restart| restart.is_complete == is_complete).count();
        out.sample("hitless_restarts_total", &[subject[0], ("complete", word)], restarts as f64);
    }

    out.family("hitless_load_seconds", "gauge", "How long requests were sent.");
    out.sample("hitless_load_seconds", &subject, report.run.load_ms / 1e3);
    out.0
}

#[derive(Default)]
struct Metrics(String);

impl Metrics {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
    }
}

/// A label's value: `\`, `"` and line feeds are escaped (prometheus.io, "Exposition formats").
fn escaped(text: &str) -> String {
    clipped(text, NAME_LENGTH).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
