//! `report.html`: the report as one page that needs nothing else, no network and, but for zoom and hover, no script.
//!
//! Whatever came from a server is [`visible`] text, escaped by maud; the content security
//! policy lets the browser run the page's own script, known by its hash, and nothing else.

mod axis;
mod charts;
mod data;
mod lanes;
mod picture;
mod tables;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::analysis::report::Report;
use crate::report::headline::{advice, sentence};
use crate::report::text::{clipped, count, counted, visible};
use axis::Axis;

const STYLE: &str = include_str!("html/style.css");
const SCRIPT: &str = include_str!("html/script.js");

/// No page is larger than this, whatever the run.
pub const MOST_BYTES: usize = 1_000_000;

/// Causes beyond these are folded, so that the picture is near the top.
const SHOWN_STEPS: usize = 2;

/// How much of a report is in the page. What is left out is said, and is in report.json.
#[derive(Debug, Clone, Copy)]
struct Limits {
    restarts: usize,
    failures: usize,
    detail: usize,
    events: usize,
    /// Restarts that can be zoomed to, and changes of the replicas' states that are told where the pointer is.
    zooms: usize,
    states: usize,
}

impl Limits {
    /// From the most to the least; the first with which the page is small enough is taken.
    const STEPS: [Self; 4] = [
        Self { restarts: 1_000, failures: 300, detail: 600, events: 6_000, zooms: 5_000, states: 20_000 },
        Self { restarts: 1_000, failures: 100, detail: 200, events: 2_000, zooms: 5_000, states: 20_000 },
        Self { restarts: 300, failures: 50, detail: 100, events: 500, zooms: 2_000, states: 5_000 },
        Self { restarts: 50, failures: 10, detail: 80, events: 0, zooms: 500, states: 0 },
    ];
}

/// The page.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut page = String::new();
    for limits in Limits::STEPS {
        page = render_within(report, limits).into_string();
        if page.len() <= MOST_BYTES {
            break;
        }
    }
    page
}

