//! The terminal, or what stands in its place. Nothing else in the crate prints text (a progress bar draws itself), and nothing here panics: a terminal may
//! be closed, a pipe's reader gone, a disk full.

use std::io::{self, IsTerminal, Write};

/// Prints to stdout what was asked for.
///
/// # Errors
/// It cannot be written. A reader that has gone away has read what it wanted, and is no error.
pub fn print(text: &str) -> io::Result<()> {
    print_bytes(text.as_bytes())
}

/// The same for bytes.
///
/// # Errors
/// As with [`print()`].
pub fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Tells a person something on stderr. What cannot be told is lost: nobody is left to hear it.
pub fn note(text: &str) {
    let mut err = io::stderr().lock();
    // One write a line, so that lines of several threads do not mix.
    let _ = err.write_all(format!("{text}\n").as_bytes());
}

/// Whether stdout is a terminal.
#[must_use]
pub fn is_stdout_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether stderr is a terminal.
#[must_use]
pub fn is_stderr_terminal() -> bool {
    io::stderr().is_terminal()
}
