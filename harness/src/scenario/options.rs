//! What a scenario file and the flags say, before anything of it is believed.

use std::path::PathBuf;

use serde::Deserialize;

use super::ScenarioError;

/// What a scenario file, or the command line, says. Everything may be left out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// `normal`, `graceful`, `reuseport` or `handover`.
    pub preset: Option<String>,
    /// `docker`, `compose` or `process`.
    pub runtime: Option<String>,
    /// An image reference.
    pub image: Option<String>,
    /// `KEY=VALUE` each.
    pub env: Vec<String>,
    /// The arguments after the image's entrypoint, or a program and its arguments, quoted as in a shell.
    pub command: Option<String>,
    /// What a replica is sent to stop it.
    pub stop_signal: Option<String>,
    /// A Compose file.
    pub compose: Option<PathBuf>,
    /// Services of the Compose file.
    pub service: Vec<String>,
    /// How many replicas.
    pub replicas: Option<usize>,
    /// An image, or a program with its arguments, that takes the place of the running one.
    pub replace: Option<String>,
    /// `start-first` or `stop-first`.
    pub order: Option<String>,
    /// How often each replica is restarted or replaced.
    pub rounds: Option<u32>,
    /// Whether the first failure ends the run.
    pub until_failure: Option<bool>,
    /// Requests per second of each fast cohort.
    pub rate: Option<f64>,
    /// Requests that a cohort may have in flight.
    pub concurrency: Option<usize>,
    /// Cohorts, `NAME` or `NAME=RATE` each.
    pub cohort: Vec<String>,
    /// Where the requests go.
    pub url: Option<String>,
    /// Requests on one connection of the `strict` cohort.
    pub requests_per_connection: Option<u64>,
    /// `Name: value` each, for every request.
    pub header: Vec<String>,
    /// A request header that the server repeats in its answer.
    pub echo_header: Option<String>,
    /// The status of the expected answer.
    pub expect_status: Option<u16>,
    /// The body of the expected answer.
    pub expect_body: Option<String>,
    /// How long the requests of `slow`, `upload` and `stream` take.
    pub slow_delay: Option<String>,
    /// Path and query of the `slow` cohort's requests.
    pub slow_path: Option<String>,
    /// Path of the `upload` cohort's requests.
    pub upload_path: Option<String>,
    /// Path and query of the `stream` cohort's requests.
    pub stream_path: Option<String>,
    /// `log:TEXT`, `health`, `tcp` or `http:PATH`.
    pub ready: Option<String>,
    /// Steady load before the first and after the last restart.
    pub lead: Option<String>,
    /// Steady load between restarts.
    pub settle: Option<String>,
    /// How long a replica may take to stop.
    pub stop_timeout: Option<String>,
    /// How long a replica may take to become ready.
    pub ready_timeout: Option<String>,
    /// How long a request may take.
    pub request_timeout: Option<String>,
    /// Budgets.
    pub budget: Vec<String>,
    /// Where the report goes.
    pub report_dir: Option<PathBuf>,
    /// Seed of the restarts' jitter.
    pub seed: Option<u64>,
}

impl Options {
    /// Reads a scenario file's text.
    ///
    /// # Errors
    /// The text is no TOML, or names a field that does not exist.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        toml::from_str(text).map_err(|error| {
            let line =
                error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            ScenarioError::new("scenario file", format!("line {line}"), error.message().to_owned())
        })
    }

    /// These options, with what they leave out taken from `base`.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        fn list<T>(mine: Vec<T>, base: Vec<T>) -> Vec<T> {
            if mine.is_empty() { base } else { mine }
        }
        Self {
            preset: self.preset.or(base.preset),
            runtime: self.runtime.or(base.runtime),
            image: self.image.or(base.image),
            env: list(self.env, base.env),
            command: self.command.or(base.command),
            stop_signal: self.stop_signal.or(base.stop_signal),
            compose: self.compose.or(base.compose),
            service: list(self.service, base.service),
            replicas: self.replicas.or(base.replicas),
            replace: self.replace.or(base.replace),
            order: self.order.or(base.order),
            rounds: self.rounds.or(base.rounds),
            until_failure: self.until_failure.or(base.until_failure),
            rate: self.rate.or(base.rate),
            concurrency: self.concurrency.or(base.concurrency),
            cohort: list(self.cohort, base.cohort),
            url: self.url.or(base.url),
            requests_per_connection: self.requests_per_connection.or(base.requests_per_connection),
            header: list(self.header, base.header),
            echo_header: self.echo_header.or(base.echo_header),
            expect_status: self.expect_status.or(base.expect_status),
            expect_body: self.expect_body.or(base.expect_body),
            slow_delay: self.slow_delay.or(base.slow_delay),
            slow_path: self.slow_path.or(base.slow_path),
            upload_path: self.upload_path.or(base.upload_path),
            stream_path: self.stream_path.or(base.stream_path),
            ready: self.ready.or(base.ready),
            lead: self.lead.or(base.lead),
            settle: self.settle.or(base.settle),
            stop_timeout: self.stop_timeout.or(base.stop_timeout),
            ready_timeout: self.ready_timeout.or(base.ready_timeout),
            request_timeout: self.request_timeout.or(base.request_timeout),
            budget: list(self.budget, base.budget),
            report_dir: self.report_dir.or(base.report_dir),
            seed: self.seed.or(base.seed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file() {
        let file = Options::from_toml("rounds = 7\nrate = 50.0\ncohort = [\"fresh\"]\n").unwrap();
        let flags = Options { rounds: Some(2), ..Options::default() };
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
