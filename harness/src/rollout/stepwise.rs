//! The rollout whose every stop and start is the harness's: the order of events, as straight-line code.

mod containers;
#[cfg(test)]
pub(crate) mod fake;
mod fleet;
mod launcher;
mod life;
mod logline;
pub mod output;
mod output_reader;
pub mod port;
mod preset;
pub(crate) mod process;
mod readiness;
mod tracked_replica;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

pub use containers::compose::server_of;
use containers::{ContainerLauncher, compose, docker};
use fleet::Fleet;
use launcher::Launcher;
use output::OutputFiles;
use process::ProcessLauncher;

use crate::host::engine::Engine;
use crate::model::clock::Moment;
use crate::model::lifecycle::LifecycleKind;
use crate::model::restart::{RestartId, RestartStep};
use crate::model::sink::Sink;
use crate::rollout::error::RolloutError;
use crate::rollout::replica::Replica;
use crate::rollout::{AnswerWatch, Rollout};
use crate::scenario::{Change, Order, Scenario, Timing, Version, Versions};

/// How long a replica that is ready may take until it has answered a request.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Restarts or replaces every replica in turn, round by round; the next one only when the last is ready and has answered.
#[derive(Debug)]
pub struct Stepwise {
    fleet: Fleet,
    sink: Arc<dyn Sink>,
    change: Change,
    rounds: u32,
    timing: Timing,
    seed: u64,
    replicas: Mutex<Vec<Replica>>,
}

impl Stepwise {
    /// A rollout of containers that the run makes of these images, and removes. Nothing is made yet. `run` and `owner` say
    /// whose the containers are.
    #[must_use]
    pub fn of_containers(
        engine: Engine,
        (run, owner): (&str, &str),
        images: Versions<String>,
        scenario: &Scenario,
        sink: Arc<dyn Sink>,
        outputs: OutputFiles,
    ) -> Self {
        let made = docker::MadeContainers::new(run, owner, images, scenario);
        let launcher = ContainerLauncher::new(engine, made.into(), scenario.target.port);
        Self::new(Box::new(launcher), scenario, sink, outputs)
    }

    /// A rollout of the services of a Compose project that run; those that the target's port leads to if `services` is empty.
    #[must_use]
    pub fn of_project(
        engine: Engine,
        file: PathBuf,
        services: Vec<String>,
        scenario: &Scenario,
        sink: Arc<dyn Sink>,
        outputs: OutputFiles,
    ) -> Self {
        let found = compose::ProjectContainers::new(file, services, scenario.target.port);
        let launcher = ContainerLauncher::new(engine, found.into(), scenario.target.port);
        Self::new(Box::new(launcher), scenario, sink, outputs)
    }

    /// A rollout of processes of this machine that run these commands, each the program and its arguments. Nothing is started
    /// yet. `run` and `owner` say whose the processes are.
    #[must_use]
    pub fn of_processes(
        (run, owner): (&str, &str),
        commands: Versions<Vec<OsString>>,
        scenario: &Scenario,
        sink: Arc<dyn Sink>,
        outputs: OutputFiles,
    ) -> Self {
        Self::new(Box::new(ProcessLauncher::new(run, owner, commands, scenario)), scenario, sink, outputs)
    }

    fn new(
        launcher: Box<dyn Launcher>,
        scenario: &Scenario,
        sink: Arc<dyn Sink>,
        outputs: OutputFiles,
    ) -> Self {
        Self {
            fleet: Fleet::new(launcher, scenario, Arc::clone(&sink), outputs),
            sink,
            change: scenario.change.clone(),
            rounds: scenario.rounds,
            timing: scenario.timing,
            seed: scenario.seed,
            replicas: Mutex::default(),
        }
    }

    async fn bring_up(&self) -> Result<usize, RolloutError> {
        let replicas = self.fleet.assemble().await?;
        for replica in &replicas {
            self.sink.record_now(&replica.name, LifecycleKind::StartRequested);
            self.fleet.start(replica).await?;
            self.fleet.wait_until_ready(replica, self.timing.ready_timeout).await?;
        }
        self.fleet.wait_until_first_answer(self.timing.ready_timeout).await;
        *self.replicas.lock().unwrap_or_else(PoisonError::into_inner) = replicas;
        Ok(self.fleet.len())
    }

