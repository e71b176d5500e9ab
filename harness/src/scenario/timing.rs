//! When things happen in a run, and how long they may take.

use std::time::Duration;

use super::{ScenarioError, Subject};
use crate::options::Options;

/// When things happen in a run, and how long they may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Steady load before the first restart, and after the last.
    pub lead: Duration,
    /// Steady load between two restarts.
    pub settle: Duration,
    /// How long a replica may take to stop before it is killed.
    pub stop_timeout: StopTimeout,
    /// How long a replica may take from its start until it is ready.
    pub ready_timeout: Duration,
    /// How long one request may take, connect included, beyond its cohort's expected delay.
    pub request_timeout: Duration,
}

/// How long a replica may take to stop before it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopTimeout {
    /// As long as whoever runs it gives it: a container has a timeout of its own.
    Own,
    /// So long. Whole seconds where an engine does it: it knows no others.
    Given(Duration),
}

impl StopTimeout {
    /// What was given, or what is its own.
    #[must_use]
    pub const fn or(self, own: Duration) -> Duration {
        match self {
            Self::Own => own,
            Self::Given(given) => given,
        }
    }
}

impl Timing {
    pub(super) fn from_options(options: &Options, subject: &Subject) -> Result<Self, ScenarioError> {
        let duration = |field, text: &Option<String>, default: Duration, most: Duration| match text {
            None => Ok(default),
            Some(text) => match humantime::parse_duration(text) {
                Ok(duration) if duration <= most => Ok(duration),
                Ok(_) => Err(ScenarioError::new(
                    field,
                    text,
                    format!("at most {}", humantime::format_duration(most)),
                )),
                Err(error) => {
                    Err(ScenarioError::new(field, text, format!("{error}; write for example 250ms or 3s")))
                }
            },
        };
        let hour = Duration::from_hours(1);
        let timing = Self {
            lead: duration("--lead", &options.lead, Duration::from_secs(1), hour)?,
            settle: duration("--settle", &options.settle, Duration::from_millis(500), hour)?,
            stop_timeout: match options.stop_timeout {
                None => StopTimeout::Own,
                Some(_) => StopTimeout::Given(duration("--stop-timeout", &options.stop_timeout, hour, hour)?),
            },
            ready_timeout: duration(
                "--ready-timeout",
                &options.ready_timeout,
                Duration::from_secs(30),
                hour,
            )?,
            request_timeout: duration(
                "--request-timeout",
                &options.request_timeout,
                Duration::from_secs(5),
                hour,
            )?,
        };
        if let StopTimeout::Given(given) = timing.stop_timeout
            && given.subsec_nanos() != 0
            && !subject.is_process()
        {
            let text = humantime::format_duration(given);
            return Err(ScenarioError::new("--stop-timeout", text, "the engine takes whole seconds"));
        }
        if timing.request_timeout.is_zero() {
            return Err(ScenarioError::new("--request-timeout", "0s", "no request could be answered"));
        }
        Ok(timing)
    }
}
