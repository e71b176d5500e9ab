//! A connection's eye on the orders and on the clock.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::clock::monotonic_ns;
use crate::replica::{Order, Orders, Replica};

pin_project_lite::pin_project! {
    /// A connection's eye on the orders and on the clock.
    ///
    /// Both are polled once for each change and then left alone, since polling a `Notified` takes a lock that all
    /// connections share. That is enough: within a task every wake-up polls the whole task, so what was registered with
    /// the first waker wakes it the next time too.
    pub(super) struct Watch<'a> {
        orders: &'a Orders,
        // The order's word for which `changed` is armed.
        armed: Option<u64>,
        #[pin]
        changed: tokio::sync::futures::Notified<'a>,
        interval: Duration,
        // Whether `timer` is registered.
        is_timed: bool,
        #[pin]
        timer: Sleep,
    }
}

impl<'a> Watch<'a> {
    pub(super) fn new(replica: &'a Replica) -> Self {
        // Four looks for each timeout: it is enforced within a quarter more than it says.
        let limits = &replica.limits;
        let least = limits.head_timeout.min(limits.idle_timeout).min(limits.write_timeout);
        let interval = (least / 4).max(Duration::from_millis(1));
        Self {
            orders: &replica.orders,
            armed: None,
            changed: replica.orders.changed(),
            interval,
            is_timed: false,
            timer: sleep_until(Instant::now() + interval),
        }
    }

    /// The current order with its word, and the time in monotonic nanoseconds when it is time to look for overdue clients.
    pub(super) fn look(self: Pin<&mut Self>, context: &mut Context<'_>) -> (Order, u64, Option<u64>) {
        let mut this = self.project();
        let mut word = this.orders.word();
        if *this.armed != Some(word) {
            // First register, then read: a change after the registration wakes the task, one before it is read here.
            loop {
                this.changed.set(this.orders.changed());
                if this.changed.as_mut().poll(context).is_pending() {
                    break;
                }
            }
            word = this.orders.word();
            *this.armed = Some(word);
        }
        let mut timer = None;
        if !*this.is_timed || this.timer.is_elapsed() {
            if *this.is_timed {
                this.timer.as_mut().reset(Instant::now() + *this.interval);
                timer = Some(monotonic_ns());
            }
            // An interval that is over before it is registered makes the task come again at once.
            if this.timer.as_mut().poll(context).is_ready() {
                context.waker().wake_by_ref();
            }
            *this.is_timed = true;
        }
        (Order::from_word(word), word, timer)
    }
}
