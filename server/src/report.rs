//! How a server's life ended, as data and as an exit code.

use std::process::ExitCode;

use crate::counters::CountersSnapshot;
use crate::signals::StopSignal;

/// How a server's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Everything in flight was answered.
    Drained,
    /// The drain timeout passed; [`StopReport::cut`] requests were lost.
    TimedOut,
    /// It ended at once: [`Preset::Abort`](crate::Preset::Abort), or a second signal.
    AtOnce(StopSignal),
    /// It ended at once because the application asked for it under [`Preset::Abort`](crate::Preset::Abort).
    AtOnceOnRequest,
}

/// What [`Server::run`](crate::Server::run) returns when it is over.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StopReport {
    /// How it ended.
    pub outcome: Outcome,
    /// What the replica did in its life.
    pub account: CountersSnapshot,
}

impl StopReport {
    /// Requests that were lost: in flight when the server ended.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.account.cut
    }

    /// The documented exit code: 0 everything was answered, 3 something was cut by the drain timeout or at the
    /// application's own wish, 128 + n ended at once by signal n.
    ///
    /// A drain timeout that cut no request (a sibling never said whether it took an idle connection, say) lost nothing and is 0.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self.outcome {
            Outcome::TimedOut | Outcome::AtOnceOnRequest if self.account.cut > 0 => 3,
            Outcome::Drained | Outcome::TimedOut | Outcome::AtOnceOnRequest => 0,
            Outcome::AtOnce(signal) => 128 + signal.number(),
        }
    }

    /// [`exit_status`](Self::exit_status) for `main` to return.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        self.exit_status().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::ConnectionCounters;
    use crate::lifecycle::{RequestCounters, State};

    fn report(outcome: Outcome, cut: u64) -> StopReport {
        StopReport {
            outcome,
            account: CountersSnapshot::new(
                State::Stopped,
                &RequestCounters::default(),
                &ConnectionCounters::default(),
                cut,
            ),
        }
    }

    #[test]
    fn exit_statuses_are_the_documented_ones() {
        assert_eq!(report(Outcome::Drained, 0).exit_status(), 0);
        assert_eq!(report(Outcome::TimedOut, 2).exit_status(), 3);
        assert_eq!(report(Outcome::TimedOut, 0).exit_status(), 0);
        assert_eq!(report(Outcome::AtOnceOnRequest, 0).exit_status(), 0);
        assert_eq!(report(Outcome::AtOnceOnRequest, 1).exit_status(), 3);
        assert_eq!(report(Outcome::AtOnce(StopSignal::Interrupt), 1).exit_status(), 130);
        assert_eq!(report(Outcome::AtOnce(StopSignal::Terminate), 0).exit_status(), 143);
    }
}
