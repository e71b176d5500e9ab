//! The validated description of a run. No I/O: a [`Scenario`] that exists can be run, and what cannot be run is
//! refused here with the field, the value and the remedy.
//!
//! [`Options`] is what a scenario file says and what the flags say; both are merged, flags win, and
//! [`Scenario::from_options`] turns the result into domain types.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::budget::{Budget, Metric};
use crate::load::cohort::CohortPlan;
use crate::phase::Phase;

mod container;
mod options;
mod requests;

pub use container::ContainerSettings;
pub use options::Options;

/// The name of the image that `hitless image` builds and the presets run.
pub const SERVER_IMAGE: &str = "hitless-server:latest";

/// How our own server stops: the seed's three stages, and the one past them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Ends at once, requests in flight or not.
    Normal,
    /// Closes the listener and the idle connections, finishes the rest.
    Graceful,
    /// The same, beside a sibling on the same port.
    Reuseport,
    /// Gives listener and idle connections to a sibling.
    Handover,
}

impl Preset {
    /// Every preset, in the order of the story.
    pub const ALL: [Self; 4] = [Self::Normal, Self::Graceful, Self::Reuseport, Self::Handover];

    /// The name on the command line and in `HITLESS_PRESET`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Graceful => "graceful",
            Self::Reuseport => "reuseport",
            Self::Handover => "handover",
        }
    }

    /// How many replicas it needs at least to show what it does: one holds the port alone, or two share it.
    #[must_use]
    pub const fn replicas(self) -> usize {
        match self {
            Self::Normal | Self::Graceful => 1,
            Self::Reuseport | Self::Handover => 2,
        }
    }

    /// Whether several replicas can listen on one port.
    #[must_use]
    pub const fn is_shared_port(self) -> bool {
        matches!(self, Self::Reuseport | Self::Handover)
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Whose server answers: what an answer has to be, and which path is slow, is known of ours alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// Our own.
    Ours,
    /// Anybody's.
    Anybodys,
}

/// What is restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Our server, under one of its presets.
    Preset {
        /// How it stops.
        preset: Preset,
        /// The image, ours unless said otherwise.
        image: String,
    },
    /// Somebody's own image.
    Image {
        /// Its reference, as for `docker run`.
        image: String,
    },
    /// The running services of a Compose project.
    Compose {
        /// The Compose file that they were started from.
        file: PathBuf,
        /// Which services; those that the target's port leads to if empty.
        services: Vec<String>,
    },
}

/// What a rollout does to each replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Stop it, start it again.
    Restart,
    /// Put a container of another image into its place. Rounds alternate: there, and back again.
    Replace {
        /// The other image.
        image: String,
        /// Which comes first.
        order: Order,
    },
}

impl Change {
    /// The phases that such a rollout goes through.
    #[must_use]
    pub const fn phases(&self) -> [Phase; 4] {
        match self {
            Self::Replace { order: Order::StartFirst, .. } => {
                [Phase::Steady, Phase::Starting, Phase::Overlap, Phase::Draining]
            }
            Self::Restart | Self::Replace { order: Order::StopFirst, .. } => {
                [Phase::Steady, Phase::Draining, Phase::Gap, Phase::Starting]
            }
        }
    }
}

/// When a rollout ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// After all its rounds.
    AfterAllRounds,
    /// At the first failure, or after all its rounds.
    AtFirstFailure,
}

/// The order of a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The new container is ready before the old one is told to stop.
    StartFirst,
    /// The old container is gone before the new one is started.
    StopFirst,
}

impl Order {
    /// Both, the safer one first.
    pub const ALL: [Self; 2] = [Self::StartFirst, Self::StopFirst];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StartFirst => "start-first",
            Self::StopFirst => "stop-first",
        }
    }
}

