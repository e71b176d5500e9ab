//! Races load against a rollout, and cleans up whatever happens: success, error, panic or an interrupt.

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
use crate::model::observation::CohortTotals;
use crate::model::sink::Sink;
use crate::record::recorder::Recorder;
use crate::record::recording::Recording;
use crate::rollout::Rollout;
use crate::rollout::error::RolloutError;
use crate::scenario::{End, Scenario, StopTimeout};

/// Removing a few containers takes a second; an engine that hangs must not keep the harness. A replica that is on its way
/// to its end has its stop timeout beside.
const DISMANTLE_PATIENCE: Duration = Duration::from_mins(1);
/// A container's own stop timeout is seldom longer.
const LONGEST_STOP: Duration = Duration::from_mins(5);

/// The experiment could not be carried out at all. What went wrong later is in the recording.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// The replicas could not be brought up.
    #[error(transparent)]
    Rollout(#[from] RolloutError),
    /// The load could not be generated.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// What came of an experiment.
#[derive(Debug)]
pub struct Experiment {
    /// What was seen.
    pub recording: Recording,
    /// How many replicas there were.
    pub replicas: usize,
    /// What went wrong when all was seen: replicas that did not end in an orderly way, or that could not be removed. It
    /// takes nothing away from what was seen.
    pub cleanup_errors: Vec<String>,
}

/// What a run has come to when its load has ended.
#[derive(Debug, Default)]
struct Conducted {
    replicas: usize,
    cut_short: Option<CutShort>,
    cleanup_errors: Vec<String>,
}

/// Brings the replicas up, carries the rollout out under load, and returns what was seen. When `interrupt` is cancelled the
/// run ends early and returns what was seen until then.
///
/// # Errors
/// The replicas could not be brought up, or the load not be set up. Everything made until then has been removed.
///
/// # Panics
/// A panic inside is passed on after the clean-up.
pub async fn run(
    scenario: &Scenario,
    rollout: &dyn Rollout,
    recorder: Recorder,
    interrupt: &CancellationToken,
) -> Result<Experiment, ExperimentError> {
    let conducting = conduct(scenario, rollout, &recorder, interrupt);
    let conducted = AssertUnwindSafe(conducting).catch_unwind().await;
    let dismantled = dismantle(rollout, scenario.timing.stop_timeout).await;
    let Conducted { replicas, cut_short, mut cleanup_errors } = match conducted {
        Ok(result) => result?,
        Err(panic) => resume_unwind(panic),
    };
    cleanup_errors.extend(dismantled.err().map(|error| error.to_string()));
    Ok(Experiment { recording: recorder.close(cut_short).await, replicas, cleanup_errors })
}

async fn conduct(
    scenario: &Scenario,
    rollout: &dyn Rollout,
    recorder: &Recorder,
    interrupt: &CancellationToken,
) -> Result<Conducted, ExperimentError> {
    let replicas = tokio::select! {
        biased;
        () = interrupt.cancelled() => {
            return Ok(Conducted { cut_short: Some(CutShort::Interrupted), ..Conducted::default() });
        }
        replicas = rollout.assemble() => replicas?,
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
        performed = rollout.perform(&answers) => performed.err().map(cut_short_by).transpose()?,
        () = first_failure(scenario.end, recorder) => Some(CutShort::FailureFound),
        died = rollout.unexpected_end() => Some(cut_short_by(died)?),
    };
    let load_ended = Moment::now();
    let (totals, died) = finish(load, patience(scenario, cut_short.as_ref()), rollout).await;
    drop(kernel_watch);
    recorder.load_ended(load_ended, totals, KernelCounters::read().since(&counters));
    let cut_short = cut_short.or(died);
    let mut cleanup_errors = Vec::new();
    if matches!(cut_short, None | Some(CutShort::FailureFound)) {
        tokio::select! {
            biased;
            () = interrupt.cancelled() => {}
            retired = rollout.retire() => cleanup_errors.extend(retired.err().map(|error| error.to_string())),
        }
    }
    Ok(Conducted { replicas, cut_short, cleanup_errors })
}

/// Why a run ended whose rollout could not go on.
///
/// # Errors
/// The run measured nothing: the harness itself ended what served the requests.
fn cut_short_by(error: RolloutError) -> Result<CutShort, RolloutError> {
    if error.is_background() { Err(error) } else { Ok(error.into()) }
}

/// Ends the load; also says whether a replica died meanwhile.
async fn finish(
    load: Load,
    patience: Duration,
    rollout: &dyn Rollout,
) -> (Vec<CohortTotals>, Option<CutShort>) {
    let mut finishing = pin!(load.finish(patience));
    tokio::select! {
        biased;
        died = rollout.unexpected_end() => (finishing.await, Some(died.into())),
        totals = &mut finishing => (totals, None),
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

async fn dismantle(rollout: &dyn Rollout, stop_timeout: StopTimeout) -> Result<(), RolloutError> {
    let longest = DISMANTLE_PATIENCE + stop_timeout.or(LONGEST_STOP);
    match tokio::time::timeout(longest, rollout.dismantle()).await {
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
    use crate::rollout::stepwise::fake::{FakeLauncher, Trouble};

    /// The answer of a replica.
    fn answer(replica: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nx-replica: {replica}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
    }

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
                let mut names = ["a", "b"].iter().cycle();
                while let Ok((mut stream, _)) = listener.accept().await {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(answer(names.next().unwrap()).as_bytes()).await;
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

        async fn run(&self, fake: &FakeLauncher) -> Result<Experiment, ExperimentError> {
            self.run_until(fake, &CancellationToken::new()).await
        }

        async fn run_until(
            &self,
            fake: &FakeLauncher,
            interrupt: &CancellationToken,
        ) -> Result<Experiment, ExperimentError> {
            let recorder = Recorder::start(&self.scenario.cohorts, EventLog::discarding());
            let rollout = fake.rollout(&self.scenario, Arc::new(recorder.clone()));
            run(&self.scenario, &rollout, recorder, interrupt).await
        }
    }

    const BROUGHT_UP: [&str; 6] =
        ["make current a", "make current b", "start a", "ready a", "start b", "ready b"];
    const ROUND: [&str; 6] = ["stop a", "start a", "ready a", "stop b", "start b", "ready b"];

    /// A whole run with one round.
    fn whole_run() -> Vec<&'static str> {
        [&BROUGHT_UP[..], &ROUND, &["stop a", "stop b", "dismantle"]].concat()
    }

    #[tokio::test]
    async fn whole_run_retires_its_replicas_and_leaves_nothing() {
        let stage = Stage::new(|_| {}).await;
        let fake = FakeLauncher::new(Trouble::Nothing);
        let experiment = stage.run(&fake).await.unwrap();
        assert_eq!(fake.asked(), whole_run());
        assert_eq!(fake.running(), [""; 0]);
        assert_eq!(experiment.cleanup_errors, [""; 0]);
        assert_eq!(experiment.recording.cut_short, None);
        assert_eq!(experiment.recording.restarts.len(), 2);
    }

    #[tokio::test]
    async fn replicas_that_do_not_start_are_an_error_and_leave_nothing() {
        let stage = Stage::new(|_| {}).await;
        let fake = FakeLauncher::new(Trouble::Start);
        let error = stage.run(&fake).await.unwrap_err();
        assert_eq!(error.to_string(), "failed to start replica a: no");
        assert_eq!(fake.asked(), ["make current a", "make current b", "start a", "dismantle"]);
    }

    #[tokio::test]
    async fn panic_is_passed_on_after_the_clean_up() {
        let stage = Stage::new(|_| {}).await;
        let fake = FakeLauncher::new(Trouble::PanicAtStop);
        let panic = AssertUnwindSafe(stage.run(&fake)).catch_unwind().await.unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"the fake panics at a stop"));
        assert_eq!(fake.asked().last().unwrap(), "dismantle");
        assert_eq!(fake.running(), [""; 0]);
    }

    #[tokio::test]
    async fn interrupted_run_keeps_what_it_saw_and_leaves_nothing() {
        let stage = Stage::new(|_| {}).await;
        let fake = FakeLauncher::new(Trouble::EndlessStop);
        let interrupt = CancellationToken::new();
        let running = stage.run_until(&fake, &interrupt);
        let interrupting = async {
            fake.wait_until_stopping().await;
            interrupt.cancel();
        };
        let (experiment, ()) = tokio::join!(running, interrupting);
        let experiment = experiment.unwrap();
        assert_eq!(experiment.recording.cut_short, Some(CutShort::Interrupted));
        assert_eq!(experiment.recording.restarts.len(), 1);
        assert_eq!(fake.asked()[6..], ["stop a", "dismantle"], "no orderly end for one who wants to leave");
        assert_eq!(fake.running(), [""; 0]);
    }

    #[tokio::test]
    async fn replica_that_dies_cuts_the_run_short() {
        let stage = Stage::new(|_| {}).await;
        let fake = FakeLauncher::new(Trouble::Death);
        let recording = stage.run(&fake).await.unwrap().recording;
        let why = recording.cut_short.unwrap().to_string();
        assert!(why.contains("replica b ended on its own with exit code 1"), "{why}");
        assert_eq!(fake.asked().last().unwrap(), "dismantle");
    }

    #[tokio::test]
    async fn engine_that_fails_at_the_very_end_costs_nothing_of_the_report() {
        for (trouble, cleanup_error) in [
            (Trouble::Retire, "failed to stop the replicas: it does not answer"),
            (Trouble::Dismantle, "failed to list containers: it does not answer"),
        ] {
            let stage = Stage::new(|_| {}).await;
            let fake = FakeLauncher::new(trouble);
            let experiment = stage.run(&fake).await.unwrap();
            assert_eq!(experiment.cleanup_errors, [cleanup_error]);
            assert_eq!(experiment.recording.cut_short, None);
            assert_eq!(experiment.recording.restarts.len(), 2);
            assert_eq!(fake.asked(), whole_run(), "{trouble:?}");
        }
    }

    #[tokio::test]
    async fn run_that_found_its_failure_retires_its_replicas_too() {
        let stage = Stage::new(|options| {
            options.until_failure = Some(true);
            options.expect_status = Some(204);
        })
        .await;
        let fake = FakeLauncher::new(Trouble::EndlessStop);
        let experiment = stage.run(&fake).await.unwrap();
        assert_eq!(experiment.recording.cut_short, Some(CutShort::FailureFound));
        let asked = fake.asked();
        assert_eq!(asked[asked.len() - 4..], ["stop a", "stop b", "kill a", "dismantle"]);
    }
}
