//! The library in this very process: a server that runs in a task.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use hitless_server::{Drain, Event, Server, StopReport};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a test waits for anything before it calls it missing.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server that runs in a task, with a way to stop it.
pub struct Running {
    pub addr: SocketAddr,
    pub events: mpsc::UnboundedReceiver<Event>,
    pub stop: oneshot::Sender<()>,
    pub task: JoinHandle<StopReport>,
}

impl Running {
    pub async fn start(
        configure: impl FnOnce(Server) -> Server,
        router: impl FnOnce(Drain) -> Router,
    ) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), configure, router).await
    }

    pub async fn start_at(
        addr: SocketAddr,
        configure: impl FnOnce(Server) -> Server,
        router: impl FnOnce(Drain) -> Router,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (sender, mut events) = mpsc::unbounded_channel();
        let server = configure(Server::new(addr))
            .stop_when(async { drop(stopped.await) })
            // The test may have seen enough.
            .on_event(move |record| drop(sender.send(record.event.clone())));
        let router = router(server.drain());
        let task = tokio::spawn(async move { server.run(router).await.expect("it starts") });
        let addr = loop {
            if let Event::Listening { addr } = events.recv().await.expect("an address") {
                break addr;
            }
        };
        Self { addr, events, stop, task }
    }

    pub async fn stop(self) -> StopReport {
        self.stop.send(()).expect("it runs");
        timeout(PATIENCE, self.task).await.expect("it ends in time").expect("it does not panic")
    }
}

/// Reads up to these bytes, and returns all.
pub async fn read_until(stream: &mut TcpStream, end: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        if timeout(PATIENCE, stream.read_buf(&mut bytes)).await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes)
}