/// How a replica is known to be ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// A line of its output contains this text.
    Log(String),
    /// The health check if there is one, otherwise the port.
    Auto,
    /// The engine's health check says `healthy`.
    Health,
    /// The target's port accepts a connection. Not per replica when the port is shared.
    Tcp,
    /// A GET of this path is answered 2xx. Not per replica when the port is shared.
    Http(String),
}

impl fmt::Display for Readiness {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(text) => write!(out, "log:{text}"),
            Self::Auto => out.write_str("a health check or the port"),
            Self::Health => out.write_str("health"),
            Self::Tcp => out.write_str("tcp"),
            Self::Http(path) => write!(out, "http:{path}"),
        }
    }
}

/// Where the requests go. Always plain HTTP to a loopback or local address: TLS ends before what is tested here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The whole URL.
    pub url: String,
    /// The address behind it.
    pub host: IpAddr,
    /// The port behind it.
    pub port: u16,
}

/// When things happen in a run, and how long they may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Steady load before the first restart, and after the last.
    pub lead: Duration,
    /// Steady load between two restarts.
    pub settle: Duration,
    /// How long a replica may take to stop before the engine kills it. Whole seconds: the engine knows no others.
    pub stop_timeout: Duration,
    /// How long a replica may take from its start until it is ready.
    pub ready_timeout: Duration,
    /// How long one request may take, connect included, beyond its cohort's expected delay.
    pub request_timeout: Duration,
}

/// A run that can be carried out.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What is restarted.
    pub subject: Subject,
    /// How the containers differ from what their image says.
    pub container: ContainerSettings,
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
}

/// A field that cannot be used, its value, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: `{value}`: {remedy}")]
pub struct ScenarioError {
    /// The flag or the field of the scenario file.
    pub field: &'static str,
    /// What it said.
    pub value: String,
    /// What it should say.
    pub remedy: String,
}

impl ScenarioError {
    fn new(field: &'static str, value: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self { field, value: format!("{value}"), remedy: format!("{remedy}") }
    }
}

const MAX_REPLICAS: usize = 16;

/// A seed like no other, short enough to be typed: who hunts with the same one sees the same moments only.
#[must_use]
pub fn any_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(()) % 1_000_000
}

impl Scenario {
    /// Validates `options` and fills in what they leave out. The services of a Compose project are taken for our server:
    /// see [`Scenario::of_project`].
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn from_options(options: &Options) -> Result<Self, ScenarioError> {
        Self::of_project(options, Server::Ours)
    }

    /// The same, where a Compose project, if it is one, is known to run this server.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn of_project(options: &Options, project: Server) -> Result<Self, ScenarioError> {
        let subject = subject(options)?;
        let server = match subject {
            Subject::Preset { .. } => Server::Ours,
            Subject::Image { .. } => Server::Anybodys,
            Subject::Compose { .. } => project,
        };
        let target = target(options.url.as_deref().unwrap_or("http://127.0.0.1:8080/"))?;
        let replicas = replicas(&subject, options.replicas)?;
        let end = if options.until_failure == Some(true) { End::AtFirstFailure } else { End::AfterAllRounds };
        let rounds = options.rounds.unwrap_or(match end {
            End::AfterAllRounds => 5,
            End::AtFirstFailure => 1000,
        });
        if rounds == 0 {
            return Err(ScenarioError::new("--rounds", rounds, "at least 1 is needed to see a restart"));
        }
        let timing = timing(options)?;
        let cohorts = requests::cohorts(options, server, &target)?;
        let change = change(options, &subject)?;
        let budgets = budgets(&options.budget, &cohorts, &change)?;
        Ok(Self {
            readiness: readiness(options.ready.as_deref(), &subject)?,
            container: ContainerSettings::from_options(options)?,
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
        })
    }

    /// The preset under test, if it is our own server.
    #[must_use]
    pub const fn preset(&self) -> Option<Preset> {
        match self.subject {
            Subject::Preset { preset, .. } => Some(preset),
            Subject::Image { .. } | Subject::Compose { .. } => None,
        }
    }

    /// What is under test, in a few words.
    #[must_use]
    pub fn subject_name(&self) -> String {
        match &self.subject {
            Subject::Preset { preset, .. } => format!("preset {preset}"),
            Subject::Image { image } => format!("image {image}"),
            Subject::Compose { file, .. } => format!("compose {}", file.display()),
        }
    }
}

