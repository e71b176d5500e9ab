//! The load: streams of requests on open-loop schedules, each answer checked, each observation sent to the recorder.
//!
//! Owns the HTTP clients. Knows nothing of replicas, restarts, reports; a failed request is an [`Observation`], never
//! an error.

pub mod classify;
mod client;
pub mod cohort;
pub mod content;
mod pulse;
pub mod schedule;
mod workers;

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::Moment;
use crate::failure::Failure;
use crate::recorder::Recorder;
pub use client::ConnectionUse;
use client::{Client, PoolError};
use cohort::{CohortKind, CohortPlan};
use schedule::Schedule;
use workers::Workers;

/// One request, from its scheduled start to its end.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Which cohort, by its position in the scenario.
    pub cohort: usize,
    /// Which request of the cohort, from 0.
    pub number: u64,
    /// When it should have started: latency counts from here.
    pub scheduled: Moment,
    /// When the generator got round to it, or would have if the cohort's concurrency had not been used up. Later than
    /// scheduled means that the harness was short of CPU.
    pub dispatched: Moment,
    /// When it was sent: later than dispatched if the cohort's concurrency was used up.
    pub started: Moment,
    /// When the answer was complete, or the failure known.
    pub finished: Moment,
    /// How it ended.
    pub outcome: Outcome,
    /// Who answered, if the answer said so, even if it was not the expected one.
    pub replica: Option<Arc<str>>,
    /// What is known of its connection, if it failed.
    pub connection: Option<Box<ConnectionUse>>,
}

impl Observation {
    /// A request that was due and sent at `started`, and ended 10 ms later.
    #[cfg(test)]
    pub(crate) fn at(started: Moment, outcome: Outcome) -> Self {
        Self {
            cohort: 0,
            number: 0,
            scheduled: started,
            dispatched: started,
            started,
            finished: started.plus(Duration::from_millis(10)),
            outcome,
            replica: None,
            connection: None,
        }
    }

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
    Failed(Box<Failure>),
}

impl Outcome {
    /// A failure.
    #[must_use]
    pub fn failed(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }

    /// This outcome, unless it is an answer and something was wrong with it after all.
    #[must_use]
    pub(crate) fn unless(self, wrong: Option<Failure>) -> Self {
        match (self, wrong) {
            (Self::Answered, Some(failure)) => Self::failed(failure),
            (outcome, _) => outcome,
        }
    }
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
    streams: Vec<Arc<Stream>>,
    tasks: JoinSet<()>,
    stop: Arc<Stop>,
    /// End with the load.
    _pulses: Vec<AbortOnDropHandle<()>>,
    _workers: Workers,
}

/// The word that nothing new is to be sent: a flag for senders that are busy, which costs them no lock, and a token that
/// wakes those that wait for their turn.
#[derive(Debug, Default)]
struct Stop {
    is_said: AtomicBool,
    wake: CancellationToken,
}

impl Load {
    /// Starts every cohort's stream. `request_timeout` bounds each request beyond its cohort's expected delay.
    ///
    /// # Errors
    /// A client could not be built, or there are no more threads.
    pub fn start(
        plans: &[CohortPlan],
        request_timeout: Duration,
        recorder: &Recorder,
    ) -> Result<Self, LoadError> {
        let (mut tasks, stop) = (JoinSet::new(), Arc::<Stop>::default());
        let most = plans.iter().map(|plan| plan.concurrency).max().unwrap_or(1);
        let workers = Workers::start(most).map_err(|error| LoadError(error.to_string()))?;
        let handles = workers.handles();
        let mut streams = Vec::with_capacity(plans.len());
        let (origin, began) = (tokio::time::Instant::now(), Moment::now());
        for (position, plan) in plans.iter().enumerate() {
            let stream = Arc::new(Stream {
                cohort: position,
                schedule: Schedule::new(plan.rate, position, plans.len()),
                origin,
                began,
                next: AtomicU64::new(0),
                sent: AtomicU64::new(0),
                client: Client::build(plan, request_timeout, recorder.newcomers())?,
                recorder: recorder.clone(),
                stop: Arc::clone(&stop),
            });
            for sender in 0..plan.concurrency {
                // Each sender's turns are its own: nothing is shared to know whose turn it is, and all together go round.
                let turns = (sender..).step_by(plan.concurrency);
                let handle = &handles[sender % handles.len()];
                tasks.spawn_on(Arc::clone(&stream).send_until_stopped(turns), handle);
            }
            streams.push(stream);
        }
        let pulses = handles
            .iter()
            .map(|handle| AbortOnDropHandle::new(handle.spawn(pulse::beat(recorder.clone()))))
            .collect();
        Ok(Self { streams, tasks, stop, _pulses: pulses, _workers: workers })
    }

