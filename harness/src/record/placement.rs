//! Where a request's end belongs: to which phase of which restart, next to which event in a replica's life, and whether the
//! machine rather than the server may have caused it. Pure; the [`recorder`](crate::record::recorder) asks when everything that
//! explains a request has arrived.

use std::time::Duration;

use crate::model::clock::RunTime;
use crate::model::failure::{Cause, FailureClass};
use crate::model::interference::{Drops, Stalls};
use crate::model::lifecycle::{LifecycleEvent, LifecycleKind, Source};
use crate::model::observation::{ConnectionUse, Observation, Outcome};
use crate::model::phase::{Phase, Phases};

/// How far back the nearest lifecycle event is looked for.
const NEAREST_WITHIN: usize = 256;
/// How long after its listener closed a reset is taken for the accept queue's: the kernel sends it at once, the client
/// reads it when it gets to run.
const RESET_SEEN_WITHIN: Duration = Duration::from_millis(50);
/// How much two clocks' words for the same moment may differ.
const CLOCKS_DIFFER: Duration = Duration::from_millis(1);

/// A phase, and the restart that it belongs to, counted from 0.
type Spot = (Phase, Option<usize>);

/// Where a request belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placement {
    /// When what happened to it did happen, as far as can be told.
    pub(crate) happened: RunTime,
    /// Where that was.
    pub(crate) spot: Spot,
    /// Where it was due.
    pub(crate) due: Spot,
    /// Where it was sent.
    pub(crate) sent: Spot,
    /// Whether it was under way in some restart.
    pub(crate) is_in_restart: bool,
}

impl Placement {
    /// Places a request that was meant to take `delay`.
    pub(crate) fn of(observation: &Observation, delay: Duration, phases: &Phases) -> Self {
        let happened = moment_of(observation, delay, phases);
        let under_way = phases.first_in_restart(observation.started, observation.finished);
        Self {
            happened,
            spot: phases.at(happened),
            due: phases.at(observation.scheduled),
            sent: phases.at(observation.started),
            is_in_restart: under_way.is_some(),
        }
    }
}

/// When what happened to a request did happen. What a client is told, it is told at the end, but for a refusal, which may
/// be seen when all is steady again. Silence began with the request, long before it is seen; one that was meant to take a
/// while is silent from the restart on that came before its answer was due.
fn moment_of(observation: &Observation, delay: Duration, phases: &Phases) -> RunTime {
    let Outcome::Failed(failure) = &observation.outcome else { return observation.finished };
    let started = observation.started;
    match failure.class {
        FailureClass::ConnectTimeout => started,
        FailureClass::Timeout => phases.first_in_restart(started, started.plus(delay)).unwrap_or(started),
        FailureClass::Refused if !phases.at(observation.finished).0.is_restart() => started,
        // A process that ends takes its connections with it at that moment, whenever their clients notice: what was asked
        // before was cut then, and by the drain that ended, not by the process that came next.
        class if class.is_cut() => phases
            .first_end_of_draining(started, observation.finished)
            .map_or(observation.finished, |ended| ended.minus(Duration::from_nanos(1))),
        _ => observation.finished,
    }
}

/// Whether a client that repeats an idempotent request once, when its kept connection broke before any answer, would
/// have reported success: what Go's `net/http` does (`shouldRetryRequest` in its transport.go). Never said of a connection
/// of which nothing is known.
pub(crate) fn is_hidden_by_retries(class: FailureClass, connection: Option<ConnectionUse>) -> bool {
    connection.is_some_and(ConnectionUse::is_kept)
        && matches!(class, FailureClass::EmptyReply | FailureClass::ResetBeforeResponse)
}

/// Why a failure says nothing of the server, if it does: silence, when the harness could not listen
/// ([`Stalls::excuse`]) or the kernel lost the question ([`Drops::touch`]). What the kernel drops for want of room in its
/// table are new connections, so a request whose connection was there has no such excuse.
pub(crate) fn excuse(observation: &Observation, stalls: &Stalls, drops: &Drops) -> Option<String> {
    let Outcome::Failed(failure) = &observation.outcome else { return None };
    if !failure.class.is_silence() {
        return None;
    }
    let (from, to) = (observation.started, observation.finished);
    let stalled = stalls.within(from, to);
    let never_connected = failure.class == FailureClass::ConnectTimeout;
    if Stalls::excuse(stalled, to.since(from)) {
        Some(format!("the harness was stalled for {} ms of it", stalled.as_millis()))
    } else if never_connected && drops.touch(from, to) {
        Some("the kernel dropped packets meanwhile, since its table of connections was full".to_owned())
    } else {
        None
    }
}