fn subject(options: &Options) -> Result<Subject, ScenarioError> {
    let preset = options.preset.as_deref().map(preset).transpose()?;
    match options.runtime.as_deref().unwrap_or("docker") {
        "docker" => {
            if let Some(file) = &options.compose {
                return Err(ScenarioError::new(
                    "--compose",
                    file.display(),
                    "it goes with --runtime compose",
                ));
            }
            if let Some(service) = options.service.first() {
                return Err(ScenarioError::new("--service", service, "it goes with --runtime compose"));
            }
            Ok(match (preset, options.image.clone()) {
                (None, Some(image)) => Subject::Image { image },
                (preset, image) => Subject::Preset {
                    preset: preset.unwrap_or(Preset::Handover),
                    image: image.unwrap_or_else(|| SERVER_IMAGE.to_owned()),
                },
            })
        }
        "compose" => {
            let unfit = "a running Compose project says this itself; leave it out";
            if let Some(preset) = preset {
                return Err(ScenarioError::new("--preset", preset, unfit));
            }
            if let Some(image) = &options.image {
                return Err(ScenarioError::new("--image", image, unfit));
            }
            if let Some(replicas) = options.replicas {
                return Err(ScenarioError::new("--replicas", replicas, unfit));
            }
            if let Some(pair) = options.env.first() {
                return Err(ScenarioError::new("--env", pair, unfit));
            }
            if let Some(command) = &options.command {
                return Err(ScenarioError::new("--command", command, unfit));
            }
            if let Some(signal) = &options.stop_signal {
                return Err(ScenarioError::new("--stop-signal", signal, unfit));
            }
            Ok(Subject::Compose {
                file: options.compose.clone().unwrap_or_else(|| PathBuf::from("compose.yaml")),
                services: options.service.clone(),
            })
        }
        other => Err(ScenarioError::new("--runtime", other, "this version knows docker and compose")),
    }
}

fn preset(name: &str) -> Result<Preset, ScenarioError> {
    Preset::ALL.into_iter().find(|preset| preset.name() == name).ok_or_else(|| {
        let names = Preset::ALL.map(Preset::name).join(", ");
        ScenarioError::new("--preset", name, format!("it is one of {names}"))
    })
}

fn replicas(subject: &Subject, asked: Option<usize>) -> Result<usize, ScenarioError> {
    let default = match subject {
        Subject::Preset { preset, .. } => preset.replicas(),
        Subject::Image { .. } | Subject::Compose { .. } => 2,
    };
    let replicas = asked.unwrap_or(default);
    if replicas == 0 || replicas > MAX_REPLICAS {
        return Err(ScenarioError::new("--replicas", replicas, format!("it is from 1 to {MAX_REPLICAS}")));
    }
    match subject {
        Subject::Preset { preset, .. } if replicas > 1 && !preset.is_shared_port() => {
            Err(ScenarioError::new(
                "--replicas",
                replicas,
                format!("preset {preset} holds the port alone; use 1, or another preset"),
            ))
        }
        _ => Ok(replicas),
    }
}

