//! What a scenario file and the flags say, before anything of it is checked. A flag, its field in a scenario file and its
//! place in a report are one field here.

#![allow(
    clippy::doc_markdown,
    rustdoc::invalid_html_tags,
    reason = "the doc comments are the help text of a terminal, not Markdown"
)]

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Args, Command};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

/// What stands in a report in the place of a secret.
pub const REDACTED: &str = "(redacted)";

/// The headers whose values are no secrets.
const OPEN_HEADERS: [&str; 4] = ["host", "accept", "content-type", "user-agent"];

/// What a scenario file, or the command line, says. Everything may be left out.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// How our server stops: normal, graceful, reuseport, handover [default: handover].
    #[arg(long, value_name = "NAME", value_parser = Suggested(&["normal", "graceful", "reuseport", "handover"]), hide_possible_values = true, help_heading = "What is tested")]
    pub preset: Option<String>,
    /// Where the replicas live: docker (containers made for the run), compose (a project that runs) or process (processes
    /// of this machine, without an engine) [default: docker].
    #[arg(long, value_name = "KIND", value_parser = Suggested(&["docker", "compose", "process"]), hide_possible_values = true, help_heading = "What is tested")]
    pub runtime: Option<String>,
    /// Test this image instead of our server's; with --preset, an image of our server.
    #[arg(long, value_name = "IMAGE", help_heading = "What is tested")]
    pub image: Option<String>,
    /// Environment of the replicas; KEY alone takes the value that hitless itself has; may be repeated.
    #[arg(long, value_name = "KEY[=VALUE]", help_heading = "What is tested")]
    pub env: Vec<String>,
    /// What follows the image's entrypoint, or what a process runs: a program and its arguments. Quoted as in a shell
    /// [default: the image's own; our server's binary].
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true, help_heading = "What is tested")]
    pub command: Option<String>,
    /// What a replica is sent to stop it, for example SIGQUIT [default: the image's own, else SIGTERM].
    #[arg(long, value_name = "SIGNAL", help_heading = "What is tested")]
    pub stop_signal: Option<String>,
    /// The Compose file whose running services are rolled [default: the one that Compose finds: compose.yaml, compose.yml,
    /// docker-compose.yml or docker-compose.yaml, here or in a parent directory].
    #[arg(long, value_name = "FILE", help_heading = "What is tested")]
    #[serde(serialize_with = "lossy")]
    pub compose: Option<PathBuf>,
    /// A service of the Compose file; may be repeated [default: those that use host networking or publish the port, provided
    /// they share one image].
    #[arg(long, value_name = "NAME", help_heading = "What is tested")]
    pub service: Vec<String>,
    /// How many replicas [default: 2 for handover and reuseport, otherwise 1].
    #[arg(long, value_name = "N", help_heading = "The rollout")]
    pub replicas: Option<usize>,
    /// Replace each replica by one of this image, or where they are processes by this program with its arguments, instead
    /// of restarting it; rounds alternate, there and back.
    #[arg(long, value_name = "IMAGE", help_heading = "The rollout")]
    pub replace: Option<String>,
    /// Whether the new replica is ready before the old one stops: start-first or stop-first [default: start-first].
    #[arg(long, value_name = "ORDER", value_parser = Suggested(&["start-first", "stop-first"]), hide_possible_values = true, help_heading = "The rollout")]
    pub order: Option<String>,
    /// How often each replica is restarted or replaced [default: 5].
    #[arg(long, value_name = "N", help_heading = "The rollout")]
    pub rounds: Option<u32>,
    /// End at the first failure, for hunting flakes; rounds then default to 1000.
    #[arg(long, num_args = 0, default_missing_value = "true", help_heading = "The rollout")]
    pub until_failure: Option<bool>,
    /// Steady load before the first and after the last restart [default: 1s].
    #[arg(long, value_name = "DURATION", help_heading = "The rollout")]
    pub lead: Option<String>,
    /// Steady load between two restarts [default: 500ms].
    #[arg(long, value_name = "DURATION", help_heading = "The rollout")]
    pub settle: Option<String>,
    /// How long a replica may take to stop before it is killed, in whole seconds for an engine [default: a container's own
    /// stop timeout, which is 10s if nothing says otherwise; 20s for a process].
    #[arg(long, value_name = "DURATION", help_heading = "The rollout")]
    pub stop_timeout: Option<String>,
    /// How long a replica may take to become ready [default: 30s].
    #[arg(long, value_name = "DURATION", help_heading = "The rollout")]
    pub ready_timeout: Option<String>,
    /// How a replica is known to be ready: health, tcp, http:/PATH, log:TEXT [default: what our server logs; for other
    /// images their health check, or the port if they have none; for other programs the port].
    #[arg(long, value_name = "HOW", help_heading = "The rollout")]
    pub ready: Option<String>,
    /// Moves the restarts against the load; the same seed gives the same pauses [default: another
    /// each time; the report says which].
    #[arg(long, value_name = "N", help_heading = "The rollout")]
    pub seed: Option<u64>,
    /// Where the requests go [default: http://127.0.0.1:8080/].
    #[arg(long, help_heading = "The load")]
    pub url: Option<String>,
    /// Send load also to an address that is neither this machine's nor a private one.
    #[arg(long, num_args = 0, default_missing_value = "true", help_heading = "The load")]
    pub allow_remote: Option<bool>,
    /// Streams of load: fresh (a new connection a request), pooled (keep-alive), strict (keep-alive, nothing ever
    /// repeated), h2 (HTTP/2), and three that are always in flight over a restart: slow, upload, stream; each may carry
    /// its own rate, fresh=500 [default: fresh,pooled,slow].
    #[arg(long, value_name = "NAME[=RATE],...", help_heading = "The load")]
    pub cohort: Vec<String>,
    /// Requests per second of each cohort; those that take long have at most 4 [default: 300].
    #[arg(long, value_name = "PER SECOND", help_heading = "The load")]
    pub rate: Option<f64>,
    /// Requests that a cohort may have in flight at once [default: 256].
    #[arg(long, value_name = "N", help_heading = "The load")]
    pub concurrency: Option<usize>,
    /// How long a request may take, beyond its cohort's delay [default: 5s].
    #[arg(long, value_name = "DURATION", help_heading = "The load")]
    pub request_timeout: Option<String>,
    /// How long the requests of slow, upload and stream take [default: 3s].
    #[arg(long, value_name = "DURATION", help_heading = "The load")]
    pub slow_delay: Option<String>,
    /// A path of your server that takes long, for the slow cohort.
    #[arg(long, value_name = "PATH", help_heading = "The load")]
    pub slow_path: Option<String>,
    /// A path of your server that takes a POST, for the upload cohort.
    #[arg(long, value_name = "PATH", help_heading = "The load")]
    pub upload_path: Option<String>,
    /// A path of your server whose answer takes long, for the stream cohort.
    #[arg(long, value_name = "PATH", help_heading = "The load")]
    pub stream_path: Option<String>,
    /// Requests that a connection of strict carries before the client closes it; 1 is a new connection a request
    /// [default: any number].
    #[arg(long, value_name = "N", help_heading = "The load")]
    pub requests_per_connection: Option<u64>,
    /// 'Name: value', sent with every request, for example a Host or an Authorization; may be repeated.
    #[arg(long, value_name = "HEADER", help_heading = "The load")]
    pub header: Vec<String>,
    /// 'Name=VARIABLE': a header whose value the environment of hitless holds, so that it stands in no command line; may
    /// be repeated.
    #[arg(long, value_name = "NAME=VARIABLE", help_heading = "The load")]
    pub header_env: Vec<String>,
    /// A header in which every request carries a token of its own and which your server repeats in its answers, for
    /// example x-request-id: an answer with another request's token is a wrong one [default: our server's].
    #[arg(long, value_name = "NAME", help_heading = "The load")]
    pub echo_header: Option<String>,
    /// The status of the expected answer [default: 200].
    #[arg(long, value_name = "STATUS", help_heading = "The load")]
    pub expect_status: Option<u16>,
    /// The whole body of the expected answer [default: our server's; unchecked for other servers].
    #[arg(long, value_name = "TEXT", help_heading = "The load")]
    pub expect_body: Option<String>,
    /// What the run may cost, as in k6's thresholds: 'failed==0', 'p(99)<250ms', 'rate<0.1%', 'fresh.refused==0',
    /// 'draining.failed<3'; may be repeated [default: failed==0].
    #[arg(long, value_name = "CONDITION", help_heading = "The verdict")]
    pub budget: Vec<String>,
    /// Where report.json and events.jsonl go [default: hitless-report/<run>].
    #[arg(long, value_name = "DIR", help_heading = "The verdict")]
    #[serde(serialize_with = "lossy")]
    pub report_dir: Option<PathBuf>,
}

