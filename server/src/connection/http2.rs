//! HTTP/2 under the current [`Order`].

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use tokio::task;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::end::Owed;
use super::io::Io;
use super::unacknowledged::unacknowledged;
use super::watch::Watch;
use crate::activity::{ConnectionActivity, Upgraded};
use crate::exchange::App;
use crate::replica::{Order, Replica};

/// How long a client that was told to go, and has no stream, may begin none before the connection is ended: long enough for
/// a round trip to anywhere, and for a request that was sent before the client knew. Whether it acknowledges or sends
/// anything else does not matter.
const FAREWELL: Duration = Duration::from_secs(1);

/// The most that is held back of one stream's answer while its client has no room for it.
const MAX_SEND_BUFFER: usize = 16 * 1024;

/// Serves HTTP/2 until the connection is over.
pub(super) async fn serve<'a>(io: Io, app: App, replica: &'a Replica, mut watch: Pin<&mut Watch<'_>>) {
    let activity = app.activity();
    let mut builder = http2::Builder::new(Streams::of(&activity));
    let addresses = io.addresses();
    let max_head = u32::try_from(replica.limits.max_head).unwrap_or(u32::MAX);
    builder
        .max_header_list_size(max_head)
        .max_concurrent_streams(replica.limits.max_streams)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .enable_connect_protocol();
    let mut connection = pin!(builder.serve_connection(io, app));
    let mut farewell: Option<Interval> = None;
    // What the client has by now is no longer at stake, however long other streams take; what it does not have is, even if it
    // was counted before.
    let mut owed = None;
    let look = |owed: &mut Option<Owed<'a>>| match addresses.map(|(local, peer)| unacknowledged(local, peer))
    {
        Some(Ok(Some(rest))) => {
            if rest == 0 {
                activity.conclude(true, false);
            }
            Owed::set(
                owed,
                rest > 0 && !activity.withholds() && activity.is_idle(),
                &replica.request_counters,
            );
        }
        _ => Owed::set(owed, false, &replica.request_counters),
    };
    poll_fn(|context| {
        if connection.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let (order, _, timer) = watch.as_mut().look(context);
        if order == Order::Cut {
            return Poll::Ready(());
        }
        if timer.is_some_and(|now| activity.is_stuck(now)) {
            return Poll::Ready(());
        }
        let is_overdue = activity.must_go()
            || timer.is_some_and(|now| activity.is_idle() && activity.overdue(now).is_some());
        if (order != Order::Serve || is_overdue) && farewell.is_none() {
            // GOAWAY in two steps (RFC 9113, section 6.8): "no new streams, please", then, after a round trip, the last
            // stream that was taken. Streams in flight finish; one poll more sends the first step.
            connection.as_mut().graceful_shutdown();
            activity.close();
            look(&mut owed);
            let _ = activity.has_gone_quiet();
            context.waker().wake_by_ref();
            let mut looks = interval_at(Instant::now() + FAREWELL, FAREWELL);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            farewell = Some(looks);
        }
        // h2 waits for the end of that round trip without a bound.
        while farewell.as_mut().is_some_and(|looks| looks.poll_tick(context).is_ready()) {
            look(&mut owed);
            if activity.has_gone_quiet() {
                replica.connection_counters.connections_closed_idle.add(1);
                return Poll::Ready(());
            }
        }
        Poll::Pending
    })
    .await;
}

/// Starts the tasks that hyper wants: one for each request, from the connection's own task, and one for each stream that
/// leaves HTTP (a WebSocket; RFC 8441), from the task of the request that asked for it.
#[derive(Debug, Clone)]
struct Streams {
    activity: Arc<ConnectionActivity>,
    connection: Option<task::Id>,
}

impl Streams {
    fn of(activity: &Arc<ConnectionActivity>) -> Self {
        Self { activity: Arc::clone(activity), connection: task::try_id() }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, work: F) {
        if task::try_id() == self.connection {
            tokio::spawn(work);
            return;
        }
        let upgraded = Upgraded::of(&self.activity);
        tokio::spawn(async move {
            let _upgraded = upgraded;
            work.await;
        });
    }
}
