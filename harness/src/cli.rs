//! The command line: clap lives here and nowhere else.

#![expect(clippy::doc_markdown, reason = "the doc comments are the help text of a terminal, not Markdown")]

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use hitless::compare::DEFAULT_TOLERANCE;
use hitless::scenario::{Options, SERVER_IMAGE};

const EXIT_CODES: &str = "\
Exit codes:
  0  pass: every budget holds
  1  a budget is broken
  2  usage or scenario error
  3  environment: no container engine, port taken, image missing, ...
  4  inconclusive: the budgets hold, but the run could not have seen a failure
     (interrupted, too little load, a late generator, out of ports or descriptors)";

const MATRIX_EXIT_CODES: &str = "\
normal and graceful lose requests by design, so what counts is whether each preset loses what
it is known to lose, and nothing else.

Exit codes:
  0  each preset did as is known of it
  1  one did not
  2  usage or scenario error
  3  environment: no container engine, port taken, image missing, ...
  4  inconclusive: a run could not have shown it, or the matrix was interrupted";

const COMPARE_EXIT_CODES: &str = "\
A base without failures makes any failure of the new run a regression, unless a budget of the
new run counts it and holds; so is a budget that held in the base and is broken now. Otherwise
failures have to be more by the tolerance and than chance explains. Times have to be longer by
the tolerance and by a floor (50 ms for the p99, 500 ms for a phase), and in most restarts;
that takes four restarts in each run.

Exit codes:
  0  no regression
  1  a regression
  2  usage error, or a file that is no report
  4  inconclusive: nothing is worse, but one of the runs could not have shown it";

/// Rolls containers under HTTP load and says which requests were lost, when, and why.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Restart every replica in turn while requests run without a pause, and judge what was lost.
    #[command(after_help = EXIT_CODES)]
    Run {
        #[command(flatten)]
        run: RunArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Run our server's presets one after the other and compare them in one table.
    #[command(after_help = MATRIX_EXIT_CODES)]
    Matrix {
        #[command(flatten)]
        run: RunArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Render a run's report again, from its report.json, or from its events.jsonl if the run was killed. The exit code
    /// is that of the run's verdict.
    #[command(after_help = EXIT_CODES)]
    Report {
        /// The directory of the run, or one of these files.
        path: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Hold one run against another: exit code 1 if the new one is worse, beyond noise.
    #[command(after_help = COMPARE_EXIT_CODES)]
    Compare {
        /// What to compare with: a report.json, or the directory of a run.
        base: PathBuf,
        /// The run in question.
        new: PathBuf,
        /// How many times as much counts as worse: failures per request, p99 in restarts, length of a phase.
        #[arg(long, value_name = "RATIO", default_value_t = DEFAULT_TOLERANCE, value_parser = tolerance)]
        tolerance: f64,
        /// What goes to stdout: text for people, or json for scripts.
        #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text, help_heading = "Output")]
        format: Format,
        /// Print Markdown instead, for a comment on a change.
        #[arg(long, conflicts_with = "format", help_heading = "Output")]
        markdown: bool,
        /// Print nothing: the exit code says it all.
        #[arg(long, short, conflicts_with = "markdown", help_heading = "Output")]
        quiet: bool,
    },
    /// Look at everything that a run depends on; each finding comes with its remedy.
    Doctor {
        /// The port that a run would use.
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Prove that the harness sees what it should: run servers that misbehave in one known way, and catch each.
    Selftest {
        /// Where the servers listen.
        #[arg(long, default_value = "http://127.0.0.1:8080/")]
        url: String,
        /// Where the reports of the cases go.
        #[arg(long, default_value = "hitless-report/selftest")]
        report_dir: PathBuf,
    },
    /// Remove the containers, and end the processes, that interrupted runs left behind.
    Clean {
        /// Also those of runs that go on, or may go on elsewhere.
        #[arg(long)]
        all: bool,
    },
    /// Build the server's image from this checkout, without a registry.
    Image {
        /// The image's name.
        #[arg(long, default_value = SERVER_IMAGE)]
        tag: String,
        /// Print the Dockerfile of the image instead of building it.
        #[arg(long)]
        print_dockerfile: bool,
    },
    /// Print the completions for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print the manual page, in roff, or write it and one for each command into a directory.
    Man {
        /// Where the pages go: `hitless.1`, `hitless-run.1` and so on.
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

/// A ratio that can be a tolerance.
fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if ratio.is_finite() && ratio >= 1.0 => Ok(ratio),
        _ => Err("a tolerance is a number from 1 on, for example 1.5".to_owned()),
    }
}

/// The completions for `shell`.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hitless", &mut script);
    script
}

/// The program's manual page.
///
/// # Errors
/// Never in practice: the page is written to memory.
pub(crate) fn manual() -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    Ok(page)
}

/// Writes the program's manual page and one for each of its commands.
///
/// # Errors
/// The directory cannot be made, or a page cannot be written.
pub(crate) fn write_manual(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), directory)
}

