//! One life of a replica as a process of this machine: it is spawned here as the leader of a process group of its own,
//! sent signals, waited for, and killed with its group when it is let go. Knows no replica and records nothing.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::net::unix::pipe;
use tokio::process::Command;

use crate::host::limits;

/// A process that leads a group of its own. Who drops it kills the whole group.
#[derive(Debug)]
pub(super) struct Child {
    process: tokio::process::Child,
    /// Also the number of the group.
    id: Pid,
}

/// What a process is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Launch<'a> {
    /// The program, and its arguments.
    pub(super) command: &'a [OsString],
    /// What is added to this process's own environment; the last one of a name wins.
    pub(super) environment: Vec<(OsString, OsString)>,
}

impl Child {
    /// Starts a process; also gives what it will write, to stdout and stderr, in its order.
    pub(super) fn spawn(launch: Launch<'_>) -> io::Result<(Self, pipe::Receiver)> {
        let (program, arguments) = launch.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let (reader, writer) = io::pipe()?;
        let output = pipe::Receiver::from_owned_fd(reader.into())?;
        // The writing ends of this process are closed with the command, at the end of this function.
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(launch.environment)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            // The terminal's Ctrl-C is for the harness, which stops the replicas in order.
            .process_group(0)
            .kill_on_drop(true);
        let process = command.spawn()?;
        let id = process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let id = id.expect("a process that was not waited for has its number, and no number is 0");
        // Right after exec(2), before the program has come to its own code. One that is gone needs no limit.
        let _ = limits::restore_descriptor_limit_of(id);
        Ok((Self { process, id }, output))
    }

    /// Waits until the leader has ended. May be given up and asked again.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// Sends the leader a signal, which may send it on: so does an engine with the first process of a container.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        // Before it was waited for, its number is nobody else's.
        if self.process.id().is_some() { Ok(kill_process(self.id, signal)?) } else { Ok(()) }
    }

    /// Kills the leader and all of its group, if anything is left of it.
    pub(super) fn kill(&self) {
        // Once the leader was waited for, and if nothing is left of the group, the number is free (`ESRCH`); it becomes
        // another's only when the kernel has given out all the others.
        let _ = kill_process_group(self.id, Signal::KILL);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The exit code as an engine tells it: 128 and the signal's number for one that a signal ended.
pub(super) fn exit_code(status: ExitStatus) -> Option<i64> {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).map(i64::from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A shell that carries out `script`.
    fn shell(script: &str) -> (Child, BufReader<pipe::Receiver>) {
        let command = ["sh", "-c", script].map(OsString::from);
        let environment = vec![("GREETING".into(), "hello".into())];
        let (child, output) = Child::spawn(Launch { command: &command, environment }).unwrap();
        (child, BufReader::new(output))
    }

    async fn line(output: &mut BufReader<pipe::Receiver>) -> String {
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, output.read_line(&mut line)).await.unwrap().unwrap();
        line
    }

    /// All that is still written, until nobody is left who could write.
    async fn rest(output: &mut BufReader<pipe::Receiver>) -> String {
        let mut rest = String::new();
        tokio::time::timeout(PATIENCE, output.read_to_string(&mut rest)).await.unwrap().unwrap();
        rest
    }

    async fn code(child: &mut Child) -> Option<i64> {
        exit_code(tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap())
    }

    #[tokio::test]
    async fn both_outputs_and_the_exit_code_are_told() {
        let (mut child, mut output) = shell("echo $GREETING; echo to stderr >&2; exit 3");
        assert_eq!(rest(&mut output).await, "hello\nto stderr\n");
        assert_eq!(code(&mut child).await, Some(3));
    }

    #[tokio::test]
    async fn signal_reaches_the_leader_and_its_end_is_told_as_an_engine_does() {
        let (mut child, mut output) =
            shell("trap 'echo stopping; exit 5' TERM; echo up; while :; do wait; done");
        assert_eq!(line(&mut output).await, "up\n");
        child.signal(Signal::TERM).unwrap();
        assert_eq!(line(&mut output).await, "stopping\n");
        assert_eq!(code(&mut child).await, Some(5));

        let (mut child, _output) = shell("kill -KILL $$");
        assert_eq!(code(&mut child).await, Some(137));
        child.signal(Signal::TERM).unwrap();
    }

    #[tokio::test]
    async fn group_is_killed_with_its_leader() {
        // The one in the background holds the pipe open until it ends, and does not hear the signal.
        let script = "trap '' TERM; (while :; do sleep 600; done) & echo up; wait";
        let (mut child, mut output) = shell(script);
        assert_eq!(line(&mut output).await, "up\n");
        child.kill();
        assert_eq!(rest(&mut output).await, "");
        assert_eq!(code(&mut child).await, Some(137));
    }

    #[tokio::test]
    async fn what_a_dead_leader_left_is_killed_when_it_is_let_go() {
        let (mut child, mut output) = shell("sleep 600 & echo up");
        assert_eq!(line(&mut output).await, "up\n");
        assert_eq!(code(&mut child).await, Some(0));
        drop(child);
        assert_eq!(rest(&mut output).await, "");
    }

    #[tokio::test]
    async fn group_of_a_child_that_is_let_go_is_killed() {
        let (child, mut output) = shell("sleep 600 & sleep 600");
        drop(child);
        assert_eq!(rest(&mut output).await, "");
    }
}
