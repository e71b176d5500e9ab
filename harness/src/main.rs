//! `hitless`: reads the command line, calls, prints, exits.

mod cli;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use cli::{Cli, Command, Format, OutputArgs, RunArgs};
use hitless::analysis::report::Report;
use hitless::analysis::verdict::Verdict;
use hitless::artifacts::checkout::{Artifact, Checkout, CheckoutError};
use hitless::artifacts::image::{self, ImageError};
use hitless::clean::clean;
use hitless::compare::{self, CompareError, Comparison};
use hitless::doctor::{self, Finding};
use hitless::host::engine::{Engine, EngineError};
use hitless::host::limits;
use hitless::matrix::{self, Known};
use hitless::progress::Display;
use hitless::report::files::{self, FilesError};
use hitless::report::terminal::{self, Style};
use hitless::report::{self, annotations, json, markdown};
use hitless::rollout::runtime::RuntimeError;
use hitless::run::{RunError, run, server_of};
use hitless::scenario::{self, Options, Preset, Scenario, ScenarioError, Server};
use hitless::selftest::{self, SelftestError};
use hitless::stored_report::{self, StoredReportError};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What ends the program early; each kind has its exit code.
#[derive(Debug, thiserror::Error)]
enum MainError {
    #[error(transparent)]
    Usage(#[from] ScenarioError),
    #[error("scenario file `{0}`: {1}")]
    ScenarioFile(String, std::io::Error),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Selftest(#[from] SelftestError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    StoredReport(#[from] StoredReportError),
    #[error(transparent)]
    Compare(#[from] CompareError),
    #[error("failed to write the manual into {0}: {1}; choose another directory with --output")]
    Manual(String, std::io::Error),
}

impl MainError {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_)
            | Self::ScenarioFile(..)
            | Self::Files(_)
            | Self::StoredReport(_)
            | Self::Compare(_)
            | Self::Manual(..) => 2,
            Self::Run(RunError::Interrupted) => 4,
            Self::Run(_)
            | Self::Runtime(_)
            | Self::Engine(_)
            | Self::Checkout(_)
            | Self::Image(_)
            | Self::Selftest(_) => 3,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    limits::raise_descriptor_limit();
    let command = Cli::parse().command;
    match dispatch(command).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

async fn dispatch(command: Command) -> Result<u8, MainError> {
    match command {
        Command::Run { run: args, output } => carry_out(args, output).await,
        Command::Matrix { run: args, output } => carry_out_presets(args, output).await,
        Command::Report { path, output } => render_again(&path, output),
        Command::Compare { base, new, tolerance, format, markdown, quiet } => {
            let comparison = Comparison::of(&compare::read(&base)?, &compare::read(&new)?, tolerance);
            match format {
                _ if markdown => print(&compare::markdown::render(&comparison)),
                Format::Json => print(&compare::json(&comparison)),
                Format::Text if quiet => {}
                Format::Text => print(&compare::terminal::render(&comparison, style())),
            }
            Ok(exit_code(comparison.outcome.verdict()))
        }
        Command::Doctor { port } => Ok(examine(port).await),
        Command::Selftest { url, report_dir } => prove(&url, &report_dir).await,
        Command::Clean { all } => clean_up(all).await,
        Command::Image { tag, print_dockerfile } => provide_image(&tag, print_dockerfile).await,
        Command::Completions { shell } => {
            let _ = std::io::stdout().write_all(&cli::completions(shell));
            Ok(0)
        }
        Command::Man { output: None } => {
            let _ = cli::manual().and_then(|page| std::io::stdout().write_all(&page));
            Ok(0)
        }
        Command::Man { output: Some(directory) } => {
            cli::write_manual(&directory)
                .map_err(|error| MainError::Manual(directory.display().to_string(), error))?;
            Ok(0)
        }
    }
}

async fn carry_out(args: RunArgs, output: OutputArgs) -> Result<u8, MainError> {
    let (options, command) = with_seed(options(args)?);
    let mut scenario = Scenario::from_options(&options)?;
    if server_of(&scenario).await? == Server::Anybodys {
        scenario = Scenario::of_project(&options, Server::Anybodys)?;
    }
    let (report, directory) = run(&scenario, &command, display(output), &interrupt()).await?;
    tell(output, &report, &json::render(&report), || {
        let again = match report.verdict {
            Verdict::Pass => String::new(),
            Verdict::Fail | Verdict::Inconclusive => format!("again: {}\n", report.run.command),
        };
        format!("{}{again}report: {}\n", terminal::render(&report, style()), directory.display())
    });
    Ok(exit_code(report.verdict))
}

async fn carry_out_presets(args: RunArgs, output: OutputArgs) -> Result<u8, MainError> {
    let (options, command) = with_seed(options(args)?);
    let scenarios = matrix::scenarios(&options, &Preset::ALL)?;
    let runs = matrix::carry_out(&scenarios, &command, display(output), &interrupt()).await?;
    let (reports, directories): (Vec<_>, Vec<_>) = runs.into_iter().unzip();
    let findings = matrix::judge(&reports);
    match output.format {
        Format::Json => print(&json::render_all(&reports)),
        Format::Text if output.quiet => {}
        Format::Text => {
            print(&format!("{}\n", report::matrix::render(&findings, style())));
            for directory in directories {
                print(&format!("report: {}\n", directory.display()));
            }
        }
    }
    reports.iter().for_each(publish);
    Ok(exit_code(Known::of_all(&findings, scenarios.len()).verdict()))
}

fn render_again(path: &Path, output: OutputArgs) -> Result<u8, MainError> {
    let report = stored_report::read(path)?;
    let directory = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    files::write(&report, directory)?;
    tell(output, &report, &json::render(&report), || terminal::render(&report, style()));
    Ok(exit_code(report.verdict))
}

async fn prove(url: &str, report_dir: &Path) -> Result<u8, MainError> {
    let findings = selftest::carry_out(url, report_dir, progress(), &interrupt()).await?;
    print(&format!("{}\n", report::selftest::render(&findings, style())));
    Ok(exit_code(selftest::Outcome::of_all(&findings).verdict()))
}

async fn clean_up(all: bool) -> Result<u8, MainError> {
    let cleaned = clean(all).await?;
    for name in &cleaned.removed {
        print(&format!("removed {name}\n"));
    }
    for name in &cleaned.in_use {
        print(&format!("left {name}: its run goes on (--all removes it too)\n"));
    }
    for name in &cleaned.out_of_sight {
        print(&format!("left {name}: its run is of another host or container (--all removes it too)\n"));
    }
    match &cleaned.no_engine {
        None if cleaned.is_empty() => print("nothing is left of any run\n"),
        None => {}
        Some(why) => {
            if cleaned.is_empty() {
                print("no process is left of any run\n");
            }
            eprintln!("warning: no container was looked for: {why}");
        }
    }
    Ok(0)
}

async fn provide_image(tag: &str, is_printed: bool) -> Result<u8, MainError> {
    let checkout = Checkout::find()?;
    if is_printed {
        print(&image::dockerfile(&checkout, &Artifact::SERVER)?.0);
    } else {
        image::build(&Engine::connect().await?, &checkout, &Artifact::SERVER, tag).await?;
        print(&format!("built image {tag}\n"));
    }
    Ok(0)
}

/// Prints a report as it was asked for, and gives it to the pipeline if there is one.
fn tell(output: OutputArgs, report: &Report, json: &str, text: impl FnOnce() -> String) {
    match output.format {
        Format::Json => print(json),
        Format::Text if output.quiet => {}
        Format::Text => print(&text()),
    }
    publish(report);
}

/// Gives a report to GitHub's runner: the summary to the job's page, the annotations to its log. On stderr, which the
/// runner reads too, so that stdout holds what was asked for.
fn publish(report: &Report) {
    if std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true") {
        eprint!("{}", annotations::render(report));
    }
    if let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) {
        let summary = std::fs::OpenOptions::new().append(true).create(true).open(&path);
        if let Err(error) = summary.and_then(|mut file| writeln!(file, "{}", markdown::render(report))) {
            eprintln!("warning: failed to write the summary to {}: {error}", path.display());
        }
    }
}

fn options(mut args: RunArgs) -> Result<Options, MainError> {
    let Some(path) = args.scenario.take() else { return Ok(args.into_options()) };
    let text = std::fs::read_to_string(&path)
        .map_err(|error| MainError::ScenarioFile(path.display().to_string(), error))?;
    Ok(args.into_options().over(Options::from_toml(&text)?))
}

async fn examine(port: u16) -> u8 {
    let checks = doctor::examine(port).await;
    for check in &checks {
        let mark = match check.finding {
            Finding::Fine => "ok  ",
            Finding::Warning => "warn",
            Finding::Problem => "FAIL",
        };
        print(&format!("{mark}  {:<17} {}\n", check.name, check.value));
        if !check.remedy.is_empty() {
            print(&format!("{:23} -> {}\n", "", check.remedy));
        }
    }
    if checks.iter().any(|check| check.finding == Finding::Problem) { 3 } else { 0 }
}

/// Cancelled by the first Ctrl-C, SIGTERM or SIGHUP; the second ends the program at once.
fn interrupt() -> CancellationToken {
    let token = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let Ok(mut signals) = signal(kind) else { continue };
        let token = token.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if token.is_cancelled() {
                    eprintln!("interrupted twice: ending at once; `hitless clean` removes what is left");
                    std::process::exit(128 + kind.as_raw_value());
                }
                eprintln!("interrupted: cleaning up and writing what was seen (again to end at once)");
                token.cancel();
            }
        });
    }
    token
}

