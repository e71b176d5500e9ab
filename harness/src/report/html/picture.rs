//! The picture of the rollout: rows over one time axis. Static SVG, so that it is there without scripts; the script
//! zooms by changing every row's `viewBox`.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::analysis::replica_states::ReplicaState;
use crate::analysis::report::{Report, RestartSummary};
use crate::report::html::axis::{Axis, Path, joined};
use crate::report::html::charts::{
    failures, latencies, path, queue, rate, stacked, svg, windows, windows_once,
};
use crate::report::html::lanes::{Lane, lanes, stretches};
use crate::report::html::number;
use crate::report::text::{clipped, count};

const NAME_LENGTH: usize = 40;
/// Pixels of a lane: each band, the strip of failures below, and the answers below that.
const BAND: f64 = 12.0;
const STRIP: f64 = 7.0;
const ANSWERS: f64 = 26.0;
/// With more restarts than this, only those with failures are marked, and only the worst carry a number.
const MARKED_RESTARTS: usize = 40;
const NUMBERED_RESTARTS: usize = 8;

/// The whole picture.
pub(super) fn picture(report: &Report, axis: Axis) -> Markup {
    html! {
        figure id="picture" {
            figcaption { (legend(report)) }
            div.toolbar hidden {
                button type="button" data-go="all" { "whole run" }
                button type="button" data-go="previous" { "‹ previous" }
                button type="button" data-go="next" { "next ›" }
                @if report.restarts.iter().any(|restart| restart.counts.failed > 0) {
                    button type="button" data-go="failing" { "next with failures" }
                }
                output id="shown" {}
            }
            (windows_once(report, axis))
            div.rows {
                (row("restarts", "marks", &html! { (marks(report, axis)) }))
                @for lane in lanes(report) { (lane_row(report, &lane, axis)) }
                (failures(report, axis))
                (rate(report, axis))
                (latencies(report, axis))
                (queue(report, axis))
                (row("", "axis", &html! {
                    @for t in axis.ticks(9.0) {
                        span.last[axis.percent(t) > 96.0] data-t=(t) style=(format!("left:{:.3}%", axis.percent(t))) {
                            (t / 1e3) " s"
                        }
                    }
                }))
                div.cursor hidden {}
                output.readout hidden {}
            }
            div id="restart" hidden {}
        }
    }
}

fn legend(report: &Report) -> Markup {
    html! {
        @for state in [ReplicaState::Ready, ReplicaState::Draining, ReplicaState::Starting, ReplicaState::Stopped] {
            span.key { i.state.(state.name()) {} (state.name()) }
        }
        span.key { i.state.answers {} "answers" }
        span.key { i.dot {} "failed requests" }
        @let is_failing = |restart: &&RestartSummary| restart.counts.failed > 0;
        @if report.restarts.iter().any(|restart| !is_failing(&restart)) { span.key { i.window {} "restart" } }
        @if report.restarts.iter().any(|restart| is_failing(&restart)) {
            span.key { i.window.failing {} "restart with failures" }
        }
    }
}

fn row(name: &str, kind: &str, plot: &Markup) -> Markup {
    html! {
        div.row.(kind) {
            div.name { (name) }
            div.plot { (plot) }
        }
    }
}

fn chart(name: &Markup, kind: &str, height: f64, axis: Axis, label: &str, body: &Markup) -> Markup {
    html! {
        div.row.(kind) {
            div.name { (name) }
            div.plot { (svg(height, axis, label, body)) }
        }
    }
}

/// A mark over each restart; a red one with its count over those with failures.
fn marks(report: &Report, axis: Axis) -> Markup {
    let is_crowded = report.restarts.len() > MARKED_RESTARTS;
    let mut worst: Vec<u64> = report.restarts.iter().map(|restart| restart.counts.failed).collect();
    worst.sort_unstable_by(|one, other| other.cmp(one));
    let least_numbered = worst.get(NUMBERED_RESTARTS).map_or(1, |failed| failed + 1);
    let shown = report
        .restarts
        .iter()
        .enumerate()
        .filter(|(_, restart)| !is_crowded || restart.counts.failed > 0)
        .take(500);
    html! {
        @for (index, restart) in shown {
            @let failed = restart.counts.failed;
            @let place = format!("left:{:.3}%", axis.percent(restart.restart.began.ms()));
            a.mark.failing[failed > 0] href=(format!("#restart-{}", index + 1)) data-zoom=(index + 1)
                data-t=(format!("{:.1}", restart.restart.began.ms())) style=(place) title=(mark_title(index, restart)) {
                @if failed >= least_numbered { "▼" (number(&format!("/restarts/{index}/failed"), failed)) }
                @else if failed > 0 { "▼" }
                @else { "▽" }
            }
        }
    }
}

fn mark_title(index: usize, restart: &RestartSummary) -> String {
    format!(
        "restart {} of {}: {} of {} requests failed",
        index + 1,
        clipped(&restart.restart.replica, NAME_LENGTH),
        count(restart.counts.failed),
        count(restart.counts.requests)
    )
}

