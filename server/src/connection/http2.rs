//! HTTP/2 under the current [`Order`].

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use hyper::server::conn::http2;
use hyper_util::rt::TokioExecutor;

use super::io::Io;
use super::watch::Watch;
use crate::exchange::App;
use crate::replica::{Order, Replica};

/// Serves HTTP/2 until the connection is over.
pub(super) async fn serve(io: Io, app: App, replica: &Replica) {
    let link = app.link();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let max_head = u32::try_from(replica.limits.max_head).unwrap_or(u32::MAX);
    builder.max_header_list_size(max_head).enable_connect_protocol();
    let mut watch = pin!(Watch::new(replica));
    let mut connection = pin!(builder.serve_connection(io, app));
    let mut is_leaving = false;
    poll_fn(|context| {
        if connection.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let (order, _, timer) = watch.as_mut().look(context);
        if order == Order::Cut {
            return Poll::Ready(());
        }
        let is_overdue = timer.is_some_and(|now| link.is_idle() && link.overdue(now).is_some());
        if (order != Order::Serve || is_overdue) && !is_leaving {
            // GOAWAY in two steps (RFC 9113, section 6.8): "no new streams, please", then, after a round trip, the last
            // stream that was taken. Streams in flight finish; one poll more sends the first step.
            is_leaving = true;
            connection.as_mut().graceful_shutdown();
            context.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
}
