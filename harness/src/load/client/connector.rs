//! The layer around reqwest's connector. Opens nothing itself.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::trace::note;

/// Bounds the time that a connect takes, counts the connections that a client establishes, and trace both for the request
/// that waits.
#[derive(Debug, Clone)]
pub(super) struct WatchConnects {
    /// How long a connect may take.
    pub(super) timeout: Duration,
    /// Grows with every connection.
    pub(super) count: Arc<AtomicU64>,
}

impl<S> tower_layer::Layer<S> for WatchConnects {
    type Service = WatchedConnector<S>;

    fn layer(&self, connector: S) -> WatchedConnector<S> {
        WatchedConnector(Arc::new((connector, self.clone())))
    }
}

/// The pool clones its connector for every request, and connects for few: what it clones is one pointer. (A
/// `connect_timeout` of reqwest's own would be a second layer, which is cloned with a box around it.)
#[derive(Debug)]
pub(super) struct WatchedConnector<S>(Arc<(S, WatchConnects)>);

impl<S> Clone for WatchedConnector<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S, T> tower_service::Service<T> for WatchedConnector<S>
where
    S: tower_service::Service<T> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: From<io::Error> + Send,
    S::Response: Send,
    T: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // The clone that connects is asked.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: T) -> Self::Future {
        let shared = Arc::clone(&self.0);
        note(|trace| trace.has_begun_to_connect = true);
        Box::pin(async move {
            let (connector, watch) = &*shared;
            let mut connector = connector.clone();
            let connecting = async {
                poll_fn(|context| connector.poll_ready(context)).await?;
                connector.call(target).await
            };
            let connection = tokio::time::timeout(watch.timeout, connecting).await.map_err(|_| {
                let text = format!("no connection within {}", humantime::format_duration(watch.timeout));
                io::Error::new(io::ErrorKind::TimedOut, text)
            })??;
            watch.count.fetch_add(1, Ordering::Relaxed);
            note(|trace| trace.is_connected = true);
            Ok(connection)
        })
    }
}