    async fn roll(&self, answers: &dyn AnswerWatch) -> Result<(), RolloutError> {
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (fleet, sink, timing) = (&self.fleet, &*self.sink, self.timing);
        let mut jitter = Jitter::new(self.seed);
        let mut next = 0;
        tokio::time::sleep(timing.lead).await;
        for round in 1..=self.rounds {
            for replica in &mut replicas {
                tokio::time::sleep(timing.settle + jitter.next(timing.settle)).await;
                let restart = Restart { fleet, sink, answers, timing, id: RestartId(next), round };
                match &self.change {
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
        tokio::time::sleep(timing.lead).await;
        Ok(())
    }
}

impl Rollout for Stepwise {
    fn assemble(&self) -> BoxFuture<'_, Result<usize, RolloutError>> {
        self.bring_up().boxed()
    }

    fn perform<'a>(&'a self, answers: &'a dyn AnswerWatch) -> BoxFuture<'a, Result<(), RolloutError>> {
        self.roll(answers).boxed()
    }

    fn unexpected_end(&self) -> BoxFuture<'_, RolloutError> {
        self.fleet.unexpected_end().boxed()
    }

    fn retire(&self) -> BoxFuture<'_, Result<(), RolloutError>> {
        self.fleet.retire(self.timing.stop_timeout).boxed()
    }

    fn dismantle(&self) -> BoxFuture<'_, Result<(), RolloutError>> {
        self.fleet.dismantle(self.timing.stop_timeout).boxed()
    }
}

/// One restart or replacement.
struct Restart<'a> {
    fleet: &'a Fleet,
    sink: &'a dyn Sink,
    answers: &'a dyn AnswerWatch,
    timing: Timing,
    id: RestartId,
    round: u32,
}

