//! Where in a rollout a moment falls. Pure: built from moments, asked with moments.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::clock::RunTime;

/// Where in a rollout a moment falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Every replica is ready and none was told to stop.
    Steady,
    /// From the terminate of a replica until its end.
    Draining,
    /// From a replica's end until it is started again.
    Gap,
    /// From a replica's start until it is ready.
    Starting,
    /// Old and new are both ready, before the old one is told to stop (start-first replacement).
    Overlap,
}

impl Phase {
    /// Every phase, in the order of a restart.
    pub const ALL: [Self; 5] = [Self::Steady, Self::Draining, Self::Gap, Self::Starting, Self::Overlap];

    /// The name used in budgets and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Draining => "draining",
            Self::Gap => "gap",
            Self::Starting => "starting",
            Self::Overlap => "overlap",
        }
    }

    /// The position in [`Phase::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether a replica is being restarted or replaced in this phase.
    #[must_use]
    pub const fn is_restart(self) -> bool {
        !matches!(self, Self::Steady)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// A stretch of the run: from its moment to the next span's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first moment.
    pub from: RunTime,
    /// The phase from then on.
    pub phase: Phase,
    /// Which restart it belongs to, counted from 0; none while steady.
    pub restart: Option<usize>,
}

/// The phases of a run in the order of time.
#[derive(Debug, Clone, Default)]
pub struct Phases {
    spans: Vec<Span>,
}

impl Phases {
    /// A run that has just begun: nothing entered yet, so everything is steady.
    #[must_use]
    pub const fn new() -> Self {
        Self { spans: Vec::new() }
    }

    /// From `from` on, the run is in `phase`. Moments that go backwards are moved up to the last span's, since the
    /// engine's clock and ours may disagree by microseconds.
    pub fn enter(&mut self, from: RunTime, phase: Phase, restart: Option<usize>) {
        let from = self.spans.last().map_or(from, |last| from.max(last.from));
        self.spans.push(Span { from, phase, restart });
    }

    /// The phases of a restart, which is the latest, are these from now on; each begins at its time.
    pub fn follow(&mut self, restart: usize, phases: Vec<(RunTime, Phase)>) {
        let known = self.spans.iter().position(|span| span.restart == Some(restart));
        self.spans.truncate(known.unwrap_or(self.spans.len()));
        for (from, phase) in phases {
            self.enter(from, phase, phase.is_restart().then_some(restart));
        }
    }

    /// The phase at `moment`, and the restart it belongs to.
    #[must_use]
    pub fn at(&self, moment: RunTime) -> (Phase, Option<usize>) {
        let after = self.spans.partition_point(|span| span.from <= moment);
        after
            .checked_sub(1)
            .map_or((Phase::Steady, None), |index| (self.spans[index].phase, self.spans[index].restart))
    }

    /// The first moment from `from` to `to`, both included, that lies in a restart.
    #[must_use]
    pub fn first_in_restart(&self, from: RunTime, to: RunTime) -> Option<RunTime> {
        if self.at(from).0.is_restart() {
            return Some(from);
        }
        let next = self.spans.partition_point(|span| span.from <= from);
        let later = self.spans[next..].iter().take_while(|span| span.from <= to);
        later.into_iter().find(|span| span.phase.is_restart()).map(|span| span.from)
    }

    /// The first moment after `from`, and at `to` at the latest, at which a replica that was told to stop had ended.
    #[must_use]
    pub fn first_end_of_draining(&self, from: RunTime, to: RunTime) -> Option<RunTime> {
        let first = self.spans.partition_point(|span| span.from <= from).saturating_sub(1);
        let mut pairs = self.spans[first..].windows(2).take_while(|pair| pair[1].from <= to);
        pairs.find(|pair| pair[0].phase == Phase::Draining && pair[1].from > from).map(|pair| pair[1].from)
    }

    /// How long the run was in `phase` between two moments.
    #[must_use]
    pub fn time_in(&self, phase: Phase, from: RunTime, to: RunTime) -> Duration {
        let ends = self.spans.iter().skip(1).map(|next| next.from).chain([to]);
        let spans = self.spans.iter().zip(ends).filter(|(span, _)| span.phase == phase);
        spans.map(|(span, end)| end.min(to).since(span.from.max(from))).sum()
    }

