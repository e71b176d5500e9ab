//! The load: streams of requests on open-loop schedules, each answer checked, each observation sent to the recorder.
//!
//! Owns the HTTP clients. Knows nothing of replicas, restarts, reports; a failed request is an [`Observation`], never
//! an error.

pub mod classify;
mod client;
pub mod content;
mod pulse;
pub mod schedule;
mod undeclared;
mod workers;

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::model::clock::Moment;
use crate::model::cohort::{CohortKind, CohortPlan};
use crate::model::fresh_connections::FreshConnectionRequests;
use crate::model::observation::{CohortTotals, Observation};
use crate::model::sink::Sink;
use client::{Client, PoolError};
use schedule::Schedule;
use workers::Workers;

/// How often a sink that is behind is asked whether it has caught up.
const SINK_POLL: Duration = Duration::from_millis(4);

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
        sink: &Arc<dyn Sink>,
        fresh_connections: &FreshConnectionRequests,
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
                client: Client::build(plan, request_timeout, fresh_connections.clone())?,
                sink: Arc::clone(sink),
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
            .map(|handle| AbortOnDropHandle::new(handle.spawn(pulse::beat(Arc::clone(sink)))))
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
    sink: Arc<dyn Sink>,
    stop: Arc<Stop>,
}

impl Stream {
    /// What tells a request from every other of the run.
    const fn token(&self, number: u64) -> u64 {
        number * CohortKind::ALL.len() as u64 + self.cohort as u64
    }

    /// Waits while the sink has more observations to take than it should have to keep: the requests are late, which the
    /// verdict knows, and the memory is bounded.
    async fn wait_until_sink_keeps_up(&self) {
        while self.sink.is_behind() {
            tokio::time::sleep(SINK_POLL).await;
        }
    }

    async fn send_until_stopped(self: Arc<Self>, turns: impl Iterator<Item = usize>) {
        for turn in turns {
            self.wait_until_sink_keeps_up().await;
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
            let zero = self.sink.zero();
            self.sink.observe(Observation {
                cohort: self.cohort,
                number,
                scheduled: scheduled.relative_to(zero),
                dispatched: dispatched.relative_to(zero),
                started: started.relative_to(zero),
                finished: Moment::now().relative_to(zero),
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

    use std::sync::Mutex;

    use super::*;
    use crate::model::lifecycle::LifecycleEvent;
    use crate::model::listener::Sighting;
    use crate::model::restart::{RestartId, RestartStep};
    /// Keeps what the tests ask for.
    #[derive(Debug, Default)]
    struct Stalls(Mutex<Vec<(Moment, Moment)>>);

    impl Sink for Stalls {
        fn zero(&self) -> Moment {
            Moment::from_nanoseconds(0)
        }
        fn observe(&self, _: Observation) {}
        fn lifecycle(&self, _: LifecycleEvent) {}
        fn restart(&self, _: RestartId, _: Moment, _: RestartStep) {}
        fn listeners(&self, _: Moment, _: Vec<Sighting>) {}
        fn stalled(&self, from: Moment, to: Moment) {
            self.0.lock().unwrap().push((from, to));
        }
        fn dropped(&self, _: Moment, _: Moment, _: u64) {}
        fn is_behind(&self) -> bool {
            false
        }
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn one_sender_goes_round_all_of_a_cohorts_clients() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let plans = [CohortPlan { url, rate: 1e6, ..CohortPlan::of(CohortKind::Pooled) }];
        let sink: Arc<dyn Sink> = Arc::<Stalls>::default();
        let load = Load::start(&plans, PATIENCE, &sink, &FreshConnectionRequests::default()).unwrap();
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
        let cpus = crate::host::limits::cpus();
        let plans = [CohortPlan { concurrency: cpus, ..CohortPlan::of(CohortKind::Fresh) }];
        for position in 0..cpus {
            let stalls = Arc::<Stalls>::default();
            let sink: Arc<dyn Sink> = Arc::<Stalls>::clone(&stalls);
            let load = Load::start(&plans, PATIENCE, &sink, &FreshConnectionRequests::default()).unwrap();
            let thread = &load._workers.handles()[position];
            // It wants to beat every 10 ms, and cannot.
            thread.spawn(async { std::thread::sleep(Duration::from_millis(100)) }).await.unwrap();
            // The beat is due before this ends.
            thread.spawn(tokio::time::sleep(Duration::from_millis(30))).await.unwrap();
            load.finish(PATIENCE).await;
            assert!(!stalls.0.lock().unwrap().is_empty(), "that of thread {position} was not");
        }
    }
}