fn render_within(report: &Report, limits: Limits) -> Markup {
    let axis = Axis::of(report);
    let has_timeline = !report.timeline.buckets.is_empty();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (report.verdict.name()) ": " (clipped(&report.scenario.subject, 80)) " · hitless" }
                style { (PreEscaped(STYLE)) }
            }
            body.(report.verdict.name()) {
                header { (headline(report)) }
                main {
                    @if has_timeline { section { (picture::picture(report, axis)) } }
                    (section("budgets", "Budgets", &tables::budgets(report)))
                    (section("cohorts", "Cohorts", &tables::cohorts(report)))
                    (section("phases", "Phases", &tables::phases(report)))
                    (section("replicas", "Who answered", &tables::replicas(report)))
                    (section("restarts", "Restarts", &tables::restarts(report, limits.restarts)))
                    (section("failures", "Failures", &tables::failures(report, limits.failures, limits.detail)))
                    (section("evidence", "Evidence", &tables::evidence(report)))
                    (section("environment", "Environment", &tables::environment(report)))
                    (section("repeat", "Run it again", &again(report)))
                }
                footer {
                    p { "Every number here is in report.json, every event in events.jsonl, beside this page." }
                }
                script type="application/json" id="data" { (PreEscaped(data::data(report, axis, limits))) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

fn section(id: &str, title: &str, content: &Markup) -> Markup {
    html! {
        @if !content.0.is_empty() {
            section id=(id) { h2 { (title) } (content) }
        }
    }
}

/// The verdict in a sentence, why, what to do, and what was run.
fn headline(report: &Report) -> Markup {
    let scenario = &report.scenario;
    html! {
        p.verdict { span.badge { (report.verdict.name()) } " " (clipped(&scenario.subject, 200)) }
        h1 { (visible(&sentence(report))) }
        @if let Some(why) = &report.run.cut_short {
            p.cut { "Cut off: " (clipped(&why.to_string(), 300)) ". This page shows what was seen until then." }
        }
        @if !report.blind_spots.is_empty() {
            ul.reasons { @for reason in report.blind_spots.iter().take(12) { li { (clipped(reason, 300)) } } }
        }
        @let steps = advice(report);
        div.advice {
            h2 { "What to do" }
            @for step in steps.iter().take(SHOWN_STEPS) { p { (step) } }
            @if steps.len() > SHOWN_STEPS {
                details {
                    summary { (counted((steps.len() - SHOWN_STEPS) as u64, "rarer cause")) }
                    @for step in &steps[SHOWN_STEPS..] { p { (step) } }
                }
            }
        }
        dl.facts {
            (fact("requests", &number("/totals/requests", report.totals.requests)))
            (fact("answered", &number("/totals/ok", report.totals.ok)))
            (fact("failed", &number("/totals/failed", report.totals.failed)))
            (fact("restarts", &html! { (count(report.restarts.len() as u64)) }))
            (fact("replicas", &number("/scenario/replicas", scenario.replicas as u64)))
            (fact("load", &told("/run/load_ms", &format!("{:.1} s", report.run.load_ms / 1e3))))
            (fact("began", &html! { (started(report)) }))
        }
    }
}

fn fact(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// A count, and where in report.json it stands.
fn number(pointer: &str, value: u64) -> Markup {
    told(pointer, &count(value))
}

/// A number as it is told, and where in report.json it stands; in a row with `data-of`, from there. (A table may say
/// it for its cells, with `data-cells`.)
fn told(pointer: &str, text: &str) -> Markup {
    html! { span data-at=(pointer) { (text) } }
}

/// "2026-11-22 22:49:44 UTC".
fn started(report: &Report) -> String {
    let since_1970 = std::time::Duration::from_millis(report.run.started_unix_ms);
    let whole = std::time::Duration::from_secs(since_1970.as_secs());
    std::time::UNIX_EPOCH
        .checked_add(whole)
        // The formatter knows no year after 9999.
        .filter(|_| whole.as_secs() < 253_402_300_800)
        .map(|time| {
            humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").replace('Z', " UTC")
        })
        .unwrap_or_default()
}

fn again(report: &Report) -> Markup {
    let scenario = &report.scenario;
    html! {
        pre { code id="command" { (clipped(&report.run.command, 2_000)) } }
        p {
            "run " code { (clipped(&report.run.id, 80)) } ", seed " (scenario.seed) ", "
            (counted(u64::from(scenario.rounds), "round")) " of " (counted(scenario.replicas as u64, "replica"))
        }
        div.wide { table {
            thead { tr { th { "cohort" } th.n { "requests a second" } th.n { "at once" } th { "where to" } } }
            tbody {
                @for (index, cohort) in scenario.cohorts.iter().enumerate() {
                    tr data-of=(format!("/scenario/cohorts/{index}/")) {
                        td { (clipped(&cohort.name, 40)) }
                        td.n data-at="rate" { (cohort.rate) }
                        td.n data-at="concurrency" { (count(cohort.concurrency as u64)) }
                        td { code { (clipped(&cohort.url, 200)) } }
                    }
                }
            }
        } }
    }
}

/// Nothing but what is in the page: its style, and its one script.
fn policy() -> String {
    let hash = BASE64_STANDARD.encode(Sha256::digest(SCRIPT));
    format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::STYLE;

    /// The colours of the light and of the dark page; the dark one has the light one's where it says nothing.
    fn palettes() -> [BTreeMap<&'static str, [u8; 3]>; 2] {
        let colours = |block: &'static str| -> BTreeMap<&'static str, [u8; 3]> {
            let declared = block.split(';').filter_map(|declaration| declaration.split_once(": #"));
            let name = |name: &'static str| name.rsplit("--").next().unwrap_or_default();
            let part = |hex: &str, at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("six digits");
            declared.map(|(left, hex)| (name(left), [0, 2, 4].map(|at| part(hex, at)))).collect()
        };
        let blocks: Vec<_> = STYLE.split(":root {").skip(1).take(2).collect();
        let [light, dark] = [0, 1].map(|at| colours(blocks[at].split('}').next().unwrap_or_default()));
        let both = light.clone().into_iter().chain(dark).collect();
        [light, both]
    }

    /// WCAG 2.1, "relative luminance" and "contrast ratio".
    fn contrast(one: [u8; 3], other: [u8; 3]) -> f64 {
        let linear = |part: u8| match f64::from(part) / 255.0 {
            low if low <= 0.04045 => low / 12.92,
            high => ((high + 0.055) / 1.055).powf(2.4),
        };
        let luminance = |[red, green, blue]: [u8; 3]| {
            0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
        };
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    #[test]
    fn text_and_marks_stand_out_in_light_and_in_dark() {
        assert!((contrast([0; 3], [255; 3]) - 21.0).abs() < 1e-9);
        for (name, palette) in ["light", "dark"].into_iter().zip(palettes()) {
            let is_at_least = |least: f64, front: &str, back: &str| {
                let ratio = contrast(palette[front], palette[back]);
                assert!(ratio >= least, "{name}: {front} on {back} is {ratio:.2}:1");
            };
            // WCAG's AA for text, and for what is drawn and means something.
            for text in ["ink", "faint", "link", "fail", "inconclusive"] {
                is_at_least(4.5, text, "ground");
            }
            for text in ["ink", "faint", "fail"] {
                is_at_least(4.5, text, "raised");
            }
            for mark in ["refused", "fail", "median", "p99", "stopped", "starting", "queue"] {
                is_at_least(3.0, mark, "raised");
            }
            for window in ["clean-tint", "fail-tint"] {
                is_at_least(1.2, window, "raised");
            }
        }
    }
}
