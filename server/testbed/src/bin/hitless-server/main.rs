//! The testbed's server: arguments become a configuration, the configuration a running server, its report an exit code.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod config;
mod descriptors;
mod log;
mod routes;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hitless_server::{Event, Record, StartError, StopReport, ask_ready};

use crate::config::{Command, ServerConfig};
use crate::log::Log;

/// How long the health check waits for its answer.
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    match Command::from_environment() {
        Command::Serve(config) => serve(*config),
        Command::Health(admin) => match ask_ready(&admin, HEALTH_PATIENCE) {
            Ok(readiness) if readiness.is_ready => {
                say("ready");
                ExitCode::SUCCESS
            }
            Ok(readiness) => {
                say(&format!("not ready: {}", readiness.state));
                ExitCode::FAILURE
            }
            Err(error) => {
                say(&format!("not ready: no answer at {admin}: {error}"));
                ExitCode::FAILURE
            }
        },
    }
}

fn serve(config: ServerConfig) -> ExitCode {
    let name: Arc<str> = config.name.as_str().into();
    if let Some(warning) = descriptors::make_room_for(config.limits.max_connections) {
        complain(&format!("warning: {warning}"));
    }
    let log = match Log::to_stdout() {
        Ok(log) => Arc::new(log),
        Err(error) => return fail(&format!("failed to start the log's thread: {error}")),
    };
    let report = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("failed to start the runtime: {error}"))
        .and_then(|runtime| {
            let report = runtime.block_on(run(config, Arc::clone(&log)));
            // What still runs was counted as cut; do not wait for it.
            runtime.shutdown_background();
            report.map_err(|error| config::remedy(&error))
        });
    let exit = match report {
        Ok(report) => {
            let (code, account) = (report.exit_status(), Box::new(report.account));
            log.write_last(&Record::now(name, Event::Exit { code, account }));
            code.into()
        }
        Err(line) => fail(&line),
    };
    log.flush();
    exit
}

async fn run(config: ServerConfig, log: Arc<Log>) -> Result<StopReport, StartError> {
    let (delay, max_delay) = (config.delay, config.max_delay);
    let server = config.into_server();
    let router = routes::router(delay, max_delay, server.drain());
    server.on_event(move |record| log.write(record)).run(router).await
}

fn fail(line: &str) -> ExitCode {
    complain(&format!("error: {line}"));
    ExitCode::FAILURE
}

/// Prints a line. Where nobody reads it, nobody misses it.
fn say(line: &str) {
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// The same on stderr.
fn complain(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