/// A lane: what its replicas did, what they answered, and the failures that fell nearest to something in their lives.
fn lane_row(report: &Report, lane: &Lane<'_>, axis: Axis) -> Markup {
    let tracks = lane.lives.len().min(2);
    let bands = BAND * tracks as f64;
    let height = bands + STRIP + ANSWERS;
    let mut states: BTreeMap<ReplicaState, Path> = BTreeMap::new();
    let mut stretches_of: BTreeMap<(ReplicaState, usize), Vec<(f64, f64)>> = BTreeMap::new();
    let mut dots = Path::default();
    for (position, life) in lane.lives.iter().enumerate() {
        for (state, from, to) in stretches(life, axis.to) {
            let is_outside = state == ReplicaState::Stopped
                && (to >= axis.to && lane.is_succeeded(position) || from <= 0.0 && position > 0);
            if to <= axis.from || from >= axis.to || is_outside {
                continue;
            }
            stretches_of.entry((state, position % 2)).or_default().push((axis.x(from), axis.x(to)));
        }
        for t in lost_near(report, &life.replica) {
            dots.point(axis.x(t), bands + STRIP / 2.0);
        }
    }
    for ((state, track), stretches) in stretches_of {
        let (inset, thickness) = shape(state);
        let drawn = states.entry(state).or_default();
        for (from, to) in joined(stretches, axis) {
            drawn.rectangle(from, BAND * track as f64 + inset, to - from, thickness);
        }
    }
    let label = format!("{}: what it did, and its answers over time", clipped(lane.name, NAME_LENGTH));
    let name = html! {
        span title=(clipped(lane.name, 200)) { (clipped(lane.name, NAME_LENGTH)) }
        @if lane.lives.len() > 1 { small { "and " (lane.lives.len() - 1) " after it" } }
    };
    let body = html! {
        (windows())
        (answers(report, lane, axis, bands + STRIP, height))
        @for (state, drawn) in &states { (path(&format!("state {}", state.name()), drawn)) }
        (path("dots", &dots))
    };
    chart(&name, "lane", height, axis, &label, &body)
}

/// When requests failed nearest to something in a replica's life. Where not every failure was kept, also the middle of
/// each stretch of the timeline with failures in the replica's restarts.
fn lost_near(report: &Report, replica: &str) -> Vec<f64> {
    let kept = report.failures.iter().filter(|failure| failure.replica.as_deref() == Some(replica));
    let mut moments: Vec<f64> = kept.map(|failure| failure.t.ms()).collect();
    if report.failures_cut > 0 {
        let timeline = &report.timeline;
        let windows: Vec<(f64, f64)> = report
            .restarts
            .iter()
            .filter(|restart| *restart.restart.replica == *replica && restart.counts.failed > 0)
            .map(|restart| (restart.restart.began.ms(), restart.restart.began.ms() + restart.duration_ms))
            .collect();
        let lossy = timeline.buckets.iter().enumerate().filter(|(_, bucket)| !bucket.by_class.is_empty());
        let middles = lossy.map(|(index, _)| timeline.began_ms + timeline.width_ms * (index as f64 + 0.5));
        moments.extend(middles.filter(|t| {
            let next = windows.partition_point(|(from, _)| from <= t);
            next.checked_sub(1).is_some_and(|index| *t <= windows[index].1)
        }));
    }
    moments
}

/// Where in its band a state is drawn, and how thick: the state can be told without its colour.
const fn shape(state: ReplicaState) -> (f64, f64) {
    match state {
        ReplicaState::Ready => (1.0, BAND - 2.0),
        ReplicaState::Draining => (3.0, BAND - 6.0),
        ReplicaState::Starting => (4.0, BAND - 8.0),
        ReplicaState::Stopped => (5.5, 1.0),
    }
}

/// How much each replica of a lane answered, one on top of the other.
fn answers(report: &Report, lane: &Lane<'_>, axis: Axis, top: f64, bottom: f64) -> Markup {
    let buckets = &report.timeline.buckets;
    let most = buckets.iter().flat_map(|bucket| bucket.replicas.values()).copied().max().unwrap_or(0);
    if most == 0 {
        return html! {};
    }
    let scale = (bottom - top - 4.0) / most as f64;
    let mut below = vec![0.0; buckets.len()];
    let mut areas = Vec::new();
    for (position, life) in lane.lives.iter().enumerate() {
        let heights: Vec<f64> = buckets
            .iter()
            .map(|bucket| bucket.replicas.get(&life.replica).map_or(0.0, |answered| *answered as f64 * scale))
            .collect();
        let drawn = stacked(report, axis, bottom, &below, &heights);
        areas.push((if position % 2 == 0 { "answers" } else { "answers other" }, drawn));
        below
            .iter_mut()
            .zip(&heights)
            .for_each(|(below, height)| *below = (*below + height).min(bottom - top));
    }
    html! { @for (class, drawn) in &areas { (path(class, drawn)) } }
}
