//! The time axis that every row of the picture shares, and paths along it. One unit of a path is one millisecond
//! across and one pixel down: the rows are stretched to the page's width, and zooming changes only what part is shown.

use std::fmt::Write as _;

use crate::analysis::report::Report;

/// A stretch of the run, in milliseconds from the run's zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Axis {
    /// From the first request, or restart, to the last. Answers that arrive later, as slow ones do, are left out;
    /// failures are not.
    pub(super) fn of(report: &Report) -> Self {
        let timeline = &report.timeline;
        let restarts = || report.restarts.iter();
        let began = restarts().map(|restart| restart.restart.began.ms()).fold(timeline.began_ms, f64::min);
        let failed = timeline.buckets.iter().rposition(|bucket| !bucket.by_class.is_empty());
        let shown = failed.map_or(0.0, |last| timeline.width_ms * (last as f64 + 1.0));
        let ended = timeline.began_ms + shown.max(report.run.load_ms);
        let ended =
            restarts().map(|restart| restart.restart.began.ms() + restart.duration_ms).fold(ended, f64::max);
        Self { from: began, to: ended.max(began + 1.0) }
    }

    pub(super) fn width(self) -> f64 {
        self.to - self.from
    }

    /// Where `t` lies, in percent of the width.
    pub(super) fn percent(self, t: f64) -> f64 {
        (t - self.from) / self.width() * 100.0
    }

    /// A place on a path.
    pub(super) fn x(self, t: f64) -> f64 {
        t.clamp(self.from, self.to) - self.from
    }

    /// About `wanted` round moments.
    pub(super) fn ticks(self, wanted: f64) -> Vec<f64> {
        let step = round_up(self.width() / wanted);
        let mut ticks = Vec::new();
        let mut tick = (self.from / step).ceil() * step;
        while tick < self.to {
            ticks.push(tick);
            tick += step;
        }
        ticks
    }
}

/// The next of 1, 2, 5, 10, 20, 50, ... that is not less than `value`.
pub(super) fn round_up(value: f64) -> f64 {
    let magnitude = 10_f64.powf(value.max(f64::MIN_POSITIVE).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * magnitude);
    steps.into_iter().find(|step| *step >= value * (1.0 - 1e-9)).unwrap_or(steps[3])
}

/// More stretches than this are drawn together with the next one if they lie closer than a pixel of a wide page.
const MOST_STRETCHES: usize = 1_200;

/// Stretches in the order of time, those that could not be told apart joined if there are very many.
pub(super) fn joined(stretches: Vec<(f64, f64)>, axis: Axis) -> Vec<(f64, f64)> {
    if stretches.len() <= MOST_STRETCHES {
        return stretches;
    }
    let pixel = axis.width() / MOST_STRETCHES as f64;
    let mut joined: Vec<(f64, f64)> = Vec::with_capacity(MOST_STRETCHES);
    for (from, to) in stretches {
        match joined.last_mut() {
            Some(last) if from < last.1 + pixel => last.1 = to.max(last.1),
            _ => joined.push((from, to)),
        }
    }
    joined
}

/// The `d` of an SVG path. Coordinates are rounded to a tenth.
#[derive(Debug, Default)]
pub(super) struct Path(String);

impl Path {
    /// A filled rectangle.
    pub(super) fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64) {
        let (x, y, width, height) = (tenths(x), tenths(y), tenths(width), tenths(height));
        let _ = write!(self.0, "M{x} {y}h{width}v{height}h-{width}z");
    }

    /// A vertical line.
    pub(super) fn upright(&mut self, x: f64, from: f64, to: f64) {
        let _ = write!(self.0, "M{} {}V{}", tenths(x), tenths(from), tenths(to));
    }

    /// A point, as wide as the stroke.
    pub(super) fn point(&mut self, x: f64, y: f64) {
        let _ = write!(self.0, "M{} {}h0", tenths(x), tenths(y));
    }

    pub(super) fn move_to(&mut self, x: f64, y: f64) {
        let _ = write!(self.0, "M{} {}", tenths(x), tenths(y));
    }

    pub(super) fn line_to(&mut self, x: f64, y: f64) {
        let _ = write!(self.0, "L{} {}", tenths(x), tenths(y));
    }

    /// Down or up to `y`, then along to `x`.
    pub(super) fn step_to(&mut self, x: f64, y: f64) {
        let _ = write!(self.0, "V{}H{}", tenths(y), tenths(x));
    }

    pub(super) fn close(&mut self) {
        self.0.push('z');
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A coordinate without needless digits.
fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!(
            format!("{:?}", [0.3, 1.1, 4.0, 51.0, 900.0].map(round_up)),
            "[0.5, 2.0, 5.0, 100.0, 1000.0]"
        );
        let axis = Axis { from: 185.0, to: 13_185.0 };
        assert_eq!(axis.ticks(8.0), [2_000.0, 4_000.0, 6_000.0, 8_000.0, 10_000.0, 12_000.0]);
    }

    #[test]
    fn stretches_are_joined_only_where_there_are_too_many_to_see() {
        let axis = Axis { from: 0.0, to: 1e6 };
        let every =
            |ms: f64, count: usize| (0..count).map(|at| (ms * at as f64, ms * at as f64 + 1.0)).collect();
        assert_eq!(joined(every(10.0, 1_000), axis).len(), 1_000);
        assert_eq!(joined(every(10.0, 2_000), axis), [(0.0, 19_991.0)]);
        assert!(joined(every(100.0, 10_000), axis).len() <= MOST_STRETCHES);
        assert_eq!(joined(every(900.0, 1_201), axis).len(), 1_201, "they lie further apart than a pixel");
    }

    #[test]
    fn what_lies_outside_is_drawn_at_the_edge() {
        let axis = Axis { from: 100.0, to: 200.0 };
        assert_eq!(format!("{:?}", [50.0, 150.0, 250.0].map(|t| axis.x(t))), "[0.0, 50.0, 100.0]");
    }
}
