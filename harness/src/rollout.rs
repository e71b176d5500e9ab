//! The order of events of a rollout, as straight-line code. Sees the [`Runtime`] trait, never an engine.

pub mod runtime;

use std::sync::Arc;
use std::time::Duration;

use crate::model::clock::Moment;
use crate::model::lifecycle::LifecycleKind;
use crate::model::restart::{RestartId, RestartStep};
use crate::model::sink::Sink;
use crate::rollout::runtime::{Replica, Runtime, RuntimeError};
use crate::scenario::{Change, Order, Timing, Version};

/// How long a replica that is ready may take until it has answered a request.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// What a rollout has to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What happens to each replica.
    pub change: Change,
    /// How often.
    pub rounds: u32,
    /// Pauses and bounds.
    pub timing: Timing,
    /// Moves the restarts against the load.
    pub seed: u64,
}

/// The rollout could not go on.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A replica that is ready gets no request, or answers none.
    #[error(
        "replica {replica} was ready but answered no request within {}",
        humantime::format_duration(ANSWER_PATIENCE)
    )]
    NoAnswer {
        /// Who.
        replica: Arc<str>,
    },
}

/// Says when a replica has answered requests.
pub trait AnswerWatch: Sync {
    /// Waits until `replica` has answered a request that was sent at or after `since`; true when it has, false when
    /// `patience` ran out.
    fn wait_until_answered(
        &self,
        replica: &str,
        since: Moment,
        patience: Duration,
    ) -> impl Future<Output = bool> + Send;
}

/// Restarts or replaces every replica in turn, `plan.rounds` times; the next one only when the last is ready and has
/// answered.
///
/// # Errors
/// A replica could not be stopped or started, did not become ready, or answered nothing.
pub async fn roll<R: Runtime, A: AnswerWatch>(
    runtime: &R,
    mut replicas: Vec<Replica>,
    plan: &Plan,
    sink: &dyn Sink,
    answers: &A,
) -> Result<(), RolloutError> {
    let mut jitter = Jitter::new(plan.seed);
    let mut next = 0;
    for round in 1..=plan.rounds {
        for replica in &mut replicas {
            tokio::time::sleep(plan.timing.settle + jitter.next(plan.timing.settle)).await;
            let restart = Restart { runtime, sink, answers, timing: plan.timing, id: RestartId(next), round };
            match &plan.change {
                Change::Restart => restart.in_place(replica).await?,
                Change::Replace { order, .. } => {
                    // There in the odd rounds, back in the even ones.
                    let version = if round % 2 == 1 { Version::Replacement } else { Version::Current };
                    *replica = match order {
                        Order::StartFirst => restart.start_first(replica, version).await?,
                        Order::StopFirst => restart.stop_first(replica, version).await?,
                    };
                }
            }
            next += 1;
        }
    }
    Ok(())
}

/// One restart or replacement.
struct Restart<'a, R, A> {
    runtime: &'a R,
    sink: &'a dyn Sink,
    answers: &'a A,
    timing: Timing,
    id: RestartId,
    round: u32,
}

impl<R: Runtime, A: AnswerWatch> Restart<'_, R, A> {
    async fn in_place(&self, replica: &Replica) -> Result<(), RolloutError> {
        self.begin(replica);
        self.stop(replica).await?;
        self.start(replica).await?;
        self.wait_until_it_serves(replica).await
    }

    async fn start_first(&self, old: &Replica, version: Version) -> Result<Replica, RolloutError> {
        self.begin(old);
        let new = self.runtime.successor(old, version, Order::StartFirst).await?;
        self.step(RestartStep::Succeeded { by: Arc::clone(&new.name) });
        self.start(&new).await?;
        self.wait_until_it_serves(&new).await?;
        self.stop(old).await?;
        self.runtime.discard(old).await?;
        Ok(new)
    }

    async fn stop_first(&self, old: &Replica, version: Version) -> Result<Replica, RolloutError> {
        self.begin(old);
        self.stop(old).await?;
        self.runtime.discard(old).await?;
        let new = self.runtime.successor(old, version, Order::StopFirst).await?;
        self.start(&new).await?;
        self.wait_until_it_serves(&new).await?;
        Ok(new)
    }

    fn begin(&self, replica: &Replica) {
        self.step(RestartStep::Began { replica: Arc::clone(&replica.name), round: self.round });
    }

    async fn stop(&self, replica: &Replica) -> Result<(), RolloutError> {
        self.sink.record_now(&replica.name, LifecycleKind::TerminateRequested);
        Ok(self.runtime.stop(replica, self.timing.stop_timeout).await?)
    }

    async fn start(&self, replica: &Replica) -> Result<(), RolloutError> {
        self.sink.record_now(&replica.name, LifecycleKind::StartRequested);
        Ok(self.runtime.start(replica).await?)
    }

    /// Waits until the replica is ready and has answered a request since.
    async fn wait_until_it_serves(&self, replica: &Replica) -> Result<(), RolloutError> {
        let ready = self.runtime.wait_until_ready(replica, self.timing.ready_timeout).await?;
        if !self.answers.wait_until_answered(&replica.name, ready, ANSWER_PATIENCE).await {
            return Err(RolloutError::NoAnswer { replica: Arc::clone(&replica.name) });
        }
        self.step(RestartStep::Answered);
        Ok(())
    }

    fn step(&self, step: RestartStep) {
        self.sink.restart(self.id, Moment::now(), step);
    }
}