/// The lifecycle event nearest to `moment`, among the latest ones. A server that logs knows best when it did what, but it
/// does not log its own death; the engine's and the harness's word counts for that, and where there is no such log.
pub(crate) fn nearest(events: &[LifecycleEvent], moment: RunTime) -> Option<(&LifecycleEvent, f64)> {
    let latest = latest(events);
    let has_log = latest.iter().any(|event| event.source == Source::Server);
    let is_death = |event: &LifecycleEvent| {
        event.source == Source::Engine && matches!(event.kind, LifecycleKind::Killed | LifecycleKind::Exited)
    };
    latest
        .iter()
        .filter(|event| !has_log || event.source == Source::Server || is_death(event))
        .min_by_key(|event| event.t.since(moment).max(moment.since(event.t)))
        .map(|event| (event, moment.ms_since(event.t)))
}

/// What caused a failure, where more can be said than its class: a reset of a connection on which nothing had been asked
/// before, just after a listener closed, came out of that listener's accept queue.
pub(crate) fn cause(
    class: FailureClass,
    connection: Option<ConnectionUse>,
    events: &[LifecycleEvent],
    moment: RunTime,
) -> Option<Cause> {
    let is_first = connection.is_some_and(|used| used.nth == Some(1));
    if class != FailureClass::ResetBeforeResponse || !is_first {
        return None;
    }
    let is_just_before = |event: &&LifecycleEvent| {
        event.t <= moment.plus(CLOCKS_DIFFER) && moment.since(event.t) <= RESET_SEEN_WITHIN
    };
    let mut closed = latest(events).iter().filter(|event| event.kind == LifecycleKind::ListenerClosed);
    closed.any(|event| is_just_before(&event)).then_some(Cause::AcceptQueue)
}

