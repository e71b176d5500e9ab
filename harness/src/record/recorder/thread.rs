//! The recorder's thread. Observations wait here for a moment before they are placed, since a replica's log line or the
//! engine's event may arrive after the request that it explains. Owns `events.jsonl`; whatever was seen is on disk about a
//! second later, however the run ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::pending::Pending;
use super::poll_interval::PollInterval;
use super::{Live, Record};
use crate::model::budget::{Budget, FailureCount};
use crate::model::clock::{Moment, RunTime, milliseconds};
use crate::model::cohort::CohortPlan;
use crate::model::cut_short::CutShort;
use crate::model::failed_request::FailedRequest;
use crate::model::failure::{Failure, FailureClass};
use crate::model::observation::{ConnectionUse, Observation, Outcome};
use crate::model::restart::{RestartId, RestartStep};
use crate::record::events::EventLog;
use crate::record::placement::{self, Placement};
use crate::record::recording::{CohortRecord, Recording};

/// How long an observation waits for the events that explain it.
const HOLD: Duration = Duration::from_millis(1500);
/// How often what was counted is handed on.
const HAND_ON_EVERY: Duration = Duration::from_secs(1);
/// How many records are taken at once.
const BATCH: usize = 4096;

/// The thread's state: the recording so far, and what is still to be placed.
#[derive(Debug)]
pub(super) struct RecorderThread {
    zero: Moment,
    recording: Recording,
    cohorts: Vec<CohortPlan>,
    counts: Vec<FailureCount>,
    waiting: VecDeque<Observation>,
    pending: Pending,
    handed_on: RunTime,
    log: EventLog,
    live: Live,
    publish: watch::Sender<Live>,
    on_the_way: Arc<AtomicUsize>,
}

impl RecorderThread {
    pub(super) fn new(
        zero: Moment,
        cohorts: &[CohortPlan],
        budgets: &[Budget],
        log: EventLog,
        publish: watch::Sender<Live>,
        on_the_way: Arc<AtomicUsize>,
    ) -> Self {
        let records = cohorts.iter().map(|plan| CohortRecord::new(plan.kind.name())).collect();
        Self {
            zero,
            recording: Recording { cohorts: records, ..Recording::new() },
            cohorts: cohorts.to_vec(),
            counts: budgets.iter().filter_map(FailureCount::of).collect(),
            waiting: VecDeque::new(),
            pending: Pending::default(),
            handed_on: RunTime::ZERO,
            log,
            live: Live::default(),
            publish,
            on_the_way,
        }
    }