/// Takes any text, and tells the completions which ones there are: what is wrong with another one is said where all of the
/// scenario is validated.
#[derive(Clone)]
struct Suggested(&'static [&'static str]);

impl TypedValueParser for Suggested {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().copied().map(PossibleValue::new)))
    }
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn lossy<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}

/// A scenario file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("scenario file: `line {line}`: {reason}")]
pub struct OptionsError {
    line: usize,
    reason: String,
}

impl Options {
    /// Reads a scenario file's text.
    ///
    /// # Errors
    /// The text is no TOML, or names a field that does not exist.
    pub fn from_toml(text: &str) -> Result<Self, OptionsError> {
        toml::from_str(text).map_err(|error| {
            let line =
                error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            OptionsError { line, reason: error.message().to_owned() }
        })
    }

    /// These options without the values that may be secret: of headers, of the environment, and of the user in a URL.
    #[must_use]
    pub fn redacted(&self) -> Self {
        Self {
            header: self.header.iter().map(|line| redacted_header(line)).collect(),
            env: self.env.iter().map(|pair| redacted_pair(pair)).collect(),
            url: self.url.as_deref().map(redacted_url),
            ..self.clone()
        }
    }

    /// What is said, by the name of its flag; what is left out is missing.
    ///
    /// # Panics
    /// Never: options are plain data.
    #[must_use]
    pub fn said(&self) -> Map<String, Value> {
        let Ok(Value::Object(fields)) = serde_json::to_value(self) else { return Map::new() };
        let is_said = |value: &Value| match value {
            Value::Null => false,
            Value::Array(list) => !list.is_empty(),
            _ => true,
        };
        fields.into_iter().filter(|(_, value)| is_said(value)).collect()
    }

