//! Where in a rollout a moment falls. Pure: built from moments, asked with moments.
//!
//! Each restart has a lane of its own, since the restarts of a rollout may overlap. Where lanes overlap, the phase in which
//! most can go wrong has precedence.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
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
    /// From the moment when a balancer should send nothing more to a replica until its terminate.
    Withdrawing,
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
    pub const ALL: [Self; 6] =
        [Self::Steady, Self::Withdrawing, Self::Draining, Self::Gap, Self::Starting, Self::Overlap];

    /// The name used in budgets and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Withdrawing => "withdrawing",
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

    /// Which of two phases of the same moment counts: the greater one.
    const fn precedence(self) -> u8 {
        match self {
            Self::Steady => 0,
            Self::Overlap => 1,
            Self::Withdrawing => 2,
            Self::Starting => 3,
            Self::Gap => 4,
            Self::Draining => 5,
        }
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

/// The phases of one restart, each with its beginning; after the last one it stays as it is.
type Lane = Vec<(RunTime, Phase)>;

/// The phases of a run in the order of time.
#[derive(Debug, Clone, Default)]
pub struct Phases {
    lanes: BTreeMap<usize, Lane>,
    /// What the lanes come to together.
    spans: Vec<Span>,
    /// When a replica that was told to stop had ended, and in which restart.
    ends_of_draining: BTreeSet<(RunTime, usize)>,
}

impl Phases {
    /// A run that has just begun: nothing entered yet, so everything is steady.
    #[must_use]
    pub const fn new() -> Self {
        Self { lanes: BTreeMap::new(), spans: Vec::new(), ends_of_draining: BTreeSet::new() }
    }

    /// The phases of a restart are these from now on; each begins at its time. Times that go backwards are moved up to the
    /// time before, since the engine's clock and ours may disagree by microseconds.
    pub fn follow(&mut self, restart: usize, mut phases: Vec<(RunTime, Phase)>) {
        for index in 1..phases.len() {
            phases[index].0 = phases[index].0.max(phases[index - 1].0);
        }
        let Some(new) = phases.first().map(|first| first.0) else { return };
        self.ends_of_draining.extend(ends_of_draining(&phases).map(|end| (end, restart)));
        let mut changed = new;
        if let Some(old) = self.lanes.insert(restart, phases) {
            let kept: BTreeSet<RunTime> = ends_of_draining(&self.lanes[&restart]).collect();
            for end in ends_of_draining(&old).filter(|end| !kept.contains(end)) {
                self.ends_of_draining.remove(&(end, restart));
            }
            changed = old.first().map_or(new, |first| first.0.min(new));
        }
        self.merge_from(changed);
    }

    /// Puts the lanes together anew from a moment on.
    fn merge_from(&mut self, from: RunTime) {
        self.spans.truncate(self.spans.partition_point(|span| span.from < from));
        let is_later = |lane: &Lane| lane.last().is_some_and(|(at, phase)| *at >= from || phase.is_restart());
        let lanes: Vec<_> = self.lanes.iter().filter(|(_, lane)| is_later(lane)).collect();
        let boundaries = lanes.iter().flat_map(|(_, lane)| lane.iter().map(|(at, _)| *at));
        let boundaries: BTreeSet<RunTime> = boundaries.filter(|at| *at >= from).collect();
        for from in boundaries {
            let phases = lanes.iter().filter_map(|(restart, lane)| Some((phase_of(lane, from)?, **restart)));
            let greatest = phases.max_by_key(|(phase, restart)| (phase.precedence(), *restart));
            let (phase, restart) = greatest.unwrap_or((Phase::Steady, 0));
            let span = Span { from, phase, restart: phase.is_restart().then_some(restart) };
            let last = self.spans.last();
            if last.is_none_or(|last| (last.phase, last.restart) != (span.phase, span.restart)) {
                self.spans.push(span);
            }
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
        let later = self.ends_of_draining.range((Bound::Excluded((from, usize::MAX)), Bound::Unbounded));
        later.map(|(end, _)| *end).next().filter(|end| *end <= to)
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

/// What a restart is in at a moment, if it has begun.
fn phase_of(lane: &Lane, at: RunTime) -> Option<Phase> {
    let after = lane.partition_point(|(from, _)| *from <= at);
    Some(lane[after.checked_sub(1)?].1)
}

fn ends_of_draining(lane: &Lane) -> impl Iterator<Item = RunTime> {
    let is_end = |pair: &&[(RunTime, Phase)]| pair[0].1 == Phase::Draining && pair[1].1 != Phase::Draining;
    lane.windows(2).filter(is_end).map(|pair| pair[1].0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanoseconds: i64) -> RunTime {
        RunTime::from_nanoseconds(nanoseconds)
    }

    /// The phases of restart 0, with nanoseconds.
    fn phases(of: &[(i64, Phase)]) -> Phases {
        let mut phases = Phases::new();
        phases.follow(0, lane(of));
        phases
    }

    fn lane(of: &[(i64, Phase)]) -> Lane {
        of.iter().map(|(from, phase)| (at(*from), *phase)).collect()
    }

    fn spans(phases: &Phases) -> Vec<(RunTime, Phase, Option<usize>)> {
        phases.spans().iter().map(|span| (span.from, span.phase, span.restart)).collect()
    }

    #[test]
    fn moment_belongs_to_the_span_that_began_last() {
        let phases =
            phases(&[(10, Phase::Draining), (20, Phase::Gap), (15, Phase::Starting), (30, Phase::Steady)]);
        assert_eq!(phases.at(at(9)), (Phase::Steady, None));
        assert_eq!(phases.at(at(10)), (Phase::Draining, Some(0)));
        assert_eq!(phases.at(at(19)), (Phase::Draining, Some(0)));
        assert_eq!(phases.at(at(20)), (Phase::Starting, Some(0)), "a backward moment is moved up");
        assert_eq!(phases.at(at(31)), (Phase::Steady, None));
    }

    #[test]
    fn of_restarts_that_overlap_the_phase_in_which_most_can_go_wrong_counts() {
        let mut phases = phases(&[(10, Phase::Withdrawing), (20, Phase::Draining), (40, Phase::Steady)]);
        phases.follow(1, lane(&[(15, Phase::Starting), (30, Phase::Overlap), (60, Phase::Draining)]));
        let expected = [
            (at(10), Phase::Withdrawing, Some(0)),
            (at(15), Phase::Starting, Some(1)),
            (at(20), Phase::Draining, Some(0)),
            (at(40), Phase::Overlap, Some(1)),
            (at(60), Phase::Draining, Some(1)),
        ];
        assert_eq!(spans(&phases), expected);
        phases.follow(0, lane(&[(10, Phase::Withdrawing), (20, Phase::Draining), (70, Phase::Steady)]));
        let expected = [expected[0], expected[1], expected[2], (at(60), Phase::Draining, Some(1))];
        assert_eq!(spans(&phases), expected, "an earlier restart that goes on is put together anew");
        assert_eq!(phases.first_end_of_draining(at(20), at(99)), Some(at(70)), "not at 40 any more");
    }

    #[test]
    fn lanes_come_to_the_same_whatever_the_order_of_arrival() {
        let lanes = [
            lane(&[(10, Phase::Draining), (25, Phase::Gap), (30, Phase::Starting), (50, Phase::Steady)]),
            lane(&[(20, Phase::Draining), (45, Phase::Gap), (55, Phase::Starting), (70, Phase::Steady)]),
            lane(&[(60, Phase::Starting), (65, Phase::Overlap), (80, Phase::Draining), (90, Phase::Steady)]),
        ];
        let in_order = |order: &[usize]| {
            let mut phases = Phases::new();
            for length in 1..=4 {
                for restart in order {
                    phases.follow(*restart, lanes[*restart][..length].to_vec());
                }
            }
            spans(&phases)
        };
        let expected = in_order(&[0, 1, 2]);
        for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            assert_eq!(in_order(&order), expected, "{order:?}");
        }
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
        let phases = phases(&[(10, Phase::Gap), (20, Phase::Steady), (30, Phase::Gap)]);
        assert_eq!(phases.time_in(Phase::Gap, at(0), at(45)), Duration::from_nanos(25));
        assert_eq!(phases.time_in(Phase::Gap, at(15), at(35)), Duration::from_nanos(10));
        assert_eq!(phases.time_in(Phase::Overlap, at(0), at(45)), Duration::ZERO);
    }

    #[test]
    fn restart_is_found_where_it_begins_within_a_stretch_of_time() {
        let phases = phases(&[(10, Phase::Draining), (20, Phase::Steady), (30, Phase::Draining)]);
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