impl Restart<'_> {
    async fn in_place(&self, replica: &Replica) -> Result<(), RolloutError> {
        self.begin(replica);
        self.stop(replica).await?;
        self.start(replica).await?;
        self.wait_until_it_serves(replica).await
    }

    async fn start_first(&self, old: &Replica, version: Version) -> Result<Replica, RolloutError> {
        self.begin(old);
        let new = self.fleet.successor(old, version, Order::StartFirst).await?;
        self.step(RestartStep::Succeeded { by: Arc::clone(&new.name) });
        self.start(&new).await?;
        self.wait_until_it_serves(&new).await?;
        self.stop(old).await?;
        self.fleet.discard(old).await?;
        Ok(new)
    }

    async fn stop_first(&self, old: &Replica, version: Version) -> Result<Replica, RolloutError> {
        self.begin(old);
        self.stop(old).await?;
        self.fleet.discard(old).await?;
        let new = self.fleet.successor(old, version, Order::StopFirst).await?;
        self.start(&new).await?;
        self.wait_until_it_serves(&new).await?;
        Ok(new)
    }

    fn begin(&self, replica: &Replica) {
        self.step(RestartStep::Began { replica: Arc::clone(&replica.name), round: self.round });
    }

    async fn stop(&self, replica: &Replica) -> Result<(), RolloutError> {
        self.sink.record_now(&replica.name, LifecycleKind::TerminateRequested);
        self.fleet.stop(replica, self.timing.stop_timeout).await
    }

    async fn start(&self, replica: &Replica) -> Result<(), RolloutError> {
        self.sink.record_now(&replica.name, LifecycleKind::StartRequested);
        self.fleet.start(replica).await
    }

    /// Waits until the replica is ready and has answered a request since.
    async fn wait_until_it_serves(&self, replica: &Replica) -> Result<(), RolloutError> {
        let ready = self.fleet.wait_until_ready(replica, self.timing.ready_timeout).await?;
        if !self.answers.wait_until_answered(&replica.name, ready, ANSWER_PATIENCE).await {
            let replica = Arc::clone(&replica.name);
            return Err(RolloutError::NoAnswer { replica, patience: ANSWER_PATIENCE });
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
    use crate::model::sink::Nowhere;
    use crate::options::Options;
    use crate::record::events::EventLog;
    use crate::record::recorder::Recorder;
    use crate::rollout::stepwise::fake::{Answers, FakeLauncher, Trouble};

    /// A scenario without pauses.
    fn scenario(change: impl FnOnce(&mut Options)) -> Scenario {
        let none = || Some("0s".to_owned());
        let mut options = Options {
            image: Some("any".into()),
            rounds: Some(2),
            lead: none(),
            settle: none(),
            ..Options::default()
        };
        change(&mut options);
        Scenario::from_options(&options).unwrap()
    }

    const MADE: [&str; 6] = ["make current a", "make current b", "start a", "ready a", "start b", "ready b"];

    #[tokio::test]
    async fn each_replica_is_restarted_in_turn_and_the_next_only_when_the_last_is_ready() {
        let scenario = scenario(|_| {});
        let recorder = Recorder::start(&scenario.cohorts, EventLog::discarding());
        let fake = FakeLauncher::new(Trouble::Nothing);
        let rollout = fake.rollout(&scenario, Arc::new(recorder.clone()));
        assert_eq!(rollout.assemble().await.unwrap(), 2);
        rollout.perform(&Answers(true)).await.unwrap();
        let once = ["stop a", "start a", "ready a", "stop b", "start b", "ready b"];
        assert_eq!(fake.asked(), [MADE, once, once].concat());
        let recording = recorder.close(None).await;
        assert_eq!(recording.restarts.len(), 4);
        assert!(recording.restarts.iter().all(|restart| restart.answered.is_some()));
    }

    /// What a replacement and the way back ask for, of replica `a`.
    async fn asked_for(order: &str) -> Vec<String> {
        let scenario = scenario(|options| {
            options.replace = Some("new".into());
            options.order = Some(order.into());
        });
        let fake = FakeLauncher::new(Trouble::Nothing);
        let rollout = fake.rollout(&scenario, Arc::new(Nowhere));
        rollout.assemble().await.unwrap();
        rollout.perform(&Answers(true)).await.unwrap();
        let asked = fake.asked().split_off(MADE.len());
        asked.into_iter().filter(|asked| asked.contains(" a")).collect()
    }

    #[tokio::test]
    async fn start_first_stops_the_old_one_only_when_the_new_one_is_ready() {
        let there = ["make replacement a.2", "start a.2", "ready a.2", "stop a", "discard a"];
        let back = ["make current a.3", "start a.3", "ready a.3", "stop a.2", "discard a.2"];
        assert_eq!(asked_for("start-first").await, [there, back].concat());
    }

    #[tokio::test]
    async fn stop_first_makes_the_new_one_when_the_old_one_is_gone() {
        let there = ["stop a", "discard a", "make replacement a", "start a", "ready a"];
        let back = ["stop a", "discard a", "make current a", "start a", "ready a"];
        assert_eq!(asked_for("stop-first").await, [there, back].concat());
    }

    #[tokio::test]
    async fn rollout_stops_at_the_first_replica_that_does_not_start() {
        let fake = FakeLauncher::new(Trouble::Start);
        let rollout = fake.rollout(&scenario(|_| {}), Arc::new(Nowhere));
        let error = rollout.assemble().await.unwrap_err();
        assert_eq!(error.to_string(), "failed to start replica a: no");
        assert_eq!(fake.asked(), ["make current a", "make current b", "start a"]);
    }

    #[tokio::test]
    async fn replica_that_answers_nothing_ends_the_rollout() {
        let fake = FakeLauncher::new(Trouble::Nothing);
        let rollout = fake.rollout(&scenario(|_| {}), Arc::new(Nowhere));
        rollout.assemble().await.unwrap();
        let error = rollout.perform(&Answers(false)).await.unwrap_err();
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