/// What is printed; the files of the report are written in any case.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// What goes to stdout: text for people, or json, which is report.json and nothing else.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Text, help_heading = "Output")]
    pub(crate) format: Format,
    /// Show no progress, and no table at the end: the exit code and the report say it all.
    #[arg(long, short, help_heading = "Output")]
    pub(crate) quiet: bool,
}

/// What goes to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

/// Every flag is also a field of the scenario file; flags win.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A scenario file (TOML); its fields are named like the flags.
    pub(crate) scenario: Option<PathBuf>,
    /// How our server stops: normal, graceful, reuseport, handover [default: handover].
    #[arg(long, value_name = "NAME", help_heading = "What is tested")]
    preset: Option<String>,
    /// Where the replicas live: docker (containers made for the run), compose (a project that runs) or process (processes
    /// of this machine, without an engine) [default: docker].
    #[arg(long, value_name = "KIND", help_heading = "What is tested")]
    runtime: Option<String>,
    /// Test this image instead of our server's; with --preset, an image of our server.
    #[arg(long, value_name = "IMAGE", help_heading = "What is tested")]
    image: Option<String>,
    /// Environment of the replicas; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", help_heading = "What is tested")]
    env: Vec<String>,
    /// What follows the image's entrypoint, or what a process runs: a program and its arguments. Quoted as in a shell
    /// [default: the image's own; our server's binary].
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true, help_heading = "What is tested")]
    command: Option<String>,
    /// What a replica is sent to stop it, for example SIGQUIT [default: the image's own, else SIGTERM].
    #[arg(long, value_name = "SIGNAL", help_heading = "What is tested")]
    stop_signal: Option<String>,
    /// The Compose file whose running services are rolled [default: compose.yaml].
    #[arg(long, value_name = "FILE", help_heading = "What is tested")]
    compose: Option<PathBuf>,
    /// A service of the Compose file; may be repeated [default: all that run].
    #[arg(long, value_name = "NAME", help_heading = "What is tested")]
    service: Vec<String>,
    /// How many replicas [default: 1 for normal and graceful, otherwise 2].
    #[arg(long, value_name = "N", help_heading = "The rollout")]
    replicas: Option<usize>,
    /// Replace each replica by one of this image, or where they are processes by this program with its arguments, instead
    /// of restarting it; rounds alternate, there and back.
    #[arg(long, value_name = "IMAGE", help_heading = "The rollout")]
    replace: Option<String>,
    /// Whether the new replica is ready before the old one stops: start-first or stop-first [default: start-first].
    #[arg(long, value_name = "ORDER", help_heading = "The rollout")]
    order: Option<String>,
    /// How often each replica is restarted or replaced [default: 5].
    #[arg(long, value_name = "N", help_heading = "The rollout")]
    rounds: Option<u32>,
    /// End at the first failure, for hunting flakes; rounds then default to 1000.
    #[arg(long, help_heading = "The rollout")]
    until_failure: bool,
    /// Steady load before the first and after the last restart [default: 1s].
    #[arg(long, value_name = "DURATION", help_heading = "The rollout")]
    lead: Option<String>,
    /// Steady load between two restarts [default: 500ms].
    #[arg(long, value_name = "DURATION", help_heading = "The rollout")]
    settle: Option<String>,
    /// How long a replica may take to stop before it is killed, in whole seconds for an engine [default: 20s].
    #[arg(long, value_name = "DURATION", help_heading = "The rollout")]
    stop_timeout: Option<String>,
    /// How long a replica may take to become ready [default: 30s].
    #[arg(long, value_name = "DURATION", help_heading = "The rollout")]
    ready_timeout: Option<String>,
    /// How a replica is known to be ready: health, tcp, http:/PATH, log:TEXT [default: what our server logs; for other
    /// images their health check, or the port if they have none; for other programs the port].
    #[arg(long, value_name = "HOW", help_heading = "The rollout")]
    ready: Option<String>,
    /// Moves the restarts against the load; the same seed gives the same pauses [default: another
    /// each time; the report says which].
    #[arg(long, value_name = "N", help_heading = "The rollout")]
    seed: Option<u64>,
    /// Where the requests go [default: http://127.0.0.1:8080/].
    #[arg(long, help_heading = "The load")]
    url: Option<String>,
    /// Streams of load: fresh (a new connection a request), pooled (keep-alive), strict (keep-alive, nothing ever
    /// repeated), h2 (HTTP/2), and three that are always in flight over a restart: slow, upload, stream; each may carry
    /// its own rate, fresh=500 [default: fresh,pooled,slow].
    #[arg(long, value_name = "NAME[=RATE],...", help_heading = "The load")]
    cohort: Vec<String>,
    /// Requests per second of each cohort; those that take long have at most 4 [default: 300].
    #[arg(long, value_name = "PER SECOND", help_heading = "The load")]
    rate: Option<f64>,
    /// Requests that a cohort may have in flight at once [default: 256].
    #[arg(long, value_name = "N", help_heading = "The load")]
    concurrency: Option<usize>,
    /// How long a request may take, beyond its cohort's delay [default: 5s].
    #[arg(long, value_name = "DURATION", help_heading = "The load")]
    request_timeout: Option<String>,
    /// How long the requests of slow, upload and stream take [default: 3s].
    #[arg(long, value_name = "DURATION", help_heading = "The load")]
    slow_delay: Option<String>,
    /// A path of your server that takes long, for the slow cohort.
    #[arg(long, value_name = "PATH", help_heading = "The load")]
    slow_path: Option<String>,
    /// A path of your server that takes a POST, for the upload cohort.
    #[arg(long, value_name = "PATH", help_heading = "The load")]
    upload_path: Option<String>,
    /// A path of your server whose answer takes long, for the stream cohort.
    #[arg(long, value_name = "PATH", help_heading = "The load")]
    stream_path: Option<String>,
    /// Requests that a connection of strict carries before the client closes it; 1 is a new connection a request
    /// [default: any number].
    #[arg(long, value_name = "N", help_heading = "The load")]
    requests_per_connection: Option<u64>,
    /// 'Name: value', sent with every request, for example a Host or an Authorization; may be repeated.
    #[arg(long, value_name = "HEADER", help_heading = "The load")]
    header: Vec<String>,
    /// A header in which every request carries a token of its own and which your server repeats in its answers, for
    /// example x-request-id: an answer with another request's token is a wrong one [default: our server's].
    #[arg(long, value_name = "NAME", help_heading = "The load")]
    echo_header: Option<String>,
    /// The status of the expected answer [default: 200].
    #[arg(long, value_name = "STATUS", help_heading = "The load")]
    expect_status: Option<u16>,
    /// The whole body of the expected answer [default: our server's; unchecked for other servers].
    #[arg(long, value_name = "TEXT", help_heading = "The load")]
    expect_body: Option<String>,
    /// What the run may cost, in k6's grammar: 'failed==0', 'p(99)<250ms', 'fresh.refused==0', 'draining.failed<3'; may
    /// be repeated [default: failed==0].
    #[arg(long, value_name = "CONDITION", help_heading = "The verdict")]
    budget: Vec<String>,
    /// Where report.json and events.jsonl go [default: hitless-report/<run>].
    #[arg(long, value_name = "DIR", help_heading = "The verdict")]
    report_dir: Option<PathBuf>,
}

