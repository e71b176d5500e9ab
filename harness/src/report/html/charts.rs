//! The rows of the picture that show numbers over time: failures, requests a second, latencies.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::analysis::report::{BucketSummary, Report};
use crate::model::failure::FailureClass;
use crate::report::html::axis::{Axis, Path, joined, round_up};
use crate::report::text::{count, rounded, short_ms};

/// Pixels.
const FAILURES: f64 = 64.0;
const RATE: f64 = 72.0;
const LATENCY: f64 = 96.0;
const QUEUE: f64 = 40.0;
/// A failure is never drawn smaller than this.
const LEAST_BAR: f64 = 4.0;

pub(super) fn failures(report: &Report, axis: Axis) -> Markup {
    let timeline = &report.timeline;
    let failed = |bucket: &BucketSummary| bucket.by_class.values().sum::<u64>();
    let most = timeline.buckets.iter().map(failed).max().unwrap_or(0);
    let mut bars: BTreeMap<FailureClass, Path> = BTreeMap::new();
    for (index, bucket) in timeline.buckets.iter().enumerate() {
        let x = axis.x(timeline.began_ms + timeline.width_ms * (index as f64 + 0.5));
        let mut foot = FAILURES;
        for (class, count) in &bucket.by_class {
            let bar = ((FAILURES - 14.0) * *count as f64 / most.max(1) as f64).max(LEAST_BAR);
            bars.entry(*class).or_default().upright(x, foot, (foot - bar).max(0.0));
            foot -= bar;
        }
    }
    let name = html! {
        "failures"
        @for (class, count_of_class) in &report.totals.by_class {
            small.key { i.class.(class.name()) {} (class.label()) " " (count(*count_of_class)) }
        }
        @if report.totals.by_class.is_empty() { small { "none" } }
    };
    let body = html! {
        (windows())
        @for (class, drawn) in &bars { (path(&format!("bar {}", class.name()), drawn)) }
    };
    let label = format!("failures over time: {} in all", count(report.totals.failed));
    html! {
        div.row.failures {
            div.name { (name) }
            div.plot {
                (svg(FAILURES, axis, &label, &body))
                @if most > 0 { span.y { (count(most)) " in " (short_ms(timeline.width_ms)) } }
            }
        }
    }
}

/// Answered requests a second, with the failed ones on top.
pub(super) fn rate(report: &Report, axis: Axis) -> Markup {
    let timeline = &report.timeline;
    let per_second = 1e3 / timeline.width_ms.max(1e-3);
    let answered: Vec<f64> = timeline.buckets.iter().map(|bucket| bucket.ok as f64 * per_second).collect();
    let failed: Vec<f64> = timeline
        .buckets
        .iter()
        .map(|bucket| bucket.by_class.values().sum::<u64>() as f64 * per_second)
        .collect();
    let most = answered.iter().zip(&failed).map(|(answered, failed)| answered + failed).fold(1.0, f64::max);
    let top = round_up(most);
    let to_pixels = |rates: &[f64]| rates.iter().map(|rate| rate / top * RATE).collect::<Vec<f64>>();
    let (answered, failed) = (to_pixels(&answered), to_pixels(&failed));
    let body = html! {
        (windows())
        (path("ok", &stacked(report, axis, RATE, &vec![0.0; answered.len()], &answered)))
        (path("failed", &stacked(report, axis, RATE, &answered, &failed)))
    };
    let name = html! {
        "requests a second"
        small.key { i.ok {} "answered" }
        small.key { i.failed {} "failed" }
    };
    html! {
        div.row.rate {
            div.name { (name) }
            div.plot {
                (svg(RATE, axis, "requests a second over time", &body))
                span.y { (rounded(top)) }
            }
        }
    }
}

/// The 99th percentile of fewer answers is hardly more than the slowest one.
const LEAST_FOR_P99: u64 = 200;

