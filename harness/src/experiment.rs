//! Runs load and rollout against a runtime, and cleans up whatever happens: success, error, panic or an interrupt.

mod answers;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use answers::RecordedAnswers;

use crate::host::engine::EngineError;
use crate::host::kernel::KernelCounters;
use crate::host::watch::KernelWatch;
use crate::load::{Load, LoadError};
use crate::model::clock::Moment;
use crate::model::cut_short::CutShort;
use crate::model::fresh_connections::FreshConnectionRequests;
use crate::model::lifecycle::LifecycleKind;
use crate::model::observation::CohortTotals;
use crate::model::sink::Sink;
use crate::record::recorder::Recorder;
use crate::record::recording::Recording;
use crate::rollout::runtime::{Replica, Runtime, RuntimeError};
use crate::rollout::{self, Plan, RolloutError};
use crate::scenario::{End, Scenario, StopTimeout};

/// Removing a few containers takes a second; an engine that hangs must not keep the harness. A replica that is on its way
/// to its end has its stop timeout beside.
const DISMANTLE_PATIENCE: Duration = Duration::from_mins(1);
/// A container's own stop timeout is seldom longer.
const LONGEST_STOP: Duration = Duration::from_mins(5);

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

/// What came of an experiment.
#[derive(Debug)]
pub struct Experiment {
    /// What was seen.
    pub recording: Recording,
    /// What went wrong when all was seen: replicas that did not end in an orderly way, or that could not be removed. It
    /// takes nothing away from what was seen.
    pub cleanup_errors: Vec<String>,
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
) -> Result<Experiment, ExperimentError> {
    let mut cleanup_errors = Vec::new();
    let conducting = conduct(scenario, runtime, &recorder, interrupt, &mut cleanup_errors);
    let conducted = AssertUnwindSafe(conducting).catch_unwind().await;
    let dismantled = dismantle(runtime, scenario.timing.stop_timeout).await;
    let cut_short = match conducted {
        Ok(result) => result?,
        Err(panic) => resume_unwind(panic),
    };
    cleanup_errors.extend(dismantled.err().map(|error| error.to_string()));
    Ok(Experiment { recording: recorder.close(cut_short).await, cleanup_errors })
}

async fn conduct<R: Runtime>(
    scenario: &Scenario,
    runtime: &R,
    recorder: &Recorder,
    interrupt: &CancellationToken,
    cleanup_errors: &mut Vec<String>,
) -> Result<Option<CutShort>, ExperimentError> {
    let replicas = tokio::select! {
        biased;
        () = interrupt.cancelled() => return Ok(Some(CutShort::Interrupted)),
        replicas = bring_up(scenario, runtime, recorder) => replicas?,
    };
    let counters = KernelCounters::read();
    let fresh_connections = FreshConnectionRequests::default();
    let sink: Arc<dyn Sink> = Arc::new(recorder.clone());
    let kernel_watch = KernelWatch::start(scenario.target.port, Arc::clone(&sink));
    let timeout = scenario.timing.request_timeout;
    let load = Load::start(&scenario.cohorts, timeout, &sink, &fresh_connections)?;
    recorder.load_began();
    let answers = RecordedAnswers { recorder, fresh_connections: &fresh_connections };
    let cut_short = tokio::select! {
        biased;
        () = interrupt.cancelled() => Some(CutShort::Interrupted),
        result = roll(scenario, runtime, replicas, &answers) => result.err(),
        () = first_failure(scenario.end, recorder) => Some(CutShort::FailureFound),
        died = runtime.unexpected_end() => Some(cut_short_by(died)),
    };
    let load_ended = Moment::now();
    let (totals, died) = finish(load, patience(scenario, cut_short.as_ref()), runtime).await;
    drop(kernel_watch);
    recorder.load_ended(load_ended, totals, KernelCounters::read().since(&counters));
    let cut_short = cut_short.or(died);
    if matches!(cut_short, None | Some(CutShort::FailureFound)) {
        tokio::select! {
            biased;
            () = interrupt.cancelled() => {}
            retired = runtime.retire(scenario.timing.stop_timeout) => {
                cleanup_errors.extend(retired.err().map(|error| error.to_string()));
            }
        }
    }
    Ok(cut_short)
}

