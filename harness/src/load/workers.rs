//! The threads that the load runs on: one a CPU, each with a runtime of its own. No run queue, no timers and no epoll is
//! shared between two of them, and nothing else that the harness does runs on any.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::host::limits;

/// Threads that run what is spawned on them until they are dropped.
#[derive(Debug)]
pub(super) struct Workers {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    end: Option<DropGuard>,
}

impl Workers {
    /// One thread a CPU, but no more than `most` and no fewer than one.
    ///
    /// # Errors
    /// The operating system gives no more threads or descriptors.
    pub(super) fn start(most: usize) -> io::Result<Self> {
        let end = CancellationToken::new();
        let guard = Some(end.clone().drop_guard());
        let mut workers = Self { handles: Vec::new(), threads: Vec::new(), end: guard };
        for number in 0..limits::cpus().min(most).max(1) {
            let (told, handle) = mpsc::channel();
            let end = end.clone();
            let thread = thread::Builder::new().name(format!("load-{number}"));
            workers.threads.push(thread.spawn(move || run(&end, &told))?);
            workers.handles.push(handle.recv().map_err(io::Error::other)??);
        }
        Ok(workers)
    }

    /// The runtimes of the threads.
    pub(super) fn handles(&self) -> &[Handle] {
        &self.handles
    }
}

/// Runs what is spawned on the handle that it tells, until the end. Who starts it may not drop a runtime itself: it runs on
/// one.
fn run(end: &CancellationToken, told: &mpsc::Sender<io::Result<Handle>>) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(told.send(Err(error))),
    };
    let _ = told.send(Ok(runtime.handle().clone()));
    runtime.block_on(end.cancelled());
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
}

impl Drop for Workers {
    /// Waits until the threads have ended; what was still running on them is dropped.
    fn drop(&mut self) {
        drop(self.end.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn each_runs_on_a_thread_of_its_own_and_ends_with_the_load() {
        let workers = Workers::start(usize::MAX).unwrap();
        assert_eq!(workers.handles().len(), limits::cpus());
        let mut threads = BTreeSet::new();
        for handle in workers.handles() {
            let name = async { thread::current().name().map(str::to_owned) };
            threads.extend(handle.spawn(name).await.unwrap());
        }
        assert_eq!(threads.len(), workers.handles().len(), "{threads:?}");
        let endless = workers.handles()[0].spawn(std::future::pending::<()>());
        drop(workers);
        assert!(endless.await.unwrap_err().is_cancelled());
    }

    #[test]
    fn there_are_no_more_than_there_is_work_for() {
        assert_eq!(Workers::start(1).unwrap().handles().len(), 1);
        assert_eq!(Workers::start(0).unwrap().handles().len(), 1);
    }
}