fn change(options: &Options, subject: &Subject) -> Result<Change, ScenarioError> {
    let named = |name: &String| {
        Order::ALL.into_iter().find(|order| order.name() == name).ok_or_else(|| {
            ScenarioError::new("--order", name, format!("it is {}", Order::ALL.map(Order::name).join(" or ")))
        })
    };
    let order = options.order.as_ref().map(named).transpose()?;
    let Some(image) = &options.replace else {
        return match order {
            Some(order) => Err(ScenarioError::new("--order", order.name(), "it goes with --replace")),
            None => Ok(Change::Restart),
        };
    };
    let order = order.unwrap_or(Order::StartFirst);
    match subject {
        Subject::Compose { .. } => Err(ScenarioError::new(
            "--replace",
            image,
            "Compose replaces its own containers; use --runtime docker",
        )),
        Subject::Preset { preset, .. } if order == Order::StartFirst && !preset.is_shared_port() => {
            let remedy =
                format!("preset {preset} holds the port alone, so no two can run at once; use stop-first");
            Err(ScenarioError::new("--order", order.name(), remedy))
        }
        _ => Ok(Change::Replace { image: image.clone(), order }),
    }
}

fn target(url: &str) -> Result<Target, ScenarioError> {
    let bad = |remedy: &str| ScenarioError::new("--url", url, remedy);
    let parsed =
        url::Url::parse(url).map_err(|error| bad(&format!("{error}; write http://127.0.0.1:8080/")))?;
    if parsed.scheme() != "http" {
        return Err(bad("only http:// can be tested: TLS ends before the server that restarts"));
    }
    let host = match parsed.host_str() {
        Some("localhost") => IpAddr::from([127, 0, 0, 1]),
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse()
            .map_err(|_| bad("the host must be an address or localhost, so that no resolver is tested"))?,
        None => return Err(bad("it has no host")),
    };
    let port = parsed.port_or_known_default().ok_or_else(|| bad("it has no port"))?;
    let mut normal = parsed.clone();
    normal.set_ip_host(host).map_err(|()| bad("it cannot hold an address"))?;
    Ok(Target { url: normal.to_string(), host, port })
}

fn timing(options: &Options) -> Result<Timing, ScenarioError> {
    let duration = |field, text: &Option<String>, default: Duration, most: Duration| match text {
        None => Ok(default),
        Some(text) => match humantime::parse_duration(text) {
            Ok(duration) if duration <= most => Ok(duration),
            Ok(_) => {
                Err(ScenarioError::new(field, text, format!("at most {}", humantime::format_duration(most))))
            }
            Err(error) => {
                Err(ScenarioError::new(field, text, format!("{error}; write for example 250ms or 3s")))
            }
        },
    };
    let hour = Duration::from_hours(1);
    let timing = Timing {
        lead: duration("--lead", &options.lead, Duration::from_secs(1), hour)?,
        settle: duration("--settle", &options.settle, Duration::from_millis(500), hour)?,
        stop_timeout: duration("--stop-timeout", &options.stop_timeout, Duration::from_secs(20), hour)?,
        ready_timeout: duration("--ready-timeout", &options.ready_timeout, Duration::from_secs(30), hour)?,
        request_timeout: duration(
            "--request-timeout",
            &options.request_timeout,
            Duration::from_secs(5),
            hour,
        )?,
    };
    if timing.stop_timeout.subsec_nanos() != 0 {
        let text = humantime::format_duration(timing.stop_timeout);
        return Err(ScenarioError::new("--stop-timeout", text, "the engine takes whole seconds"));
    }
    if timing.request_timeout.is_zero() {
        return Err(ScenarioError::new("--request-timeout", "0s", "no request could be answered"));
    }
    Ok(timing)
}

fn readiness(text: Option<&str>, subject: &Subject) -> Result<Readiness, ScenarioError> {
    match text {
        None => Ok(match subject {
            Subject::Preset { .. } => Readiness::Log("\"event\":\"ready\"".to_owned()),
            Subject::Image { .. } | Subject::Compose { .. } => Readiness::Auto,
        }),
        Some("health") => Ok(Readiness::Health),
        Some("tcp") => Ok(Readiness::Tcp),
        Some(text) => match text.split_once(':') {
            Some(("log", line)) if !line.is_empty() => Ok(Readiness::Log(line.to_owned())),
            Some(("http", path)) if path.starts_with('/') => Ok(Readiness::Http(path.to_owned())),
            _ => Err(ScenarioError::new("--ready", text, "it is health, tcp, http:/PATH or log:TEXT")),
        },
    }
}