    /// Starts nothing new, waits at most `patience` for what is in flight, aborts the rest, and says what was begun.
    ///
    /// # Panics
    /// A panic of a sender is passed on.
    pub async fn finish(mut self, patience: Duration) -> Vec<CohortTotals> {
        self.stop.is_said.store(true, Ordering::Relaxed);
        self.stop.wake.cancel();
        let all_ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                pass_on_panic(ended);
            }
        };
        if tokio::time::timeout(patience, all_ended).await.is_err() {
            self.tasks.shutdown().await;
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

fn pass_on_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        resume_unwind(panic);
    }
}

/// One cohort's generator. As many senders as it may have requests in flight take the requests of its schedule in turn:
/// each takes the next one, waits until it is due, whatever became of the ones before, and sees it through. A request that
/// nobody takes in time, because every sender has one in flight, starts late and says so.
#[derive(Debug)]
struct Stream {
    cohort: usize,
    schedule: Schedule,
    origin: tokio::time::Instant,
    began: Moment,
    next: AtomicU64,
    sent: AtomicU64,
    client: Client,
    recorder: Recorder,
    stop: Arc<Stop>,
}

impl Stream {
    /// What tells a request from every other of the run.
    const fn token(&self, number: u64) -> u64 {
        number * CohortKind::ALL.len() as u64 + self.cohort as u64
    }

    async fn send_until_stopped(self: Arc<Self>, turns: impl Iterator<Item = usize>) {
        for turn in turns {
            self.recorder.wait_until_it_keeps_up().await;
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let due = self.schedule.due(number);
            let scheduled = self.began.plus(due);
            let is_free_in_time = Moment::now() < scheduled;
            if is_free_in_time {
                tokio::select! {
                    biased;
                    () = self.stop.wake.cancelled() => return,
                    () = tokio::time::sleep_until(self.origin + due) => {}
                }
            } else if self.stop.is_said.load(Ordering::Relaxed) {
                return;
            }
            let started = Moment::now();
            let dispatched = if is_free_in_time { started } else { scheduled };
            self.sent.fetch_add(1, Ordering::Relaxed);
            let answer = self.client.request(self.token(number), turn).await;
            self.recorder.observe(Observation {
                cohort: self.cohort,
                number,
                scheduled,
                dispatched,
                started,
                finished: Moment::now(),
                connection: answer.connection_of_failure(),
                outcome: answer.outcome,
                replica: answer.replica,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::events::EventLog;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn one_sender_goes_round_all_of_a_cohorts_clients() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let plans = [CohortPlan { url, rate: 1e6, ..CohortPlan::of(CohortKind::Pooled) }];
        let recorder = Recorder::start(&plans, EventLog::discarding());
        let load = Load::start(&plans, PATIENCE, &recorder).unwrap();
        let clients = async {
            for _ in 0..client::POOLS {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    }
                });
            }
        };
        tokio::time::timeout(PATIENCE, clients).await.expect("a connection of each client");
        let totals = load.finish(PATIENCE).await;
        assert_eq!(totals[0].client.connections, client::POOLS as u64, "and no more: each keeps its own");
    }

    #[tokio::test]
    #[expect(clippy::used_underscore_binding, reason = "only a test looks at the threads")]
    async fn stall_of_any_of_the_threads_is_seen() {
        let cpus = crate::environment::cpus();
        let plans = [CohortPlan { concurrency: cpus, ..CohortPlan::of(CohortKind::Fresh) }];
        for position in 0..cpus {
            let recorder = Recorder::start(&plans, EventLog::discarding());
            let load = Load::start(&plans, PATIENCE, &recorder).unwrap();
            let thread = &load._workers.handles()[position];
            // It wants to beat every 10 ms, and cannot.
            thread.spawn(async { std::thread::sleep(Duration::from_millis(100)) }).await.unwrap();
            // The beat is due before this ends.
            thread.spawn(tokio::time::sleep(Duration::from_millis(30))).await.unwrap();
            load.finish(PATIENCE).await;
            let recording = recorder.close(None).await;
            assert!(!recording.stalls.total.is_zero(), "that of thread {position} was not");
        }
    }
}
