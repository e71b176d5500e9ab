//! Signals become reasons to stop.

use std::fmt;
use std::io;

use tokio::signal::unix::{self, SignalKind};

/// A signal that tells a replica to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopSignal {
    /// Ctrl-C.
    Interrupt,
    /// What `docker stop`, systemd and Kubernetes send.
    Terminate,
}

impl StopSignal {
    /// The signal's number; a process that ends because of it exits with 128 plus it.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// The installed handlers, or none.
///
/// They matter even to a server that does nothing but end: PID 1 of a container has no default actions, the kernel drops
/// a signal that it does not handle (`pid_namespaces(7)`).
#[derive(Debug)]
pub(crate) struct Signals(Option<Handlers>);

#[derive(Debug)]
struct Handlers {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self(Some(Handlers {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
        })))
    }

    /// Somebody else handles them.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// The next signal. Signals of one kind that arrive together count once (signal(7)).
    pub(crate) async fn next(&mut self) -> StopSignal {
        let Some(handlers) = &mut self.0 else { return std::future::pending().await };
        // `recv` yields None only when the runtime goes down, and then nobody polls any more.
        tokio::select! {
            Some(()) = handlers.interrupt.recv() => StopSignal::Interrupt,
            Some(()) = handlers.terminate.recv() => StopSignal::Terminate,
            else => std::future::pending().await,
        }
    }
}
