//! The validated description of a run. No I/O: a [`Scenario`] that exists can be run, and what cannot be run is
//! refused here with the field, the value and the remedy.
//!
//! [`Options`] is what a scenario file says and what the flags say; both are merged, flags win, and
//! [`Scenario::from_options`] turns the result into domain types.

use std::path::PathBuf;

use crate::model::budget::Budget;
use crate::model::cohort::CohortPlan;
use crate::options::Options;

mod budgets;
mod change;
mod error;
mod info;
mod launch_source;
mod preset;
mod readiness;
mod requests;
mod settings;
mod subject;
mod target;
mod timing;
mod version;

pub use change::{Change, Order};
pub use error::ScenarioError;
pub use launch_source::{LaunchSource, Program};
pub use preset::Preset;
pub use readiness::Readiness;
pub use settings::ReplicaSettings;
pub use subject::{SERVER_IMAGE, ServerKind, Subject};
pub use target::Target;
pub use timing::{StopTimeout, Timing};
pub use version::{Version, Versions};

/// A run that can be carried out.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What is restarted.
    pub subject: Subject,
    /// How the replicas differ from what their image or program says.
    pub settings: ReplicaSettings,
    /// How many replicas. For Compose: what is running decides.
    pub replicas: usize,
    /// What happens to each replica.
    pub change: Change,
    /// How often each replica is restarted or replaced.
    pub rounds: u32,
    /// Whether the first failure ends the run.
    pub end: End,
    /// The streams of load.
    pub cohorts: Vec<CohortPlan>,
    /// Where the requests go.
    pub target: Target,
    /// How a replica is known to be ready.
    pub readiness: Readiness,
    /// Moments and bounds.
    pub timing: Timing,
    /// What the run may cost.
    pub budgets: Vec<Budget>,
    /// Where the report goes; `hitless-report/<run>` if not said.
    pub report_dir: Option<PathBuf>,
    /// Moves the restarts against the load in a way that can be repeated.
    pub seed: u64,
    /// What all of this was made of, the defaults included.
    pub options: Options,
}

/// When a rollout ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// After all its rounds.
    AfterAllRounds,
    /// At the first failure, or after all its rounds.
    AtFirstFailure,
}

impl Scenario {
    /// Validates `options` and fills in what they leave out. The services of a Compose project are taken for our server:
    /// see [`Scenario::of_project`].
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn from_options(options: &Options) -> Result<Self, ScenarioError> {
        Self::of_project(options, ServerKind::Testbed)
    }

    /// The same, where a Compose project, if it is one, is known to run this server.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn of_project(options: &Options, project: ServerKind) -> Result<Self, ScenarioError> {
        let subject = Subject::from_options(options)?;
        let target = Target::from_options(options)?;
        let replicas = subject.replicas(options.replicas)?;
        let end = if options.until_failure == Some(true) { End::AtFirstFailure } else { End::AfterAllRounds };
        let rounds = options.rounds.unwrap_or(match end {
            End::AfterAllRounds => 5,
            End::AtFirstFailure => 1000,
        });
        if rounds == 0 {
            return Err(ScenarioError::new("--rounds", rounds, "at least 1 is needed to see a restart"));
        }
        let timing = Timing::from_options(options, &subject)?;
        let cohorts = requests::cohorts(options, subject.server(project), &target)?;
        let change = Change::from_options(options, &subject)?;
        let budgets = budgets::from_texts(&options.budget, &cohorts, &change)?;
        let mut scenario = Self {
            readiness: Readiness::from_options(options, &subject)?,
            settings: ReplicaSettings::from_options(options, &subject)?,
            change,
            report_dir: options.report_dir.clone(),
            seed: options.seed.unwrap_or_else(any_seed),
            subject,
            replicas,
            rounds,
            end,
            cohorts,
            target,
            timing,
            budgets,
            options: Options::default(),
        };
        scenario.options = scenario.effective(options);
        Ok(scenario)
    }

    /// The preset under test, if it is our own server.
    #[must_use]
    pub const fn preset(&self) -> Option<Preset> {
        match self.subject {
            Subject::Testbed { preset, .. } => Some(preset),
            Subject::Custom { .. } | Subject::Compose { .. } => None,
        }
    }

    /// What is under test, in a few words.
    #[must_use]
    pub fn subject_name(&self) -> String {
        match &self.subject {
            Subject::Testbed { preset, source: LaunchSource::Image(_) } => format!("preset {preset}"),
            Subject::Testbed { preset, source: LaunchSource::Program(_) } => {
                format!("preset {preset} as processes")
            }
            Subject::Custom { source: LaunchSource::Image(image) } => format!("image {image}"),
            Subject::Custom { source: LaunchSource::Program(program) } => format!("program {program}"),
            Subject::Compose { file, .. } => format!("compose {}", file.display()),
        }
    }
}