/// Ends the load; also says whether a replica died meanwhile.
async fn finish<R: Runtime>(
    load: Load,
    patience: Duration,
    runtime: &R,
) -> (Vec<CohortTotals>, Option<CutShort>) {
    let mut finishing = pin!(load.finish(patience));
    tokio::select! {
        biased;
        died = runtime.unexpected_end() => (finishing.await, Some(cut_short_by(died))),
        totals = &mut finishing => (totals, None),
    }
}

async fn bring_up<R: Runtime>(
    scenario: &Scenario,
    runtime: &R,
    recorder: &Recorder,
) -> Result<Vec<Replica>, RuntimeError> {
    let replicas = runtime.assemble().await?;
    for replica in &replicas {
        recorder.record_now(&replica.name, LifecycleKind::StartRequested);
        runtime.start(replica).await?;
        runtime.wait_until_ready(replica, scenario.timing.ready_timeout).await?;
    }
    Ok(replicas)
}

async fn roll<R: Runtime>(
    scenario: &Scenario,
    runtime: &R,
    replicas: Vec<Replica>,
    answers: &RecordedAnswers<'_>,
) -> Result<(), CutShort> {
    let plan = Plan {
        change: scenario.change.clone(),
        rounds: scenario.rounds,
        timing: scenario.timing,
        seed: scenario.seed,
    };
    tokio::time::sleep(scenario.timing.lead).await;
    rollout::roll(runtime, replicas, &plan, answers.recorder, answers).await.map_err(
        |error| match error {
            RolloutError::Runtime(error) => cut_short_by(error),
            error @ RolloutError::NoAnswer { .. } => CutShort::RolloutFailed { error: error.to_string() },
        },
    )?;
    tokio::time::sleep(scenario.timing.lead).await;
    Ok(())
}

/// Why a run ended whose runtime could not go on.
fn cut_short_by(error: RuntimeError) -> CutShort {
    match error {
        RuntimeError::Died { replica, code, reason } => {
            CutShort::ReplicaDied { replica, code, last_words: reason }
        }
        other => CutShort::RolloutFailed { error: other.to_string() },
    }
}

