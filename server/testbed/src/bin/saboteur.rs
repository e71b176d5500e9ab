//! A server that misbehaves in one known way; see the library for which, and `SABOTEUR` for the choice.
//!
//! | variable | default | |
//! | --- | --- | --- |
//! | `SABOTEUR` | | the mode, such as `none` or `half-body:every=100` |
//! | `SABOTEUR_LISTEN` | `0.0.0.0:8080` | where it listens |
//! | `SABOTEUR_LAME_DUCK` | `200ms` | how long it goes on accepting after the signal |
//!
//! Exit codes: those of the mode; 2 for a variable that makes no sense; 3 when it could not listen.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::env;
use std::error::Error;
use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;
use std::str::FromStr;

use hitless_testbed::{Settings, run, sabotage};

fn main() -> ExitCode {
    let settings = match settings() {
        Ok(settings) => settings,
        Err(message) => {
            complain(&message);
            return ExitCode::from(2);
        }
    };
    run(settings).unwrap_or_else(|error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        complain(&format!("{error}{cause}"));
        ExitCode::from(3)
    })
}

fn settings() -> Result<Settings, String> {
    Ok(Settings {
        sabotage: variable("SABOTEUR", None, FromStr::from_str)?,
        listen: variable("SABOTEUR_LISTEN", Some("0.0.0.0:8080"), FromStr::from_str)?,
        lame_duck: variable("SABOTEUR_LAME_DUCK", Some("200ms"), sabotage::duration)?,
    })
}

/// The parsed value of an environment variable, or of what stands for it when it is not set.
fn variable<T, E: Display>(
    name: &str,
    default: Option<&str>,
    parse: fn(&str) -> Result<T, E>,
) -> Result<T, String> {
    let set = env::var(name).ok();
    let text = set.as_deref().or(default).ok_or_else(|| format!("{name} is not set"))?;
    parse(text).map_err(|error| format!("{name}: {error}"))
}

/// Says what is wrong, if anybody reads it.
fn complain(message: &str) {
    let _ = std::io::stderr().write_all(format!("saboteur: {message}\n").as_bytes());
}