    pub(super) fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Record>, interval: &PollInterval) {
        let mut batch = Vec::with_capacity(BATCH);
        while inbox.blocking_recv_many(&mut batch, BATCH) > 0 {
            let is_all = batch.len() < BATCH;
            for record in batch.drain(..) {
                match record {
                    Record::Close { cut_short, reply } => {
                        let _ = reply.send(self.finish(cut_short));
                        return;
                    }
                    other => self.take(other),
                }
            }
            let now = Moment::now().relative_to(self.zero);
            self.place_until(now.minus(HOLD));
            if now.since(self.handed_on) >= HAND_ON_EVERY {
                self.hand_on(now);
            }
            self.publish.send_replace(self.live.clone());
            if is_all {
                interval.wait();
            }
        }
    }

    fn take(&mut self, record: Record) {
        match record {
            Record::Observation(observation) => self.observe(observation),
            Record::Lifecycle(event) => {
                self.log.lifecycle(&event);
                self.recording.take_event(event);
                self.show_phase();
            }
            Record::Restart { id, at, step } => self.restart(id, at, step),
            Record::LoadBegan(at) => {
                self.recording.load_began(at);
                self.log.load_began(at);
            }
            Record::Listeners { at, seen } => self.pending.listeners(at, seen, &self.recording.timeline),
            Record::Stall { from, to } => {
                self.log.stalled(from, to);
                self.recording.stalls.add(from, to);
            }
            Record::Drop { from, to, packets } => {
                self.log.dropped(from, to, packets);
                self.recording.drops.add(from, to, packets);
            }
            Record::LoadEnded { at, totals, kernel } => {
                self.log.load_ended(at, &totals, &kernel);
                self.recording.load_ended(at, totals, kernel);
            }
            Record::Close { .. } => unreachable!("the loop ends with it"),
        }
    }

    fn observe(&mut self, observation: Observation) {
        self.on_the_way.fetch_sub(1, Ordering::Relaxed);
        self.live.observe(&observation);
        self.waiting.push_back(observation);
    }

    /// Shows the phase that the run is in now.
    fn show_phase(&mut self) {
        if let (Some(span), Some(restart)) =
            (self.recording.phases.spans().last(), self.recording.restarts.last())
        {
            self.live.phase = Some((span.phase, Arc::clone(&restart.replica)));
        }
    }

    fn restart(&mut self, id: RestartId, at: RunTime, step: RestartStep) {
        if let RestartStep::Began { replica, .. } = &step {
            self.live.restarts += 1;
            self.live.restarting = Some(Arc::clone(replica));
        }
        self.live.ended += usize::from(matches!(step, RestartStep::Answered));
        self.log.restart(at, id.0, step.clone());
        self.recording.take_step(id, at, step);
    }

    /// Places what ended at or before `settled`. Records arrive nearly in the order of their ends; one that is behind
    /// a later one waits a little longer.
    fn place_until(&mut self, settled: RunTime) {
        while self.waiting.front().is_some_and(|observation| observation.finished <= settled) {
            if let Some(observation) = self.waiting.pop_front() {
                self.place(observation);
            }
        }
    }

    fn place(&mut self, mut observation: Observation) {
        self.excuse(&mut observation);
        let plan = &self.cohorts[observation.cohort];
        let placement = Placement::of(&observation, plan.delay, &self.recording.phases);
        self.pending.observe(&observation, &placement, &self.recording.timeline, plan.kind.is_long());
        if let Outcome::Failed(failure) = &observation.outcome {
            self.failed(&observation, &placement, failure);
        }
    }

    fn failed(&mut self, observation: &Observation, placement: &Placement, failure: &Failure) {
        let recording = &mut self.recording;
        let (phase, restart) = placement.spot;
        let (class, connection) = (failure.class, observation.connection.as_deref().copied());
        let nearest = placement::nearest(&recording.events, placement.happened);
        let failure = FailedRequest {
            t: observation.finished,
            cohort: self.cohorts[observation.cohort].kind,
            number: observation.number,
            class,
            curl_exit: None,
            phase,
            restart,
            offset_ms: nearest.map(|(_, offset)| offset),
            event: nearest.map(|(event, _)| event.kind),
            replica: nearest.map(|(event, _)| Arc::clone(&event.replica)),
            answered_by: observation.replica.clone(),
            cause: placement::cause(class, connection, &recording.events, placement.happened),
            after_ms: milliseconds(observation.finished.since(observation.started)),
            blame: String::new(),
            connection_request: connection.and_then(|used| used.nth),
            on_kept_connection: connection.map(ConnectionUse::is_kept),
            bytes: connection.and_then(|used| used.sent.zip(used.received)),
            hidden_by_retries: placement::is_hidden_by_retries(class, connection),
            detail: failure.detail.clone(),
        }
        .told();
        self.log.failure(&failure);
        if self.counts.is_empty() {
            self.live.is_broken |= class.is_servers();
        }
        for count in &mut self.counts {
            self.live.is_broken |= count.add(failure.cohort.name(), phase, class);
        }
        recording.failures.add(failure);
    }

    /// Calls a failure what it is if the machine, and not the server, may have caused it.
    fn excuse(&mut self, observation: &mut Observation) {
        let Some(excuse) = placement::excuse(observation, &self.recording.stalls, &self.recording.drops)
        else {
            return;
        };
        let Outcome::Failed(failure) = &mut observation.outcome else { return };
        self.live.excuse(failure.class);
        failure.class = FailureClass::HarnessResource;
        failure.detail = format!("{}: {excuse}", failure.detail);
    }

    /// Gives the recording and the log what was counted since the last time.
    fn hand_on(&mut self, now: RunTime) {
        self.handed_on = now;
        for delta in self.pending.take_deltas() {
            self.log.delta(now, &delta, self.cohorts[delta.cohort].kind);
            self.recording.add(&delta);
        }
        let width = self.recording.timeline.width;
        for (began, stretch) in self.pending.take_stretches() {
            self.log.stretch(began, width, &stretch);
            self.recording.add_to_timeline(began.plus(width / 2), &stretch);
        }
        for listener in self.pending.take_listeners() {
            self.log.listener(listener);
            self.recording.listeners.add(listener);
        }
        self.log.flush();
    }

    fn finish(mut self, cut_short: Option<CutShort>) -> Recording {
        self.place_until(RunTime::MAX);
        self.recording.ended = Moment::now().relative_to(self.zero);
        self.hand_on(self.recording.ended);
        self.recording.cut_short = cut_short;
        self.recording.attach_accounts();
        self.log.close(&self.recording);
        self.recording.is_log_broken = self.log.is_broken();
        self.publish.send_replace(self.live);
        self.recording
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cohort::CohortKind;

    /// Whether failures, placed, break one of these budgets.
    fn breaks(budgets: &[&str], classes: &[FailureClass], stall: bool) -> bool {
        let budgets: Vec<Budget> = budgets.iter().map(|text| text.parse().unwrap()).collect();
        let (publish, _live) = watch::channel(Live::default());
        let (cohorts, log) = ([CohortPlan::of(CohortKind::Fresh)], EventLog::discarding());
        let on_the_way = Arc::new(AtomicUsize::new(classes.len()));
        let mut recorder = RecorderThread::new(log.zero(), &cohorts, &budgets, log, publish, on_the_way);
        let began = RunTime::ZERO;
        if stall {
            recorder.take(Record::Stall { from: began, to: began.plus(Duration::from_millis(10)) });
        }
        for class in classes {
            let outcome = Outcome::failed(Failure::new(*class, ""));
            recorder.take(Record::Observation(Observation::at(began, outcome)));
        }
        recorder.place_until(RunTime::MAX);
        recorder.live.is_broken
    }

    #[test]
    fn hunt_ends_at_a_failure_that_the_budgets_count() {
        use FailureClass::{Refused, Timeout};
        assert!(breaks(&["failed==0"], &[Refused], false));
        assert!(breaks(&[], &[Refused], false));
        assert!(breaks(&["p(99)<1s"], &[Refused], false), "no budget counts failures");
        assert!(!breaks(&["empty_reply==0"], &[Refused], false), "the budgets allow it");
        assert!(!breaks(&["failed<3"], &[Refused; 2], false));
        assert!(breaks(&["failed<3"], &[Refused; 3], false));
        assert!(!breaks(&["slow.failed==0"], &[Refused], false));
        assert!(breaks(&["failed==0"], &[Timeout], false));
        assert!(!breaks(&["failed==0"], &[Timeout], true), "the harness was stalled all the while");
    }
}
