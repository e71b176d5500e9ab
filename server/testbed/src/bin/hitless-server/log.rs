//! The log: one JSON object a line on standard output, written by a thread of its own so that a slow reader (a full pipe
//! of the container engine) never holds up a request.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use hitless_server::Record;

/// Lines that may wait for the writer; more are dropped and counted.
const WAITING_LINES: usize = 1024;

/// Room that ordinary lines do not take: for the last line and the flush, which are never dropped.
const RESERVED: usize = 2;

/// How long the process waits at its end for a reader that does not read.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

enum Message {
    Line(String),
    Last(String),
    Flush(SyncSender<()>),
}

/// The log's near end.
pub(crate) struct Log {
    lines: SyncSender<Message>,
    /// Ordinary lines that wait.
    waiting: Arc<AtomicUsize>,
    dropped: AtomicU64,
}

impl Log {
    /// Starts the thread that writes to standard output.
    pub(crate) fn to_stdout() -> io::Result<Self> {
        Self::to(io::stdout())
    }

    fn to(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, messages) = sync_channel(WAITING_LINES + RESERVED);
        let waiting = Arc::new(AtomicUsize::new(0));
        let written = Arc::clone(&waiting);
        let write = move || write_all(&messages, &written, sink);
        thread::Builder::new().name("log".to_owned()).spawn(write)?;
        Ok(Self { lines, waiting, dropped: AtomicU64::new(0) })
    }

    /// Hands the record to the writer, never blocking.
    pub(crate) fn write(&self, record: &Record) {
        let Some(line) = to_line(record) else { return };
        let has_room = self.waiting.fetch_add(1, Ordering::Relaxed) < WAITING_LINES;
        if !has_room || self.lines.try_send(Message::Line(line)).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands over the last record, for which there is room however much waits.
    pub(crate) fn write_last(&self, record: &Record) {
        let Some(line) = to_line(record) else { return };
        let _ = self.lines.try_send(Message::Last(line));
    }

    /// Waits until everything written so far is out, but not for ever.
    pub(crate) fn flush(&self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            crate::complain(&format!("warning: {dropped} log lines were dropped because nobody read them"));
        }
        let (done, is_done) = sync_channel(1);
        if self.lines.try_send(Message::Flush(done)).is_ok() {
            match is_done.recv_timeout(LAST_PATIENCE) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
                Err(RecvTimeoutError::Timeout) => {
                    crate::complain("warning: the last log lines were not read in time");
                }
            }
        }
    }
}

/// The record as a line. Records are made of names and numbers, which always become JSON.
fn to_line(record: &Record) -> Option<String> {
    let mut line = serde_json::to_string(record).ok()?;
    line.push('\n');
    Some(line)
}

fn write_all(messages: &Receiver<Message>, waiting: &AtomicUsize, mut sink: impl Write) {
    for message in messages {
        // Nobody reads any more: there is nobody to tell.
        let _ = match message {
            Message::Line(line) => {
                waiting.fetch_sub(1, Ordering::Relaxed);
                sink.write_all(line.as_bytes()).and_then(|()| sink.flush())
            }
            Message::Last(line) => sink.write_all(line.as_bytes()).and_then(|()| sink.flush()),
            Message::Flush(done) => {
                let _ = done.try_send(());
                Ok(())
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use hitless_server::Event;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flushed_log_is_out_line_by_line() {
        let sink = Sink::default();
        let log = Log::to(sink.clone()).unwrap();
        for _ in 0..3 {
            log.write(&Record::now("a".into(), Event::Ready));
        }
        log.flush();
        let written = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(written.lines().count(), 3);
        for line in written.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["event"], "ready");
        }
    }

    /// A reader that reads only after it was told to.
    struct Late(Receiver<()>, Sink);

    impl Write for Late {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_last_line_is_not_dropped_however_many_wait() {
        let (told, is_told) = sync_channel(0);
        let sink = Sink::default();
        let log = Log::to(Late(is_told, sink.clone())).unwrap();
        for _ in 0..3 * WAITING_LINES {
            log.write(&Record::now("a".into(), Event::Ready));
        }
        log.write_last(&Record::now("a".into(), Event::Drained));
        drop(told);
        log.flush();
        let written = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(written.lines().count() < 2 * WAITING_LINES);
        let last: serde_json::Value = serde_json::from_str(written.lines().next_back().unwrap()).unwrap();
        assert_eq!(last["event"], "drained");
    }

    /// A reader that never reads.
    struct Stuck;

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            loop {
                thread::park();
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up_for_long() {
        let log = Log::to(Stuck).unwrap();
        for _ in 0..3 * WAITING_LINES {
            log.write(&Record::now("a".into(), Event::Ready));
        }
        log.flush();
        assert!(log.dropped.load(Ordering::Relaxed) == 0, "flush reports what was dropped, once");
    }
}
