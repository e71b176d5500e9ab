//! Whether the harness itself gets to run: a task on each of the load's threads that wants to wake up at fixed moments and
//! says how late it was.
//!
//! Independent of the load and of the server: a server that does not answer makes no pulse late, a machine that is busy
//! with something else does.

use std::sync::Arc;
use std::time::Duration;

use crate::model::clock::Moment;
use crate::model::sink::Sink;

/// How often the pulse wants to beat.
const BEAT: Duration = Duration::from_millis(10);
/// A pulse that is later than this is a stall. Timers are a millisecond or two late on a machine that has time.
const STALL: Duration = Duration::from_millis(20);

/// Beats, and records each stall, until it is dropped.
pub(super) async fn beat(sink: Arc<dyn Sink>) {
    loop {
        let due = Moment::now().plus(BEAT);
        tokio::time::sleep(BEAT).await;
        let now = Moment::now();
        if now.since(due) > STALL {
            sink.stalled(due, now);
        }
    }
}