impl RunArgs {
    /// The flags as options.
    pub(crate) fn into_options(self) -> Options {
        Options {
            preset: self.preset,
            runtime: self.runtime,
            image: self.image,
            env: self.env,
            command: self.command,
            stop_signal: self.stop_signal,
            compose: self.compose,
            service: self.service,
            replicas: self.replicas,
            replace: self.replace,
            order: self.order,
            rounds: self.rounds,
            until_failure: self.until_failure.then_some(true),
            rate: self.rate,
            concurrency: self.concurrency,
            cohort: self.cohort,
            url: self.url,
            requests_per_connection: self.requests_per_connection,
            header: self.header,
            echo_header: self.echo_header,
            expect_status: self.expect_status,
            expect_body: self.expect_body,
            slow_delay: self.slow_delay,
            slow_path: self.slow_path,
            upload_path: self.upload_path,
            stream_path: self.stream_path,
            ready: self.ready,
            lead: self.lead,
            settle: self.settle,
            stop_timeout: self.stop_timeout,
            ready_timeout: self.ready_timeout,
            request_timeout: self.request_timeout,
            budget: self.budget,
            report_dir: self.report_dir,
            seed: self.seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the commands that a person is shown.
    fn commands() -> Vec<String> {
        let command = Cli::command();
        command.get_subcommands().map(|command| command.get_name().to_owned()).collect()
    }

    #[test]
    fn completions_know_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(completions(shell)).unwrap();
            let words: Vec<&str> =
                script.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '-').collect();
            for command in commands() {
                assert!(words.contains(&command.as_str()), "{shell}: {command}");
            }
        }
    }

    #[test]
    fn every_command_has_a_manual_page_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        write_manual(directory.path()).unwrap();
        let page = |name: &str| std::fs::read_to_string(directory.path().join(format!("{name}.1"))).unwrap();
        assert!(commands().len() > 5);
        let names = commands().into_iter().map(|command| format!("hitless-{command}"));
        for name in names.chain(["hitless".to_owned()]) {
            let titles: Vec<String> =
                page(&name).lines().filter(|line| line.starts_with(".TH")).map(ToOwned::to_owned).collect();
            assert_eq!(titles.len(), 1, "{name}: {titles:?}");
            assert!(titles[0].starts_with(&format!(".TH {name} 1")), "{titles:?}");
        }
        assert_eq!(String::from_utf8(manual().unwrap()).unwrap().matches("\n.TH").count(), 1);
        for flag in [r"\-\-budget", r"\-\-until\-failure", r"\-\-report\-dir"] {
            assert!(page("hitless-run").contains(flag), "{flag}");
        }
    }

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