/// Latencies on a logarithmic scale, over the decades in which they lie.
pub(super) fn latencies(report: &Report, axis: Axis) -> Markup {
    let timeline = &report.timeline;
    let answered = || timeline.buckets.iter().filter(|bucket| bucket.max > 0.0);
    let slowest = answered().map(|bucket| bucket.max).fold(0.0, f64::max);
    if slowest <= 0.0 {
        return empty_row("latency", "nothing was answered");
    }
    let has_p99 =
        answered().map(|bucket| bucket.ok).sum::<u64>() >= LEAST_FOR_P99 * answered().count() as u64;
    let scale = Decades::around(answered().map(|bucket| bucket.p50).fold(slowest, f64::min), slowest);
    let y = |ms: f64| scale.y(ms);
    let upper: fn(&BucketSummary) -> f64 = if has_p99 { |bucket| bucket.p99 } else { |bucket| bucket.max };
    let line = |of: fn(&BucketSummary) -> f64| {
        let mut drawn = Path::default();
        let mut is_down = false;
        for (index, bucket) in timeline.buckets.iter().enumerate() {
            let ms = of(bucket);
            let x = axis.x(timeline.began_ms + timeline.width_ms * (index as f64 + 0.5));
            match (ms > 0.0, is_down) {
                (true, true) => drawn.line_to(x, y(ms)),
                (true, false) => drawn.move_to(x, y(ms)),
                (false, _) => {}
            }
            is_down = ms > 0.0;
        }
        drawn
    };
    let mut slow = Path::default();
    for (index, bucket) in timeline.buckets.iter().enumerate().filter(|(_, bucket)| bucket.max > 0.0) {
        slow.point(axis.x(timeline.began_ms + timeline.width_ms * (index as f64 + 0.5)), y(bucket.max));
    }
    let mut grid = Path::default();
    for ms in scale.marks() {
        grid.move_to(0.0, y(ms));
        grid.line_to(axis.width(), y(ms));
    }
    let body = html! {
        (windows())
        (path("grid", &grid))
        (path("spread", &between(report, axis, upper, y)))
        (path("slowest", &slow))
        @if has_p99 { (path("p99", &line(|bucket| bucket.p99))) }
        (path("p50", &line(|bucket| bucket.p50)))
    };
    let name = html! {
        "latency"
        small.key { i.slowest {} "slowest" }
        @if has_p99 { small.key { i.p99 {} "p99" } }
        small.key { i.p50 {} "median" }
    };
    html! {
        div.row.latency {
            div.name { (name) }
            div.plot {
                (svg(LATENCY, axis, "latencies over time", &body))
                @for ms in scale.marks() {
                    span.y style=(format!("top:{:.1}px", y(ms))) { (short_power(ms)) }
                }
            }
        }
    }
}

/// The powers of ten between which latencies lie, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Decades {
    low: i32,
    high: i32,
}

impl Decades {
    fn around(fastest: f64, slowest: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the logarithm of a double is a small number")]
        let decade = |ms: f64, round: fn(f64) -> f64| round(ms.clamp(1e-3, 1e9).log10()) as i32;
        let low = decade(fastest, f64::floor);
        Self { low, high: decade(slowest, f64::ceil).max(low + 1) }
    }

    fn y(self, ms: f64) -> f64 {
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        LATENCY * (1.0 - (ms.max(1e-9).log10().clamp(low, high) - low) / (high - low))
    }

    fn marks(self) -> impl Iterator<Item = f64> {
        (self.low..=self.high).map(|decade| 10_f64.powi(decade))
    }
}

/// The area from the median to what is drawn above it, wherever something was answered.
fn between(report: &Report, axis: Axis, upper: fn(&BucketSummary) -> f64, y: impl Fn(f64) -> f64) -> Path {
    let timeline = &report.timeline;
    let x = |index: usize| axis.x(timeline.began_ms + timeline.width_ms * (index as f64 + 0.5));
    let mut drawn = Path::default();
    let mut index = 0;
    for stretch in timeline.buckets.chunk_by(|one, other| (one.max > 0.0) == (other.max > 0.0)) {
        let places = index..index + stretch.len();
        index = places.end;
        if stretch[0].max <= 0.0 {
            continue;
        }
        drawn.move_to(x(places.start), y(stretch[0].p50));
        places.clone().zip(stretch).for_each(|(at, bucket)| drawn.line_to(x(at), y(upper(bucket))));
        places.zip(stretch).rev().for_each(|(at, bucket)| drawn.line_to(x(at), y(bucket.p50)));
        drawn.close();
    }
    drawn
}