    /// The spans, in the order of time.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanoseconds: i64) -> RunTime {
        RunTime::from_nanoseconds(nanoseconds)
    }

    #[test]
    fn moment_belongs_to_the_span_that_began_last() {
        let mut phases = Phases::new();
        phases.enter(at(10), Phase::Draining, Some(0));
        phases.enter(at(20), Phase::Gap, Some(0));
        phases.enter(at(15), Phase::Starting, Some(0));
        phases.enter(at(30), Phase::Steady, None);
        assert_eq!(phases.at(at(9)), (Phase::Steady, None));
        assert_eq!(phases.at(at(10)), (Phase::Draining, Some(0)));
        assert_eq!(phases.at(at(19)), (Phase::Draining, Some(0)));
        assert_eq!(phases.at(at(20)), (Phase::Starting, Some(0)), "a backward moment is moved up");
        assert_eq!(phases.at(at(31)), (Phase::Steady, None));
    }

    #[test]
    fn phases_of_the_latest_restart_are_replaced_and_the_earlier_ones_stay() {
        let mut phases = Phases::new();
        phases.follow(0, vec![(at(10), Phase::Draining), (at(20), Phase::Steady)]);
        phases.follow(1, vec![(at(30), Phase::Draining), (at(50), Phase::Steady)]);
        phases.follow(1, vec![(at(30), Phase::Draining), (at(40), Phase::Gap), (at(50), Phase::Steady)]);
        let spans: Vec<_> = phases.spans().iter().map(|span| (span.phase, span.restart)).collect();
        let expected = [
            (Phase::Draining, Some(0)),
            (Phase::Steady, None),
            (Phase::Draining, Some(1)),
            (Phase::Gap, Some(1)),
            (Phase::Steady, None),
        ];
        assert_eq!(spans, expected);
        assert_eq!(phases.at(at(45)), (Phase::Gap, Some(1)));
    }

    #[test]
    fn time_of_a_phase_is_that_of_all_its_spans_within_the_bounds() {
        let mut phases = Phases::new();
        for (from, phase) in [(10, Phase::Gap), (20, Phase::Steady), (30, Phase::Gap)] {
            phases.enter(at(from), phase, phase.is_restart().then_some(0));
        }
        assert_eq!(phases.time_in(Phase::Gap, at(0), at(45)), Duration::from_nanos(25));
        assert_eq!(phases.time_in(Phase::Gap, at(15), at(35)), Duration::from_nanos(10));
        assert_eq!(phases.time_in(Phase::Overlap, at(0), at(45)), Duration::ZERO);
    }

    #[test]
    fn restart_is_found_where_it_begins_within_a_stretch_of_time() {
        let mut phases = Phases::new();
        for (from, phase) in [(10, Phase::Draining), (20, Phase::Steady), (30, Phase::Draining)] {
            phases.enter(at(from), phase, phase.is_restart().then_some(0));
        }
        assert_eq!(phases.first_in_restart(at(0), at(9)), None);
        assert_eq!(phases.first_in_restart(at(0), at(10)), Some(at(10)));
        assert_eq!(phases.first_in_restart(at(12), at(12)), Some(at(12)));
        assert_eq!(phases.first_in_restart(at(21), at(99)), Some(at(30)));
        assert_eq!(phases.first_in_restart(at(21), at(29)), None);
    }

    #[test]
    fn end_of_a_drain_is_found_between_two_moments() {
        let mut phases = Phases::new();
        assert_eq!(phases.first_end_of_draining(at(0), at(99)), None);
        phases.follow(0, vec![(at(10), Phase::Draining), (at(20), Phase::Gap), (at(30), Phase::Steady)]);
        phases.follow(1, vec![(at(40), Phase::Draining), (at(50), Phase::Gap)]);
        for (from, to, end) in [
            (0, 19, None),
            (0, 20, Some(20)),
            (15, 99, Some(20)),
            (20, 49, None),
            (20, 99, Some(50)),
            (50, 99, None),
        ] {
            assert_eq!(phases.first_end_of_draining(at(from), at(to)), end.map(at), "{from} to {to}");
        }
    }

    #[test]
    fn index_is_the_position_in_all() {
        for (position, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase.index(), position);
        }
    }
}
