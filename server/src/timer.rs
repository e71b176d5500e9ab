//! A timer that costs nothing before it is used.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl Timer {
    /// Starts it unless it runs, and waits for its end.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, time: Duration) -> Poll<()> {
        if self.is_running
            && let Some(sleep) = &mut self.sleep
        {
            return sleep.as_mut().poll(context);
        }
        self.is_running = true;
        let end = Instant::now() + time;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(end)));
        sleep.as_mut().reset(end);
        sleep.as_mut().poll(context)
    }

    pub(crate) fn stop(&mut self) {
        self.is_running = false;
    }

    pub(crate) fn is_running(&self) -> bool {
        self.is_running
    }
}
