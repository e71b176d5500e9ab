//! The signals that a process can be sent, by name or number (signal(7)). Sends none.

use rustix::process::Signal;

/// Those that have a name; the real-time ones have none, and the numbers that the C library keeps for itself are not
/// known here.
const NAMED: [(&str, Signal); 29] = [
    ("SIGHUP", Signal::HUP),
    ("SIGINT", Signal::INT),
    ("SIGQUIT", Signal::QUIT),
    ("SIGILL", Signal::ILL),
    ("SIGTRAP", Signal::TRAP),
    ("SIGABRT", Signal::ABORT),
    ("SIGBUS", Signal::BUS),
    ("SIGFPE", Signal::FPE),
    ("SIGKILL", Signal::KILL),
    ("SIGUSR1", Signal::USR1),
    ("SIGSEGV", Signal::SEGV),
    ("SIGUSR2", Signal::USR2),
    ("SIGPIPE", Signal::PIPE),
    ("SIGALRM", Signal::ALARM),
    ("SIGTERM", Signal::TERM),
    ("SIGCHLD", Signal::CHILD),
    ("SIGCONT", Signal::CONT),
    ("SIGSTOP", Signal::STOP),
    ("SIGTSTP", Signal::TSTP),
    ("SIGTTIN", Signal::TTIN),
    ("SIGTTOU", Signal::TTOU),
    ("SIGURG", Signal::URG),
    ("SIGXCPU", Signal::XCPU),
    ("SIGXFSZ", Signal::XFSZ),
    ("SIGVTALRM", Signal::VTALARM),
    ("SIGPROF", Signal::PROF),
    ("SIGWINCH", Signal::WINCH),
    ("SIGIO", Signal::IO),
    ("SIGSYS", Signal::SYS),
];

/// The signal of this name or number, if it can be sent.
pub(crate) fn named(text: &str) -> Option<Signal> {
    match text.parse::<i32>() {
        Ok(number) => Signal::from_named_raw(number),
        Err(_) => NAMED.into_iter().find(|(name, _)| *name == text).map(|(_, signal)| signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_number_mean_the_same_signal() {
        assert_eq!(named("SIGTERM"), named("15"));
        assert_eq!(named("SIGKILL"), Some(Signal::KILL));
        for unknown in ["TERM", "SIGRTMIN+1", "64", "0", "-1", ""] {
            assert_eq!(named(unknown), None, "{unknown}");
        }
    }
}