    /// The flags that say the same.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let said = self.said().into_iter().flat_map(|(name, value)| match value {
            Value::Bool(true) => vec![format!("--{name}")],
            Value::Array(list) => list.into_iter().flat_map(|one| [format!("--{name}"), text(one)]).collect(),
            value => vec![format!("--{name}"), text(value)],
        });
        said.collect()
    }
}

/// A header line without its value; what has no colon could be a value alone.
pub(crate) fn redacted_header(line: &str) -> String {
    let name = line.split(':').next().unwrap_or(line);
    let is_open = OPEN_HEADERS.iter().any(|open| name.trim().eq_ignore_ascii_case(open));
    match line.contains(':') {
        _ if is_open => line.to_owned(),
        true => format!("{name}: {REDACTED}"),
        false => REDACTED.to_owned(),
    }
}

/// A variable without its value.
pub(crate) fn redacted_pair(pair: &str) -> String {
    pair.split_once('=').map_or_else(|| pair.to_owned(), |(key, _)| format!("{key}={REDACTED}"))
}

/// A URL without the name and the password of a user, but with the word that there were some. What is no URL is redacted
/// whole if it could hold some.
#[must_use]
pub fn redacted_url(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else {
        return if text.contains('@') { REDACTED.to_owned() } else { text.to_owned() };
    };
    if url.username().is_empty() && url.password().is_none() {
        return text.to_owned();
    }
    let is_removed = url.set_username("").is_ok() && url.set_password(None).is_ok();
    match url.as_str().split_once("://") {
        Some((scheme, rest)) if is_removed => format!("{scheme}://{REDACTED}@{rest}"),
        _ => REDACTED.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::FromArgMatches;
    use schemars::generate::SchemaSettings;

    use super::*;

    /// The file's options with what these flags say on top.
    fn merged(file: &str, flags: &[&str]) -> Options {
        let mut options = Options::from_toml(file).unwrap();
        let command = Options::augment_args(Command::new("hitless").no_binary_name(true));
        options.update_from_arg_matches(&command.get_matches_from(flags)).unwrap();
        options
    }

    #[test]
    fn flags_win_over_the_file() {
        let options = merged(
            "rounds = 7\nrate = 50.0\ncohort = [\"fresh\"]\nuntil-failure = true\n",
            &["--rounds", "2", "--header", "a: b"],
        );
        assert_eq!((options.rounds, options.rate), (Some(2), Some(50.0)));
        assert_eq!((options.until_failure, &*options.cohort), (Some(true), &["fresh".to_owned()][..]));
        assert_eq!(merged("cohort = [\"fresh\"]", &["--cohort", "h2"]).cohort, ["h2"]);
    }

    #[test]
    fn unknown_field_of_a_file_is_an_error_with_its_line() {
        let error = Options::from_toml("rounds = 7\nround = 8\n").unwrap_err().to_string();
        assert!(error.starts_with("scenario file: `line 2`: unknown field `round`"), "{error}");
    }

    #[test]
    fn flags_that_are_made_of_options_say_the_same() {
        let said = ["--env", "A=1", "--rounds", "3", "--until-failure", "--expect-body", "hello world"];
        let options = merged("", &said);
        assert_eq!(merged("", &options.flags().iter().map(String::as_str).collect::<Vec<_>>()), options);
    }

    #[test]
    fn secrets_are_in_no_redacted_option() {
        let options = Options {
            header: vec!["Authorization: Bearer hunter2".into(), "Host: shop.test".into(), "hunter2".into()],
            env: vec!["TOKEN=hunter2".into(), "KEY".into()],
            url: Some("http://user:hunter2@127.0.0.1:8080/".into()),
            ..Options::default()
        };
        let redacted = options.redacted();
        assert!(!format!("{redacted:?}").contains("hunter2"), "{redacted:?}");
        assert_eq!(redacted.header, ["Authorization: (redacted)", "Host: shop.test", "(redacted)"]);
        assert_eq!(redacted.env, ["TOKEN=(redacted)", "KEY"]);
        assert_eq!(redacted.url.as_deref(), Some("http://(redacted)@127.0.0.1:8080/"));
        assert_eq!(redacted_url("http://user:hunter2@["), REDACTED);
    }

    /// With `UPDATE_SCHEMAS=1` in the environment the file is written instead.
    #[test]
    fn committed_schema_is_the_derived_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/scenario.schema.json");
        let settings = SchemaSettings::draft2020_12();
        let mut schema = settings.into_generator().into_root_schema_for::<Options>();
        schema.insert("title".to_owned(), "scenario file of hitless".into());
        let derived = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(&path, &derived).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap();
        assert!(
            committed == derived,
            "run `UPDATE_SCHEMAS=1 cargo test -p hitless schema` and look at the difference"
        );
    }
}