/// A seed like no other, short enough to be typed: who hunts with the same one sees the same moments only.
#[must_use]
pub fn any_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(()) % 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::expectation::ExpectedBody;
    use crate::model::scenario_info::ScenarioInfo;

    fn scenario(options: &Options) -> Result<Scenario, ScenarioError> {
        Scenario::from_options(options)
    }

    fn error(options: &Options) -> String {
        scenario(options).unwrap_err().to_string()
    }

    fn with(change: impl FnOnce(&mut Options)) -> Options {
        let mut options = Options::default();
        change(&mut options);
        options
    }

    #[test]
    fn nothing_said_is_a_whole_scenario() {
        let scenario = scenario(&Options::default()).unwrap();
        assert_eq!(scenario.replicas, 2);
        assert_eq!(scenario.cohorts.len(), 3);
        assert_eq!(scenario.target.port, 8080);
        assert_eq!(scenario.budgets[0].to_string(), "failed==0");
    }

    #[test]
    fn exclusive_presets_have_one_replica() {
        let alone = with(|options| options.preset = Some("graceful".into()));
        assert_eq!(scenario(&alone).unwrap().replicas, 1);
        let crowded = with(|options| {
            options.preset = Some("graceful".into());
            options.replicas = Some(2);
        });
        assert!(error(&crowded).starts_with("--replicas: `2`"), "{}", error(&crowded));
    }

    #[test]
    fn each_error_names_field_value_and_remedy() {
        let cases: Vec<(Options, &str)> = vec![
            (with(|o| o.preset = Some("gracefull".into())), "--preset: `gracefull`: it is one of normal, "),
            (with(|o| o.runtime = Some("podman".into())), "--runtime: `podman`: this version knows docker"),
            (
                with(|o| o.runtime = Some("swarm".into())),
                "--runtime: `swarm`: this version rolls no services",
            ),
            (with(|o| o.rounds = Some(0)), "--rounds: `0`: at least 1"),
            (with(|o| o.rate = Some(0.0)), "--rate: `0`: requests per second"),
            (with(|o| o.rate = Some(f64::NAN)), "--rate: `NaN`: requests per second"),
            (with(|o| o.concurrency = Some(0)), "--concurrency: `0`"),
            (with(|o| o.cohort = vec!["fresh,quick".into()]), "--cohort: `quick`: it is one of fresh"),
            (with(|o| o.cohort = vec!["fresh,fresh".into()]), "--cohort: `fresh`: it is named twice"),
            (with(|o| o.url = Some("https://127.0.0.1/".into())), "--url: `https://127.0.0.1/`: only http"),
            (with(|o| o.url = Some("http://example.org/".into())), "--url: `http://example.org/`: the host"),
            (
                with(|o| o.url = Some("http://192.0.2.1/".into())),
                "--url: `http://192.0.2.1/`: load goes to this machine",
            ),
            (with(|o| o.url = Some("http://127.0.0.1:0/".into())), "--url: `http://127.0.0.1:0/`: nothing"),
            (with(|o| o.expect_status = Some(99)), "--expect-status: `99`: the status of an answer"),
            (with(|o| o.header_env = vec!["Authorization".into()]), "--header-env: `Authorization`: write"),
            (
                with(|o| o.header_env = vec!["Authorization=HITLESS_NO_SUCH".into()]),
                "--header-env: `Authorization=HITLESS_NO_SUCH`: HITLESS_NO_SUCH: environment variable not found",
            ),
            (with(|o| o.env = vec!["HITLESS_NO_SUCH".into()]), "--env: `HITLESS_NO_SUCH`: environment"),
            (
                with(|o| o.budget = vec!["quick.failed==0".into()]),
                "--budget: `quick.failed==0`: this run has no",
            ),
            (
                with(|o| o.stop_timeout = Some("1500ms".into())),
                "--stop-timeout: `1s 500ms`: the engine takes",
            ),
            (with(|o| o.ready = Some("log:".into())), "--ready: `log:`: it is"),
            (
                with(|o| (o.runtime, o.ready) = (Some("process".into()), Some("health".into()))),
                "--ready: `health`: a process has no health check",
            ),
            (
                with(|o| (o.runtime, o.replace) = (Some("process".into()), Some("shop 'new".into()))),
                "--replace: `shop 'new`: a quote is open",
            ),
            (with(|o| o.env = vec!["=x".into()]), "--env: `=(redacted)`: write KEY=VALUE"),
            (with(|o| o.command = Some("serve 'now".into())), "--command: `serve 'now`: a quote is open"),
            (with(|o| o.command = Some(" ".into())), "--command: ` `: name at least"),
            (
                with(|o| o.stop_signal = Some("QUIT".into())),
                "--stop-signal: `QUIT`: write a name like SIGTERM",
            ),
            (with(|o| o.requests_per_connection = Some(0)), "--requests-per-connection: `0`: at least 1"),
            (with(|o| o.echo_header = Some("a b".into())), "--echo-header: `a b`: invalid HTTP header name"),
            (with(|o| o.echo_header = Some("Host".into())), "--echo-header: `Host`: it belongs to"),
            (with(|o| o.header = vec!["Host".into()]), "--header: `Host`: write 'Name: value'"),
            (
                with(|o| o.header = vec!["a b: c".into()]),
                "--header: `a b: (redacted)`: invalid HTTP header name",
            ),
            (
                with(|o| o.header = vec!["Content-Length: 3".into()]),
                "--header: `Content-Length: (redacted)`: the harness",
            ),
        ];
        for (options, beginning) in cases {
            let error = error(&options);
            assert!(error.starts_with(beginning), "{error}\nshould begin with {beginning}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn remote_target_has_to_be_allowed() {
        let near = ["http://10.1.2.3/", "http://192.168.0.1:81/", "http://[::1]:8080/", "http://[fd00::1]/"];
        for url in near {
            assert!(scenario(&with(|options| options.url = Some(url.into()))).is_ok(), "{url}");
        }
        let remote = with(|o| (o.url, o.allow_remote) = (Some("http://192.0.2.1/".into()), Some(true)));
        assert!(scenario(&remote).is_ok());
    }

    #[test]
    fn error_about_a_secret_does_not_tell_it() {
        for options in [
            with(|o| o.url = Some("https://user:hunter2@127.0.0.1/".into())),
            with(|o| o.url = Some("http://user:hunter2@192.0.2.1/".into())),
            with(|o| o.url = Some("http://user:hunter2@[".into())),
            with(|o| o.header = vec!["hunter2".into()]),
            with(|o| o.header = vec!["a b: hunter2".into()]),
            with(|o| o.env = vec!["=hunter2".into()]),
        ] {
            let error = error(&options);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn every_default_that_the_help_names_is_told() {
        use clap::Args as _;
        // What they are taken from if nothing is said is no value: an image, a project, what else is said.
        let open = [
            "command",
            "stop-signal",
            "compose",
            "service",
            "order",
            "stop-timeout",
            "rate",
            "requests-per-connection",
            "echo-header",
            "expect-body",
            "report-dir",
        ];
        let command = Options::augment_args(clap::Command::new("hitless"));
        let told = ScenarioInfo::of(&scenario(&Options::default()).unwrap()).options;
        for flag in command.get_arguments() {
            let name = flag.get_long().unwrap_or_default();
            let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
            if help.contains("[default: ") && !open.contains(&name) {
                assert!(told.contains_key(name), "--{name} has a default that no report tells: {help}");
            }
        }
    }

    #[test]
    fn what_is_told_holds_every_option_and_no_secret() {
        let options = with(|o| {
            o.header = vec!["Authorization: Bearer hunter2".into()];
            o.env = vec!["TOKEN=hunter2".into()];
            o.url = Some("http://user:hunter2@127.0.0.1:8080/".into());
            o.replace = Some("next:1".into());
        });
        let told = serde_json::to_value(ScenarioInfo::of(&scenario(&options).unwrap())).unwrap();
        assert!(!told.to_string().contains("hunter2"), "{told}");
        let said = |name: &str| told["options"][name].clone();
        assert_eq!((said("replace"), said("order")), ("next:1".into(), "start-first".into()));
        assert_eq!((said("settle"), said("stop-timeout")), ("500ms".into(), serde_json::Value::Null));
        assert_eq!((said("slow-delay"), said("rounds")), ("3s".into(), 5.into()));
        assert_eq!(said("header")[0], "Authorization: (redacted)");
    }

    #[test]
    fn own_image_needs_a_slow_path_for_slow_requests() {
        let image = with(|options| options.image = Some("shop:1".into()));
        let plain = scenario(&image).unwrap();
        assert_eq!(
            plain.cohorts.iter().map(|plan| plan.kind.name()).collect::<Vec<_>>(),
            ["fresh", "pooled"]
        );
        let slow = Options { cohort: vec!["slow".into()], ..image.clone() };
        assert!(error(&slow).starts_with("--cohort: `slow`: your server needs --slow-path"));
        let path = Options { slow_path: Some("/report?all=1".into()), ..slow };
        assert_eq!(scenario(&path).unwrap().cohorts[0].url, "http://127.0.0.1:8080/report?all=1");
    }

    #[test]
    fn foreign_compose_project_may_answer_what_it_likes() {
        let compose = with(|options| options.runtime = Some("compose".into()));
        let of = |options: &Options, server| Scenario::of_project(options, server);
        let names =
            |scenario: &Scenario| scenario.cohorts.iter().map(|plan| plan.kind.name()).collect::<Vec<_>>();
        let ours = of(&compose, ServerKind::Testbed).unwrap();
        assert_eq!(names(&ours), ["fresh", "pooled", "slow"]);
        let foreign = of(&compose, ServerKind::Custom).unwrap();
        assert_eq!(names(&foreign), ["fresh", "pooled"]);
        assert!(foreign.cohorts.iter().all(|plan| plan.expectation.body == ExpectedBody::Any));
        let slow = Options { cohort: vec!["slow".into()], ..compose };
        let error = of(&slow, ServerKind::Custom).unwrap_err().to_string();
        assert!(error.starts_with("--cohort: `slow`: your server needs --slow-path"), "{error}");
        let preset = of(&Options::default(), ServerKind::Custom).unwrap();
        assert_eq!(names(&preset), ["fresh", "pooled", "slow"], "a preset is our server whatever else runs");
    }
}
