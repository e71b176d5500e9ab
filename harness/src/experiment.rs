//! Runs load and rollout against a runtime, and cleans up whatever happens: success, error, panic or an interrupt.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::clock::Moment;
use crate::evidence::{KernelCounters, KernelWatch};
use crate::load::{Load, LoadError};
use crate::recorder::Recorder;
use crate::recording::{CutShort, LifecycleKind, Recording};
use crate::rollout::{self, Plan};
use crate::runtime::{Replica, Runtime, RuntimeError};
use crate::scenario::{End, Scenario};

/// Removing a few containers takes a second; an engine that hangs must not keep the harness.
const DISMANTLE_PATIENCE: Duration = Duration::from_mins(1);

/// The experiment could not be carried out at all. What went wrong later is in the recording.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// The outside world did not play along.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The load could not be generated.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Starts the replicas, rolls them under load, and returns what was seen. When `interrupt` is cancelled the run ends
/// early and returns what was seen until then.
///
/// # Errors
/// The replicas could not be brought up, or the load not be set up. Everything made until then has been removed.
///
/// # Panics
/// A panic inside is passed on after the clean-up.
pub async fn run<R: Runtime>(
    scenario: &Scenario,
    runtime: &R,
    recorder: Recorder,
    interrupt: &CancellationToken,
) -> Result<Recording, ExperimentError> {
    let conducted = AssertUnwindSafe(conduct(scenario, runtime, &recorder, interrupt)).catch_unwind().await;
    let dismantled = dismantle(runtime).await;
    let cut_short = match conducted {
        Ok(result) => result?,
        Err(panic) => resume_unwind(panic),
    };
    let recording = recorder.close(cut_short).await;
    dismantled?;
    Ok(recording)
}

async fn conduct<R: Runtime>(
    scenario: &Scenario,
    runtime: &R,
    recorder: &Recorder,
    interrupt: &CancellationToken,
) -> Result<Option<CutShort>, ExperimentError> {
    let replicas = tokio::select! {
        biased;
        () = interrupt.cancelled() => return Ok(Some(CutShort::Interrupted)),
        replicas = bring_up(scenario, runtime, recorder) => replicas?,
    };
    let counters = KernelCounters::read();
    let kernel_watch = KernelWatch::start(scenario.target.port, recorder.clone());
    let load = Load::start(&scenario.cohorts, scenario.timing.request_timeout, recorder)?;
    recorder.load_began();
    let cut_short = tokio::select! {
        biased;
        () = interrupt.cancelled() => Some(CutShort::Interrupted),
        result = roll(scenario, runtime, replicas, recorder) => result.err().map(CutShort::RolloutFailed),
        () = first_failure(scenario.end, recorder) => Some(CutShort::FailureFound),
        died = runtime.unexpected_end() => Some(CutShort::RolloutFailed(died.to_string())),
    };
    let load_ended = Moment::now();
    let totals = load.finish(patience(scenario, cut_short.as_ref())).await;
    drop(kernel_watch);
    recorder.load_ended(load_ended, totals, KernelCounters::read().since(&counters));
    if cut_short.is_none() {
        tokio::select! {
            biased;
            () = interrupt.cancelled() => {}
            result = runtime.retire(scenario.timing.stop_timeout) => result?,
        }
    }
    Ok(cut_short)
}

async fn bring_up<R: Runtime>(
    scenario: &Scenario,
    runtime: &R,
    recorder: &Recorder,
) -> Result<Vec<Replica>, RuntimeError> {
    let replicas = runtime.assemble().await?;
    for replica in &replicas {
        recorder.did(&replica.name, LifecycleKind::StartRequested);
        runtime.start(replica).await?;
        runtime.wait_until_ready(replica, scenario.timing.ready_timeout).await?;
    }
    Ok(replicas)
}

async fn roll<R: Runtime>(
    scenario: &Scenario,
    runtime: &R,
    replicas: Vec<Replica>,
    recorder: &Recorder,
) -> Result<(), String> {
    let plan = Plan {
        change: scenario.change.clone(),
        rounds: scenario.rounds,
        timing: scenario.timing,
        seed: scenario.seed,
    };
    tokio::time::sleep(scenario.timing.lead).await;
    rollout::roll(runtime, replicas, &plan, recorder).await.map_err(|error| error.to_string())?;
    tokio::time::sleep(scenario.timing.lead).await;
    Ok(())
}

/// Waits for the first failure if that is what ends the run.
async fn first_failure(end: End, recorder: &Recorder) {
    let is_found = match end {
        End::AtFirstFailure => recorder.live().wait_for(|live| live.failed > 0).await.is_ok(),
        End::AfterAllRounds => false,
    };
    if !is_found {
        std::future::pending::<()>().await;
    }
}

/// How long the requests in flight may take at the end. Each has its own timeout; an interrupted run does not wait.
fn patience(scenario: &Scenario, cut_short: Option<&CutShort>) -> Duration {
    if cut_short == Some(&CutShort::Interrupted) {
        return Duration::ZERO;
    }
    let longest = scenario.cohorts.iter().map(|plan| plan.delay).max().unwrap_or_default();
    scenario.timing.request_timeout + longest + Duration::from_secs(1)
}

async fn dismantle<R: Runtime>(runtime: &R) -> Result<(), RuntimeError> {
    match tokio::time::timeout(DISMANTLE_PATIENCE, runtime.dismantle()).await {
        Ok(result) => result,
        Err(_) => Err(RuntimeError::Engine {
            operation: "clean up".into(),
            reason: "the engine does not answer; `hitless clean` removes what is left".into(),
        }),
    }
}