/// The most connections that waited in the accept queues.
pub(super) fn queue(report: &Report, axis: Axis) -> Markup {
    let looked_at = report.timeline.buckets.iter().filter_map(|bucket| bucket.queue);
    let most = match looked_at.max() {
        None => return empty_row("accept queue", "not measured"),
        Some(0) => return empty_row("accept queue", "no connection was seen waiting"),
        Some(most) => most as f64,
    };
    let depths = report.timeline.buckets.iter().map(|bucket| bucket.queue.unwrap_or(0) as f64);
    let heights: Vec<f64> = depths.map(|depth| depth / most * (QUEUE - 14.0)).collect();
    let body = html! {
        (windows())
        (path("depth", &stacked(report, axis, QUEUE, &vec![0.0; heights.len()], &heights)))
    };
    html! {
        div.row.queue {
            div.name { "accept queue" small { "connections waiting" } }
            div.plot {
                (svg(QUEUE, axis, "connections that wait to be accepted, over time", &body))
                span.y { (rounded(most)) }
            }
        }
    }
}

/// A row without a plot, and why.
fn empty_row(name: &str, why: &str) -> Markup {
    html! { div.row.empty { div.name { (name) } div.plot { small { (why) } } } }
}

/// A power of ten: "0.1 ms", "10 ms", "1 s".
fn short_power(ms: f64) -> String {
    if ms < 999.0 { format!("{} ms", (ms * 1e3).round() / 1e3) } else { format!("{} s", (ms / 1e3).round()) }
}

pub(super) fn svg(height: f64, axis: Axis, label: &str, body: &Markup) -> Markup {
    html! {
        svg viewBox=(format!("0 0 {:.1} {height}", axis.width())) preserveAspectRatio="none" role="img"
            aria-label=(label) style=(format!("height:{height}px")) { (body) }
    }
}

pub(super) fn path(class: &str, path: &Path) -> Markup {
    html! { @if !path.is_empty() { path class=(class) d=(path.as_str()) {} } }
}

/// Higher than any row.
const HIGHEST: f64 = 1_000.0;

/// The restarts' windows behind everything else, those with failures in red.
pub(super) fn windows() -> Markup {
    html! { use href="#windows" {} }
}

/// What every row's [`windows`] shows: a long run has thousands of them, and they are in the page once.
pub(super) fn windows_once(report: &Report, axis: Axis) -> Markup {
    let drawn = |is_failing: bool| {
        let of_kind = report.restarts.iter().filter(|restart| (restart.counts.failed > 0) == is_failing);
        let stretches = of_kind
            .map(|restart| {
                (axis.x(restart.restart.began.ms()), axis.x(restart.restart.began.ms() + restart.duration_ms))
            })
            .collect();
        let mut drawn = Path::default();
        for (from, to) in joined(stretches, axis) {
            drawn.rectangle(from, 0.0, to - from, HIGHEST);
        }
        drawn
    };
    html! {
        svg.shared width="0" height="0" aria-hidden="true" {
            defs { g id="windows" { (path("window", &drawn(false))) (path("window failing", &drawn(true))) } }
        }
    }
}

/// A stepped area for every stretch in which `heights` is not zero, standing on `below`, which stands on `bottom`.
pub(super) fn stacked(report: &Report, axis: Axis, bottom: f64, below: &[f64], heights: &[f64]) -> Path {
    let mut drawn = Path::default();
    let edge = |index: usize| axis.x(report.timeline.began_ms + report.timeline.width_ms * index as f64);
    let mut index = 0;
    while index < heights.len() {
        if heights[index] <= 0.0 {
            index += 1;
            continue;
        }
        let end = (index..heights.len()).find(|at| heights[*at] <= 0.0).unwrap_or(heights.len());
        drawn.move_to(edge(index), bottom - below[index]);
        for at in index..end {
            drawn.step_to(edge(at + 1), bottom - below[at] - heights[at]);
        }
        for at in (index..end).rev() {
            drawn.step_to(edge(at), bottom - below[at]);
        }
        drawn.close();
        index = end;
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fill_their_row() {
        let scale = Decades::around(0.5, 11.0);
        assert_eq!(scale.marks().map(short_power).collect::<Vec<_>>(), ["0.1 ms", "1 ms", "10 ms", "100 ms"]);
        assert_eq!(format!("{:?}", (scale.y(0.1), scale.y(100.0))), format!("{:?}", (LATENCY, 0.0)));
        let narrow = Decades::around(3_000.0, 3_000.0);
        assert_eq!(narrow.marks().map(short_power).collect::<Vec<_>>(), ["1 s", "10 s"]);
        let nothing = Decades::around(0.0, 0.0).y(0.0);
        assert_eq!(format!("{nothing}"), format!("{LATENCY}"), "a report from elsewhere may hold any number");
    }
}
