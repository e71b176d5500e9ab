//! Keeps one life of a replica in a task: it alone waits for the child and sends it signals, so that no signal goes to a
//! number that is another's by now. What ends is recorded as the end of the replica's life.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::child::{Child, exit_code};
use super::mark::{Mark, kill_all};
use crate::model::clock::Moment;
use crate::rollout::stepwise::tracked_replica::TrackedReplica;

/// How long a killed process may take until it is gone: it may hang in the kernel.
pub(super) const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Keeps a child; dropped, it kills the child and all of its group.
#[derive(Debug)]
pub(super) struct ChildTask {
    orders: mpsc::UnboundedSender<Order>,
    _keeping: AbortOnDropHandle<()>,
}

/// What a child is to be sent, and who wants to know whether it was.
#[derive(Debug)]
struct Order {
    what: What,
    done: oneshot::Sender<io::Result<()>>,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// A signal to the leader.
    Signal(Signal),
    /// SIGKILL to the whole group.
    Kill,
    /// The same, and nothing of what comes of it is recorded.
    PutDown,
}

impl ChildTask {
    /// Keeps `child`, one life of `replica`; what it starts carries `mark`.
    pub(super) fn keep(child: Child, mark: Mark, replica: Arc<TrackedReplica>) -> Self {
        let (orders, ordered) = mpsc::unbounded_channel();
        let keeping = tokio::spawn(keep(child, mark, ordered, replica));
        Self { orders, _keeping: AbortOnDropHandle::new(keeping) }
    }

    /// Sends the leader a signal; does nothing if it has ended.
    pub(super) async fn signal(&self, signal: Signal) -> io::Result<()> {
        self.order(What::Signal(signal)).await
    }

    /// Kills the leader and all of its group.
    pub(super) async fn kill(&self) -> io::Result<()> {
        self.order(What::Kill).await
    }

    async fn order(&self, what: What) -> io::Result<()> {
        let (done, heard) = oneshot::channel();
        // Where nobody takes an order, or says what became of it, the child has ended.
        let _ = self.orders.send(Order { what, done });
        heard.await.unwrap_or(Ok(()))
    }

    /// Kills the child and all of its group and waits until it is gone. Nothing of that is recorded.
    ///
    /// # Errors
    /// It was not gone in time.
    pub(super) async fn put_down(&self) -> io::Result<()> {
        tokio::time::timeout(KILL_PATIENCE, self.order(What::PutDown)).await?
    }
}

async fn keep(
    mut child: Child,
    mark: Mark,
    mut orders: mpsc::UnboundedReceiver<Order>,
    replica: Arc<TrackedReplica>,
) {
    let status = loop {
        tokio::select! {
            biased;
            status = child.wait() => break status,
            Some(Order { what, done }) = orders.recv() => {
                let carried_out = match what {
                    What::Signal(signal) => child.signal(signal),
                    What::Kill => {
                        child.kill();
                        Ok(())
                    }
                    What::PutDown => {
                        child.kill();
                        let gone = child.wait().await.map(drop);
                        let _ = tokio::task::spawn_blocking(move || kill_all(&mark)).await;
                        let _ = done.send(gone);
                        return;
                    }
                };
                let _ = done.send(carried_out);
            }
        }
    };
    let at = Moment::now();
    // As in a container, where nothing outlives the first process: the next life needs its port.
    let left = tokio::task::spawn_blocking(move || kill_all(&mark)).await.unwrap_or(0);
    drop(child);
    if left > 0 {
        replica.take_kill_of_rest(at, left);
    }
    replica.take_end(at, status.ok().and_then(exit_code), false);
}
