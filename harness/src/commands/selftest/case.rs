//! The cases: which servers are run, and how.

use std::path::{Path, PathBuf};

use super::Expected;
use crate::model::failure::FailureClass;
use crate::options::Options;
use crate::scenario::{SERVER_IMAGE, Scenario, ScenarioError};

/// How long a saboteur serves on after the signal: what it has not read by then it loses, and a busy machine makes it slow.
const LAME_DUCK: &str = "SABOTEUR_LAME_DUCK=800ms";

/// The name of the saboteurs' image.
pub const SABOTEUR_IMAGE: &str = "hitless-saboteur:latest";

/// A server, and what the harness has to say about it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What the server does.
    pub name: &'static str,
    subject: Subject,
    cohorts: &'static str,
    /// What has to be seen.
    pub expected: Expected,
}

#[derive(Debug, Clone, Copy)]
enum Subject {
    /// A mode of the saboteur.
    Saboteur(&'static str),
    /// Our own server.
    Handover,
}

/// Every case. The rates make each saboteur misbehave some dozens of times in its few seconds.
pub const CASES: [Case; 16] = [
    Case {
        name: "our server, handover",
        subject: Subject::Handover,
        cohorts: "fresh,strict",
        expected: Expected::Clean,
    },
    saboteur("behaves", "none", "fresh,strict", Expected::Behaves),
    saboteur(
        "drops 1 in 100 requests after reading them",
        "drops-after-reading:every=100",
        "fresh,strict",
        Expected::Only(FailureClass::EmptyReply),
    ),
    saboteur("closes idle connections at once", "closes-idle", "strict", Expected::ClosedIdle),
    saboteur("sends half a body", "half-body:every=100", "fresh", Expected::Only(FailureClass::Truncated)),
    saboteur(
        "declares no length and cuts 1 answer in 100",
        "cuts-undeclared:every=100",
        "fresh",
        Expected::Only(FailureClass::Truncated),
    ),
    saboteur(
        "answers with another body of the same length",
        "wrong-body:every=100",
        "fresh",
        Expected::Only(FailureClass::WrongBody),
    ),
    saboteur(
        "answers with the answer of the request before",
        "swaps-answers:every=100",
        "fresh",
        Expected::Only(FailureClass::WrongBody),
    ),
    saboteur(
        "answers 503 while draining",
        "unavailable-while-draining",
        "fresh",
        Expected::WhileDraining(FailureClass::HttpError),
    ),
    saboteur(
        "accepts and never answers",
        "never-answers:every=200",
        "fresh",
        Expected::AtLeast(FailureClass::Timeout),
    ),
    saboteur(
        "loses what arrives within 5 ms of SIGTERM",
        "drops-at-sigterm:within=5ms",
        "fresh=1000",
        Expected::WhileDraining(FailureClass::EmptyReply),
    ),
    saboteur("answers twice", "answers-twice:every=50", "strict", Expected::AtLeast(FailureClass::Other)),
    saboteur("ignores SIGTERM", "ignores-sigterm", "fresh", Expected::Killed),
    saboteur("exits 1", "exits-one", "fresh", Expected::ExitCode(1)),
    saboteur("dies on its own", "dies:requests=150", "fresh", Expected::Death),
    saboteur("never gets ready", "never-ready", "fresh", Expected::NotReady),
];

const fn saboteur(name: &'static str, mode: &'static str, cohorts: &'static str, expected: Expected) -> Case {
    Case { name, subject: Subject::Saboteur(mode), cohorts, expected }
}

impl Case {
    /// The run that shows it: the case of that `number`, from 0, its report below `directory`.
    pub(super) fn scenario(
        &self,
        number: usize,
        url: &str,
        directory: &Path,
    ) -> Result<Scenario, ScenarioError> {
        let port = url.rsplit(':').next().unwrap_or("8080").trim_end_matches('/').to_owned();
        let directory: PathBuf =
            directory.join(format!("{:02}-{}", number + 1, self.name.replace([' ', ','], "-")));
        let common = Options {
            url: Some(url.to_owned()),
            rounds: Some(1),
            cohort: vec![self.cohorts.to_owned()],
            rate: Some(400.0),
            settle: Some("300ms".to_owned()),
            lead: Some("500ms".to_owned()),
            // A handshake that meets a closing listener is repeated after a second.
            request_timeout: Some("3s".to_owned()),
            stop_timeout: Some("3s".to_owned()),
            ready_timeout: Some("5s".to_owned()),
            report_dir: Some(directory),
            ..Options::default()
        };
        let options = match self.subject {
            Subject::Handover => Options {
                preset: Some("handover".to_owned()),
                image: Some(SERVER_IMAGE.to_owned()),
                ..common
            },
            Subject::Saboteur(mode) => Options {
                image: Some(SABOTEUR_IMAGE.to_owned()),
                // They share the port, as few servers do.
                replicas: Some(2),
                env: vec![
                    format!("SABOTEUR={mode}"),
                    format!("SABOTEUR_LISTEN=0.0.0.0:{port}"),
                    LAME_DUCK.to_owned(),
                ],
                // Whose lengths alone tell is not told what to expect.
                expect_body: (!mode.starts_with("cuts-undeclared")).then(|| "hello world".to_owned()),
                echo_header: Some("x-request-id".to_owned()),
                ready: Some("log:\"listening\"".to_owned()),
                ..common
            },
        };
        Scenario::from_options(&options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_a_scenario_that_can_be_run() {
        for (number, case) in CASES.iter().enumerate() {
            let scenario = case.scenario(number, "http://127.0.0.1:8080/", Path::new("x"));
            let scenario = scenario.unwrap_or_else(|error| panic!("{}: {error}", case.name));
            assert_eq!(scenario.replicas, 2, "{}", case.name);
        }
    }
}
