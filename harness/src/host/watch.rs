//! Follows the accept queues of a port, and what the kernel drops, while a run goes on.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::host::conntrack;
use crate::host::listeners::Listeners;
use crate::model::clock::Moment;
use crate::model::sink::Sink;

/// How often the accept queues are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Looks at the accept queues of a port, and at what the kernel drops, until it is dropped. On a thread of its own:
/// reading `/proc` blocks, and the load must not wait for it.
#[derive(Debug)]
pub struct KernelWatch {
    /// Dropped, it wakes the thread and ends it.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl KernelWatch {
    /// Starts looking at all listeners of `port`, and at the table of connections; what is seen goes to the sink.
    ///
    /// # Panics
    /// If the operating system gives no thread.
    #[must_use]
    pub fn start(port: u16, sink: Arc<dyn Sink>) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("kernel-watch".to_owned())
            .spawn(move || watch(port, sink.as_ref(), &stopped))
            .expect("the operating system gives one more thread");
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for KernelWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(port: u16, sink: &dyn Sink, stopped: &mpsc::Receiver<()>) {
    let mut listeners = Listeners::of(port).ok();
    let mut last = (Moment::now(), conntrack::drops());
    loop {
        let now = Moment::now();
        if let Some(Ok(look)) = listeners.as_mut().map(Listeners::look) {
            sink.listeners(now, look);
        }
        let drops = conntrack::drops();
        if drops > last.1 {
            sink.dropped(last.0, now, drops - last.1);
        }
        last = (now, drops);
        if stopped.recv_timeout(LOOK_EVERY) != Err(mpsc::RecvTimeoutError::Timeout) {
            return;
        }
    }
}