fn exit_code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Pass => 0,
        Verdict::Fail => 1,
        Verdict::Inconclusive => 4,
    }
}

/// The options with a seed, drawn if none is said, and the command that repeats the run with it.
fn with_seed(mut options: Options) -> (Options, String) {
    let drawn = if options.seed.is_some() { None } else { Some(scenario::any_seed()) };
    options.seed = options.seed.or(drawn);
    let seed = drawn.map_or_else(String::new, |seed| format!(" --seed {seed}"));
    (options, format!("{}{seed}", command_line()))
}

/// This command.
fn command_line() -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_=./:,@+%".contains(character);
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .map(|argument| {
            if !argument.is_empty() && argument.chars().all(is_plain) {
                argument
            } else {
                format!("'{}'", argument.replace('\'', r"'\''"))
            }
        })
        .collect();
    format!("hitless {}", arguments.join(" "))
}

fn display(output: OutputArgs) -> Display {
    if output.quiet { Display::Quiet } else { progress() }
}

fn progress() -> Display {
    if std::io::stderr().is_terminal() { Display::Terminal } else { Display::Lines }
}

/// Colours only on a terminal, and not if the user does not want any (no-color.org).
fn style() -> Style {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if std::io::stdout().is_terminal() && !is_unwanted { Style::Coloured } else { Style::Plain }
}

/// Prints to stdout; a reader that went away is no reason to panic.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