/// A small repeatable sequence (`SplitMix64`), so that restarts do not fall into step with the load's schedule.
struct Jitter(u64);

impl Jitter {
    const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Between nothing and a tenth of `of`.
    fn next(&mut self, of: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        (of / 10).mul_f64(mixed as f64 / u64::MAX as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cohort::{CohortKind, CohortPlan};
    use crate::model::sink::Nowhere;
    use crate::record::events::EventLog;
    use crate::record::recorder::Recorder;
    use crate::rollout::runtime::twin::{Trouble, Twin};
    use crate::scenario::{LaunchSource, StopTimeout};

    fn replicas() -> Vec<Replica> {
        ["a", "b"].map(|name| Replica { name: name.into() }).into()
    }

    const PLAN: Plan = Plan {
        change: Change::Restart,
        rounds: 2,
        timing: Timing {
            lead: Duration::ZERO,
            settle: Duration::ZERO,
            stop_timeout: StopTimeout::Own,
            ready_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(1),
        },
        seed: 1,
    };

    #[tokio::test]
    async fn each_replica_is_restarted_in_turn_and_the_next_only_when_the_last_is_ready() {
        let recorder = Recorder::start(&[CohortPlan::of(CohortKind::Fresh)], EventLog::discarding());
        let twin = Twin::new(Trouble::Nothing, Arc::new(recorder.clone()));
        roll(&twin, replicas(), &PLAN, &recorder, &twin).await.unwrap();
        let once = ["stop a", "start a", "ready a", "stop b", "start b", "ready b"];
        assert_eq!(twin.asked(), [once, once].concat());
        let recording = recorder.close(None).await;
        assert_eq!(recording.restarts.len(), 4);
        assert!(recording.restarts.iter().all(|restart| restart.answered.is_some()));
    }

    async fn asked_for(order: Order) -> Vec<String> {
        let twin = Twin::new(Trouble::Nothing, Arc::new(Nowhere));
        let change = Change::Replace { with: LaunchSource::Image("new".into()), order };
        let one = vec![Replica { name: "a".into() }];
        roll(&twin, one, &Plan { change, ..PLAN }, &Nowhere, &twin).await.unwrap();
        twin.asked()
    }

    #[tokio::test]
    async fn start_first_stops_the_old_one_only_when_the_new_one_is_ready() {
        let there = ["make replacement for a", "start a+", "ready a+", "stop a", "discard a"];
        let back = ["make current for a+", "start a++", "ready a++", "stop a+", "discard a+"];
        assert_eq!(asked_for(Order::StartFirst).await, [there, back].concat());
    }

    #[tokio::test]
    async fn stop_first_makes_the_new_one_when_the_old_one_is_gone() {
        let there = ["stop a", "discard a", "make replacement for a", "start a+", "ready a+"];
        let back = ["stop a+", "discard a+", "make current for a+", "start a++", "ready a++"];
        assert_eq!(asked_for(Order::StopFirst).await, [there, back].concat());
    }

    #[tokio::test]
    async fn rollout_stops_at_the_first_replica_that_does_not_start() {
        let twin = Twin::new(Trouble::Start, Arc::new(Nowhere));
        let error = roll(&twin, replicas(), &PLAN, &Nowhere, &twin).await.unwrap_err();
        assert_eq!(error.to_string(), "failed to start replica a: no");
        assert_eq!(twin.asked(), ["stop a", "start a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn replica_that_answers_nothing_ends_the_rollout() {
        let twin = Twin::new(Trouble::NoAnswer, Arc::new(Nowhere));
        let error = roll(&twin, replicas(), &PLAN, &Nowhere, &twin).await.unwrap_err();
        assert!(matches!(error, RolloutError::NoAnswer { .. }), "{error}");
    }

    #[test]
    fn jitter_repeats_with_its_seed_and_stays_below_a_tenth() {
        let settle = Duration::from_secs(1);
        let draw = |seed| {
            let mut jitter = Jitter::new(seed);
            [(); 50].map(|()| jitter.next(settle))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().all(|pause| *pause <= settle / 10));
    }
}