/// Waits for the first failure if that is what ends the run.
async fn first_failure(end: End, recorder: &Recorder) {
    let is_found = match end {
        End::AtFirstFailure => recorder.live().wait_for(|live| live.is_broken).await.is_ok(),
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

async fn dismantle<R: Runtime>(runtime: &R, stop_timeout: StopTimeout) -> Result<(), RuntimeError> {
    let dismantling = runtime.dismantle(stop_timeout);
    match tokio::time::timeout(DISMANTLE_PATIENCE + stop_timeout.or(LONGEST_STOP), dismantling).await {
        Ok(result) => result,
        Err(_) => Err(EngineError::Failed {
            operation: "clean up".into(),
            reason: "the engine does not answer; `hitless clean` removes what is left".into(),
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::options::Options;
    use crate::record::events::EventLog;
    use crate::rollout::runtime::twin::{Trouble, Twin};

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

    /// A server that answers as long as it is held, and a scenario that asks it.
    struct Stage {
        scenario: Scenario,
        _server: AbortOnDropHandle<()>,
    }

    impl Stage {
        async fn new(change: impl FnOnce(&mut Options)) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let server = tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(ANSWER).await;
                }
            });
            let none = || Some("0s".to_owned());
            let mut options = Options {
                image: Some("any".into()),
                url: Some(url),
                rounds: Some(1),
                rate: Some(50.0),
                concurrency: Some(4),
                cohort: vec!["fresh".into()],
                lead: none(),
                settle: none(),
                stop_timeout: Some("1s".into()),
                ..Options::default()
            };
            change(&mut options);
            Self {
                scenario: Scenario::from_options(&options).unwrap(),
                _server: AbortOnDropHandle::new(server),
            }
        }

        fn recorder(&self) -> Recorder {
            Recorder::start(&self.scenario.cohorts, EventLog::discarding())
        }

        fn twin(&self, trouble: Trouble) -> (Twin, Recorder) {
            let recorder = self.recorder();
            (Twin::new(trouble, Arc::new(recorder.clone())), recorder)
        }

        async fn run(&self, (twin, recorder): (&Twin, Recorder)) -> Result<Experiment, ExperimentError> {
            run(&self.scenario, twin, recorder, &CancellationToken::new()).await
        }
    }

    const ONE_ROUND: [&str; 12] = [
        "start a",
        "ready a",
        "start b",
        "ready b",
        "stop a",
        "start a",
        "ready a",
        "stop b",
        "start b",
        "ready b",
        "retire",
        "dismantle",
    ];

    #[tokio::test]
    async fn whole_run_retires_its_replicas_and_leaves_nothing() {
        let stage = Stage::new(|_| {}).await;
        let (twin, recorder) = stage.twin(Trouble::Nothing);
        let experiment = stage.run((&twin, recorder)).await.unwrap();
        assert_eq!(twin.asked(), ONE_ROUND);
        assert_eq!(twin.running(), [""; 0]);
        assert_eq!(experiment.cleanup_errors, [""; 0]);
        assert_eq!(experiment.recording.cut_short, None);
        assert_eq!(experiment.recording.restarts.len(), 2);
    }

    #[tokio::test]
    async fn replicas_that_do_not_start_are_an_error_and_leave_nothing() {
        let stage = Stage::new(|_| {}).await;
        let (twin, recorder) = stage.twin(Trouble::Start);
        let error = stage.run((&twin, recorder)).await.unwrap_err();
        assert_eq!(error.to_string(), "failed to start replica a: no");
        assert_eq!(twin.asked(), ["start a", "dismantle"]);
    }

    #[tokio::test]
    async fn panic_is_passed_on_after_the_clean_up() {
        let stage = Stage::new(|_| {}).await;
        let (twin, recorder) = stage.twin(Trouble::PanicAtStop);
        let panic = AssertUnwindSafe(stage.run((&twin, recorder))).catch_unwind().await.unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"the twin panics at a stop"));
        assert_eq!(twin.asked().last().unwrap(), "dismantle");
        assert_eq!(twin.running(), [""; 0]);
    }

    #[tokio::test]
    async fn interrupted_run_keeps_what_it_saw_and_leaves_nothing() {
        let stage = Stage::new(|_| {}).await;
        let (twin, recorder) = stage.twin(Trouble::EndlessStop);
        let interrupt = CancellationToken::new();
        let running = run(&stage.scenario, &twin, recorder, &interrupt);
        let interrupting = async {
            twin.wait_until_stopping().await;
            interrupt.cancel();
        };
        let (experiment, ()) = tokio::join!(running, interrupting);
        let experiment = experiment.unwrap();
        assert_eq!(experiment.recording.cut_short, Some(CutShort::Interrupted));
        assert_eq!(experiment.recording.restarts.len(), 1);
        assert_eq!(twin.asked()[4..], ["stop a", "dismantle"], "no orderly end for one who wants to leave");
        assert_eq!(twin.running(), [""; 0]);
    }

    #[tokio::test]
    async fn replica_that_dies_cuts_the_run_short() {
        let stage = Stage::new(|_| {}).await;
        let (twin, recorder) = stage.twin(Trouble::Death);
        let recording = stage.run((&twin, recorder)).await.unwrap().recording;
        let why = recording.cut_short.unwrap().to_string();
        assert!(why.contains("replica a ended on its own with exit code 1"), "{why}");
        assert_eq!(twin.asked().last().unwrap(), "dismantle");
    }

    #[tokio::test]
    async fn engine_that_fails_at_the_very_end_costs_nothing_of_the_report() {
        for (trouble, cleanup_error) in [
            (Trouble::Retire, "failed to stop the replicas: it does not answer"),
            (Trouble::Dismantle, "failed to list containers: it does not answer"),
        ] {
            let stage = Stage::new(|_| {}).await;
            let (twin, recorder) = stage.twin(trouble);
            let experiment = stage.run((&twin, recorder)).await.unwrap();
            assert_eq!(experiment.cleanup_errors, [cleanup_error]);
            assert_eq!(experiment.recording.cut_short, None);
            assert_eq!(experiment.recording.restarts.len(), 2);
            assert_eq!(twin.asked(), ONE_ROUND, "{trouble:?}");
        }
    }

    #[tokio::test]
    async fn run_that_found_its_failure_retires_its_replicas_too() {
        let stage = Stage::new(|options| {
            options.until_failure = Some(true);
            options.expect_status = Some(204);
        })
        .await;
        let (twin, recorder) = stage.twin(Trouble::EndlessStop);
        let experiment = stage.run((&twin, recorder)).await.unwrap();
        assert_eq!(experiment.recording.cut_short, Some(CutShort::FailureFound));
        let asked = twin.asked();
        assert_eq!(asked[asked.len() - 2..], ["retire", "dismantle"]);
    }
}