fn budgets(texts: &[String], cohorts: &[CohortPlan], change: &Change) -> Result<Vec<Budget>, ScenarioError> {
    let texts = if texts.is_empty() { &["failed==0".to_owned()] } else { texts };
    texts
        .iter()
        .map(|text| {
            let budget: Budget =
                text.parse().map_err(|error| ScenarioError::new("--budget", text, format!("{error}")))?;
            check_scope(&budget, cohorts, change)
                .map_err(|remedy| ScenarioError::new("--budget", text, remedy))?;
            Ok(budget)
        })
        .collect()
}

/// A budget over what cannot occur would always hold, or never: it is an error.
fn check_scope(budget: &Budget, cohorts: &[CohortPlan], change: &Change) -> Result<(), String> {
    let scope = budget.scope.as_deref();
    let in_scope = |plan: &&CohortPlan| scope.is_none_or(|scope| plan.kind.name() == scope);
    match budget.metric {
        Metric::Replayed => {
            let can_see = cohorts.iter().filter(in_scope).any(|plan| plan.kind.reuses_connections());
            return if can_see {
                Ok(())
            } else {
                Err("replays are counted for pooled, strict and h2 only, and none of them is meant here"
                    .to_owned())
            };
        }
        Metric::Killed if scope.is_some() => {
            return Err("restarts are no cohort's and no phase's; write 'killed==0'".to_owned());
        }
        Metric::Killed => return Ok(()),
        _ => {}
    }
    let is_cohort = scope.is_some_and(|scope| cohorts.iter().any(|plan| plan.kind.name() == scope));
    if !is_cohort && budget.metric.is_latency() && cohorts.iter().all(|plan| plan.kind.is_long()) {
        let name = cohorts.first().map_or("slow", |plan| plan.kind.name());
        return Err(format!(
            "latencies of cohorts that are slow on purpose count only where one is named, as in {name}.{budget}"
        ));
    }
    let Some(scope) = scope.filter(|_| !is_cohort) else { return Ok(()) };
    let phases = change.phases();
    if phases.iter().any(|phase| phase.name() == scope) {
        return Ok(());
    }
    let names: Vec<&str> = cohorts.iter().map(|plan| plan.kind.name()).collect();
    Err(format!(
        "this run has no `{scope}`; its cohorts are {}, its phases {}",
        names.join(", "),
        phases.map(Phase::name).join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::content::ExpectedBody;

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
            (with(|o| o.rounds = Some(0)), "--rounds: `0`: at least 1"),
            (with(|o| o.rate = Some(0.0)), "--rate: `0`: requests per second"),
            (with(|o| o.rate = Some(f64::NAN)), "--rate: `NaN`: requests per second"),
            (with(|o| o.concurrency = Some(0)), "--concurrency: `0`"),
            (with(|o| o.cohort = vec!["fresh,quick".into()]), "--cohort: `quick`: it is one of fresh"),
            (with(|o| o.cohort = vec!["fresh,fresh".into()]), "--cohort: `fresh`: it is named twice"),
            (with(|o| o.url = Some("https://127.0.0.1/".into())), "--url: `https://127.0.0.1/`: only http"),
            (with(|o| o.url = Some("http://example.org/".into())), "--url: `http://example.org/`: the host"),
            (
                with(|o| o.budget = vec!["quick.failed==0".into()]),
                "--budget: `quick.failed==0`: this run has no",
            ),
            (
                with(|o| o.stop_timeout = Some("1500ms".into())),
                "--stop-timeout: `1s 500ms`: the engine takes",
            ),
            (with(|o| o.ready = Some("log:".into())), "--ready: `log:`: it is"),
            (with(|o| o.env = vec!["=x".into()]), "--env: `=x`: write KEY=VALUE"),
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
            (with(|o| o.header = vec!["a b: c".into()]), "--header: `a b: c`: invalid HTTP header name"),
            (
                with(|o| o.header = vec!["Content-Length: 3".into()]),
                "--header: `Content-Length: 3`: the harness",
            ),
        ];
        for (options, beginning) in cases {
            let error = error(&options);
            assert!(error.starts_with(beginning), "{error}\nshould begin with {beginning}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn budget_over_what_cannot_occur_is_an_error() {
        let asked = |budget: &str, replace: Option<Order>, cohorts: &str| {
            scenario(&with(|o| {
                o.budget = vec![budget.into()];
                o.replace = replace.map(|_| "next:1".into());
                o.order = replace.map(|order| order.name().into());
                o.cohort = vec![cohorts.into()];
            }))
            .map(|_| ())
            .map_err(|error| error.to_string())
        };
        let refused = [
            ("overlap.failed==0", None, "fresh", "this run has no `overlap`"),
            ("overlap.failed==0", Some(Order::StopFirst), "fresh", "this run has no `overlap`"),
            ("gap.failed==0", Some(Order::StartFirst), "fresh", "this run has no `gap`"),
            ("replayed==0", None, "fresh,slow", "replays are counted for"),
            ("steady.replayed==0", None, "pooled", "replays are counted for"),
            ("fresh.killed==0", None, "fresh", "restarts are no cohort's"),
            ("max<1s", None, "slow", "latencies of cohorts that are slow on purpose"),
            ("gap.p(99)<1s", None, "slow,upload", "latencies of cohorts that are slow on purpose"),
        ];
        for (budget, replace, cohorts, told) in refused {
            let error = asked(budget, replace, cohorts).unwrap_err();
            assert!(error.starts_with("--budget: ") && error.contains(told), "{budget}: {error}");
        }
        let taken = [
            ("gap.failed==0", None, "fresh"),
            ("gap.failed==0", Some(Order::StopFirst), "fresh"),
            ("overlap.failed==0", Some(Order::StartFirst), "fresh"),
            ("replayed==0", None, "fresh,pooled"),
            ("killed==0", None, "fresh"),
            ("slow.max<4s", None, "slow"),
            ("max<1s", None, "slow,fresh"),
        ];
        for (budget, replace, cohorts) in taken {
            assert_eq!(asked(budget, replace, cohorts), Ok(()), "{budget}");
        }
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
        let ours = of(&compose, Server::Ours).unwrap();
        assert_eq!(names(&ours), ["fresh", "pooled", "slow"]);
        let foreign = of(&compose, Server::Anybodys).unwrap();
        assert_eq!(names(&foreign), ["fresh", "pooled"]);
        assert!(foreign.cohorts.iter().all(|plan| plan.expectation.body == ExpectedBody::Any));
        let slow = Options { cohort: vec!["slow".into()], ..compose };
        let error = of(&slow, Server::Anybodys).unwrap_err().to_string();
        assert!(error.starts_with("--cohort: `slow`: your server needs --slow-path"), "{error}");
        let preset = of(&Options::default(), Server::Anybodys).unwrap();
        assert_eq!(names(&preset), ["fresh", "pooled", "slow"], "a preset is our server whatever else runs");
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = Options::from_toml("rounds = 7\nrate = 50.0\ncohort = [\"fresh\"]\n").unwrap();
        let flags = with(|options| options.rounds = Some(2));
        let merged = flags.over(file);
        assert_eq!((merged.rounds, merged.rate), (Some(2), Some(50.0)));
        assert_eq!(merged.cohort, ["fresh"]);
    }

    #[test]
    fn unknown_field_of_a_file_is_an_error_with_its_line() {
        let error = Options::from_toml("rounds = 7\nround = 8\n").unwrap_err().to_string();
        assert!(error.starts_with("scenario file: `line 2`: unknown field `round`"), "{error}");
    }
}