fn latest(events: &[LifecycleEvent]) -> &[LifecycleEvent] {
    &events[events.len().saturating_sub(NEAREST_WITHIN)..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::failure::Failure;

    const NONE: Duration = Duration::ZERO;

    const fn at(ms: i64) -> RunTime {
        RunTime::from_nanoseconds(ms * 1_000_000)
    }

    /// Two restarts: the first has its gap from 10 to 20, the second from 1000 to 1010.
    fn phases() -> Phases {
        let mut phases = Phases::new();
        phases.follow(0, vec![(at(10), Phase::Gap), (at(20), Phase::Steady)]);
        phases.follow(1, vec![(at(1000), Phase::Gap), (at(1010), Phase::Steady)]);
        phases
    }

    fn observed(class: FailureClass, started: i64, finished: i64) -> Observation {
        let outcome = Outcome::failed(Failure::new(class, ""));
        Observation { finished: at(finished), ..Observation::at(at(started), outcome) }
    }

    fn spot(class: FailureClass, started: i64, finished: i64, delay: Duration) -> Spot {
        Placement::of(&observed(class, started, finished), delay, &phases()).spot
    }

    #[test]
    fn connect_that_was_refused_in_the_gap_is_the_gaps_even_if_it_is_seen_after_it() {
        assert_eq!(spot(FailureClass::Refused, 15, 19, NONE), (Phase::Gap, Some(0)));
        assert_eq!(spot(FailureClass::Refused, 15, 21, NONE), (Phase::Gap, Some(0)));
        assert_eq!(
            spot(FailureClass::Refused, 9, 12, NONE),
            (Phase::Gap, Some(0)),
            "refused at the end, not before"
        );
    }

    #[test]
    fn silence_belongs_to_the_restart_in_which_it_began_whichever_it_is_seen_in() {
        for class in [FailureClass::Timeout, FailureClass::ConnectTimeout] {
            assert_eq!(spot(class, 15, 500, NONE), (Phase::Gap, Some(0)));
            assert_eq!(
                spot(class, 15, 1005, NONE),
                (Phase::Gap, Some(0)),
                "seen in the second restart's gap"
            );
            assert_eq!(spot(class, 500, 1005, NONE), (Phase::Steady, None), "it was silent long before");
        }
    }

    #[test]
    fn request_that_was_meant_to_take_a_while_falls_silent_in_the_restart_before_its_answer_was_due() {
        let second = Duration::from_secs(1);
        assert_eq!(spot(FailureClass::Timeout, 500, 6500, second), (Phase::Gap, Some(1)));
        assert_eq!(spot(FailureClass::Timeout, 500, 6500, NONE), (Phase::Steady, None));
        assert_eq!(spot(FailureClass::ConnectTimeout, 500, 6500, second), (Phase::Steady, None));
    }

    #[test]
    fn request_that_a_dying_process_cut_is_the_drains_whenever_its_client_notices() {
        let mut phases = Phases::new();
        let lane = [(10, Phase::Draining), (20, Phase::Gap), (22, Phase::Starting), (24, Phase::Steady)];
        phases.follow(0, lane.map(|(from, phase)| (at(from), phase)).into());
        let spot = |class, started, finished| {
            Placement::of(&observed(class, started, finished), NONE, &phases).spot.0
        };
        for class in [FailureClass::ResetBeforeResponse, FailureClass::EmptyReply, FailureClass::Truncated] {
            assert_eq!(spot(class, 5, 21), Phase::Draining);
            assert_eq!(spot(class, 15, 23), Phase::Draining, "noticed while the next process starts");
            assert_eq!(spot(class, 15, 30), Phase::Draining, "noticed when all is steady");
            assert_eq!(spot(class, 21, 23), Phase::Starting, "asked after the old process had ended");
        }
        assert_eq!(spot(FailureClass::HttpError, 15, 23), Phase::Starting, "somebody has answered");
    }

    #[test]
    fn connection_that_breaks_when_all_is_steady_again_is_no_restarts() {
        assert_eq!(spot(FailureClass::EmptyReply, 15, 21, NONE).0, Phase::Steady);
        assert_eq!(spot(FailureClass::Truncated, 15, 500, NONE).0, Phase::Steady);
    }

    #[test]
    fn request_is_due_in_one_phase_sent_in_another_and_under_way_in_a_restart() {
        let late = Observation { scheduled: at(15), ..observed(FailureClass::Other, 30, 40) };
        let placed = Placement::of(&late, NONE, &phases());
        assert_eq!((placed.due.0, placed.sent.0, placed.is_in_restart), (Phase::Gap, Phase::Steady, false));
        assert!(Placement::of(&observed(FailureClass::Other, 500, 2000), NONE, &phases()).is_in_restart);
    }

    const KEPT: ConnectionUse = ConnectionUse { nth: None, sent: None, received: None };

    #[test]
    fn only_what_broke_on_a_kept_connection_is_hidden_by_retries() {
        let second = ConnectionUse { nth: Some(2), ..KEPT };
        for class in [FailureClass::EmptyReply, FailureClass::ResetBeforeResponse] {
            assert!(is_hidden_by_retries(class, Some(KEPT)) && is_hidden_by_retries(class, Some(second)));
            assert!(!is_hidden_by_retries(class, Some(ConnectionUse::FIRST)));
            assert!(!is_hidden_by_retries(class, None), "nothing is known of it");
        }
        for class in [FailureClass::Refused, FailureClass::Truncated, FailureClass::Timeout] {
            assert!(!is_hidden_by_retries(class, Some(KEPT)), "{class}");
        }
    }

    #[test]
    fn dropped_packets_excuse_only_what_never_got_a_connection() {
        let (stalls, mut drops) = (Stalls::default(), Drops::default());
        drops.add(at(100), at(125), 1);
        let excused = |class| excuse(&observed(class, 50, 5050), &stalls, &drops).is_some();
        assert!(excused(FailureClass::ConnectTimeout));
        assert!(!excused(FailureClass::Timeout) && !excused(FailureClass::EmptyReply));
        let later = observed(FailureClass::ConnectTimeout, 200, 5200);
        assert_eq!(excuse(&later, &stalls, &drops), None);
    }

    #[test]
    fn stalls_excuse_silence_and_nothing_that_a_client_is_told() {
        let mut stalls = Stalls::default();
        stalls.add(at(100), at(600));
        let excused = |class| excuse(&observed(class, 50, 1050), &stalls, &Drops::default());
        assert!(excused(FailureClass::Timeout).is_some_and(|text| text.contains("500 ms")));
        assert_eq!(excused(FailureClass::Refused), None);
    }

    fn event(ms: i64, kind: LifecycleKind, source: Source) -> LifecycleEvent {
        LifecycleEvent {
            t: at(ms),
            replica: "a".into(),
            node: None,
            kind,
            source,
            fields: serde_json::Map::new(),
        }
    }

    #[test]
    fn death_is_the_engines_to_tell_even_beside_a_servers_log() {
        let events = [
            event(10, LifecycleKind::Ready, Source::Server),
            event(500, LifecycleKind::SignalSent, Source::Engine),
            event(510, LifecycleKind::Killed, Source::Engine),
        ];
        let (near, offset) = nearest(&events, at(500)).unwrap();
        assert_eq!((near.kind, offset < 0.0), (LifecycleKind::Killed, true));
        assert_eq!(nearest(&events, at(12)).unwrap().0.kind, LifecycleKind::Ready);
        assert_eq!(
            nearest(&events[1..], at(500)).unwrap().0.kind,
            LifecycleKind::SignalSent,
            "without a log"
        );
        assert!(nearest(&[], at(1)).is_none());
    }

    #[test]
    fn reset_of_a_new_connection_after_its_listener_closed_is_the_accept_queues() {
        let events = [event(100, LifecycleKind::ListenerClosed, Source::Server)];
        let of = |class, used, ms| cause(class, Some(used), &events, at(ms));
        let reset = FailureClass::ResetBeforeResponse;
        assert_eq!(of(reset, ConnectionUse::FIRST, 103), Some(Cause::AcceptQueue));
        assert_eq!(of(reset, ConnectionUse::FIRST, 98), None, "before it closed");
        assert_eq!(of(reset, ConnectionUse::FIRST, 200), None, "long after");
        assert_eq!(of(reset, KEPT, 103), None);
        assert_eq!(of(FailureClass::EmptyReply, ConnectionUse::FIRST, 103), None);
    }
}
