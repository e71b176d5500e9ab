//! The load: streams of requests on open-loop schedules, each answer checked, each observation sent to the recorder.
//!
//! Owns the HTTP clients. Knows nothing of replicas, restarts, reports; a failed request is an [`Observation`], never
//! an error.

pub mod classify;
mod client;
pub mod cohort;
pub mod content;
pub mod schedule;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Moment;
use crate::failure::Failure;
use crate::recorder::Recorder;
pub use client::ConnectionUse;
use client::{Client, PoolError};
use cohort::CohortPlan;
use schedule::Schedule;

/// One request, from its scheduled start to its end.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Which cohort, by its position in the scenario.
    pub cohort: usize,
    /// Which request of the cohort, from 0.
    pub number: u64,
    /// When it should have started: latency counts from here.
    pub scheduled: Moment,
    /// When the generator got round to it. Later than scheduled means that the harness was short of CPU.
    pub dispatched: Moment,
    /// When it was sent: later than dispatched if the cohort's concurrency was used up.
    pub started: Moment,
    /// When the answer was complete, or the failure known.
    pub finished: Moment,
    /// How it ended.
    pub outcome: Outcome,
    /// Who answered, if the answer said so, even if it was not the expected one.
    pub replica: Option<Arc<str>>,
    /// What is known of its connection.
    pub connection: Option<ConnectionUse>,
}

impl Observation {
    /// Whether it waited, because its cohort's concurrency was used up.
    #[must_use]
    pub fn has_waited(&self) -> bool {
        self.started.since(self.dispatched) > Duration::from_millis(1)
    }
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As expected: status, body, length.
    Answered,
    /// Any other way.
    Failed(Failure),
}

/// How many requests and connections a cohort began. What was begun and never observed was cut by the end of the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CohortTotals {
    /// Requests that were sent.
    pub sent: u64,
    /// What its client counted.
    pub client: ClientTotals,
}

/// What a cohort's client counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientTotals {
    /// Connections that were established.
    pub connections: u64,
    /// Requests that the client's pool repeated on its own; none where nothing can be repeated.
    pub replayed: Option<u64>,
    /// Connections that the server closed while they were idle; none where the client cannot see it.
    pub closed_idle: Option<u64>,
}

/// The load cannot be generated.
#[derive(Debug, thiserror::Error)]
#[error("failed to set up the load: {0}")]
pub struct LoadError(String);

impl From<PoolError> for LoadError {
    fn from(error: PoolError) -> Self {
        Self(error.to_string())
    }
}

/// Load that runs until it is told to stop. Dropping it aborts what is in flight.
#[derive(Debug)]
pub struct Load {
    streams: Vec<Stream>,
    tracker: TaskTracker,
    stop: CancellationToken,
    abort: CancellationToken,
}

#[derive(Debug)]
struct Stream {
    sent: Arc<AtomicU64>,
    client: Arc<Client>,
}

impl Load {
    /// Starts every cohort's stream. `request_timeout` bounds each request beyond its cohort's expected delay.
    ///
    /// # Errors
    /// A client could not be built.
    pub fn start(
        plans: &[CohortPlan],
        request_timeout: Duration,
        recorder: &Recorder,
    ) -> Result<Self, LoadError> {
        let (tracker, stop, abort) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let mut streams = Vec::with_capacity(plans.len());
        for (position, plan) in plans.iter().enumerate() {
            let stream = Stream {
                sent: Arc::new(AtomicU64::new(0)),
                client: Arc::new(Client::build(plan, request_timeout)?),
            };
            let driver = Driver {
                cohort: position,
                schedule: Schedule::new(plan.rate, position, plans.len()),
                permits: Arc::new(Semaphore::new(plan.concurrency)),
                sent: Arc::clone(&stream.sent),
                client: Arc::clone(&stream.client),
                recorder: recorder.clone(),
                tracker: tracker.clone(),
                stop: stop.clone(),
                abort: abort.clone(),
            };
            tracker.spawn(driver.run());
            streams.push(stream);
        }
        tracker.close();
        Ok(Self { streams, tracker, stop, abort })
    }

    /// Starts nothing new, waits at most `patience` for what is in flight, aborts the rest, and says what was begun.
    pub async fn finish(self, patience: Duration) -> Vec<CohortTotals> {
        self.stop.cancel();
        if tokio::time::timeout(patience, self.tracker.wait()).await.is_err() {
            self.abort.cancel();
            self.tracker.wait().await;
        }
        self.streams
            .iter()
            .map(|stream| CohortTotals {
                sent: stream.sent.load(Ordering::Relaxed),
                client: stream.client.totals(),
            })
            .collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
        self.abort.cancel();
    }
}

/// One cohort's generator: sends a request at each moment of its schedule, whatever became of the ones before.
struct Driver {
    cohort: usize,
    schedule: Schedule,
    permits: Arc<Semaphore>,
    sent: Arc<AtomicU64>,
    client: Arc<Client>,
    recorder: Recorder,
    tracker: TaskTracker,
    stop: CancellationToken,
    abort: CancellationToken,
}

impl Driver {
    async fn run(self) {
        let (origin, began) = (tokio::time::Instant::now(), Moment::now());
        for number in 0.. {
            let due = self.schedule.due(number);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep_until(origin + due) => {}
            }
            let (scheduled, dispatched) = (began.plus(due), Moment::now());
            let permit = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                permit = Arc::clone(&self.permits).acquire_owned() => permit,
            };
            self.sent.fetch_add(1, Ordering::Relaxed);
            let (cohort, client, recorder) = (self.cohort, Arc::clone(&self.client), self.recorder.clone());
            let abort = self.abort.clone();
            self.tracker.spawn(async move {
                let started = Moment::now();
                let answer = tokio::select! {
                    biased;
                    () = abort.cancelled() => return,
                    answer = client.request() => answer,
                };
                drop(permit);
                recorder.observe(Observation {
                    cohort,
                    number,
                    scheduled,
                    dispatched,
                    started,
                    finished: Moment::now(),
                    outcome: answer.outcome,
                    replica: answer.replica,
                    connection: answer.connection,
                });
            });
        }
    }
}
