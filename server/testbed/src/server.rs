//! The saboteur at work: its listener, its connections, its signals and its end.
//!
//! One thread waits for connections and signals, and each connection has a thread. What goes wrong is decided in
//! [`crate::sabotage`]; all else here is meant to go right.

use std::io::{self, BufReader, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, Once, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use socket2::{Domain, Socket, Type};

use crate::account::{self, CountersSnapshot};
use crate::http::{self, Persistence, Request};
use crate::sabotage::{Death, Farewell, Sabotage, Treatment};

/// How long a saboteur that leaves waits for its last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// Enough for one connection.
const STACK: usize = 128 * 1024;

/// What a saboteur is told.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Where it listens, with `SO_REUSEPORT`, so that two of them can share a port.
    pub listen: SocketAddr,
    /// How it misbehaves.
    pub sabotage: Sabotage,
    /// How long it goes on accepting after the signal, with `Connection: close` on every answer.
    pub lame_duck: Duration,
}

/// Why a saboteur could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The listening socket.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The pipe that signals arrive in.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
    /// Waiting for the next connection or signal.
    #[error("cannot wait for connections")]
    Wait(#[source] io::Error),
}

/// Serves until a signal, or until the sabotage ends it, and returns the exit code.
///
/// # Errors
///
/// [`RunError`] when the listener or the signals cannot be had.
pub fn run(settings: Settings) -> Result<ExitCode, RunError> {
    // Who reads that it starts may send a signal at once.
    let signals = Signals::new().map_err(RunError::Signals)?;
    account::starting(settings.sabotage);
    if settings.sabotage == Sabotage::NeverReady {
        signals.wait().map_err(RunError::Signals)?;
        account::signal_received();
        return Ok(ExitCode::SUCCESS);
    }
    if let Sabotage::ListensLate { by } = settings.sabotage {
        thread::sleep(by);
    }
    let listener = listen(settings.listen).map_err(|source| RunError::Listen(settings.listen, source))?;
    account::listening(settings.listen);

    let server = Arc::new(Server::new(settings.sabotage));
    let exit_code = accept_until_told_to_leave(&server, &listener, &signals, settings.lame_duck)
        .map_err(RunError::Wait)?;
    drop(listener);
    account::listener_closed();

    server.connections.wait_until_zero(settings.lame_duck);
    server.in_flight.wait_until_zero(LAST_ANSWERS);
    server.account.close();
    Ok(ExitCode::from(exit_code))
}

/// Accepts to the end of the lame-duck period and then until the queue is empty; returns the exit code to leave with.
fn accept_until_told_to_leave(
    server: &Arc<Server>,
    listener: &TcpListener,
    signals: &Signals,
    lame_duck: Duration,
) -> io::Result<u8> {
    let mut leave: Option<(Instant, u8)> = None;
    loop {
        let timeout = leave.map(|(at, _)| at.saturating_duration_since(Instant::now()));
        if wait_for_either(listener, signals, timeout)? == Woken::BySignal {
            signals.take()?;
            if let (Farewell::Leave { exit_code }, None) = (server.sabotage.farewell(), leave) {
                leave = Some((*server.signalled.get_or_init(Instant::now) + lame_duck, exit_code));
            }
            account::signal_received();
        }
        accept_queue(server, listener)?;
        if let Some((at, exit_code)) = leave
            && Instant::now() >= at
        {
            return Ok(exit_code);
        }
    }
}

/// Gives every connection that waits in the accept queue a thread.
fn accept_queue(server: &Arc<Server>, listener: &TcpListener) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(()),
                io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => continue,
                _ => return Err(error),
            },
        };
        let server = Arc::clone(server);
        let connection = server.connections.enter();
        thread::Builder::new().stack_size(STACK).spawn(move || {
            // A client that hangs up or talks nonsense harms nobody but itself.
            let _ = server.serve(&stream);
            let _ = stream.shutdown(Shutdown::Both);
            drop(connection);
        })?;
    }
}

/// What all connections share.
struct Server {
    sabotage: Sabotage,
    account: CountersSnapshot,
    /// Set once, by the signal that is obeyed.
    signalled: OnceLock<Instant>,
    first_request: Once,
    /// What the latest request called itself.
    latest: Mutex<String>,
    connections: Arc<Gauge>,
    in_flight: Arc<Gauge>,
}

impl Server {
    fn new(sabotage: Sabotage) -> Self {
        Self {
            sabotage,
            account: CountersSnapshot::default(),
            signalled: OnceLock::new(),
            first_request: Once::new(),
            latest: Mutex::new("none".to_owned()),
            connections: Arc::default(),
            in_flight: Arc::default(),
        }
    }

    /// Answers the requests of one connection, one after the other.
    fn serve(self: &Arc<Self>, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = http::read_request(&mut reader)? {
            let in_flight = self.in_flight.enter();
            let ordinal = self.account.request_read();
            let before = self.take_note_of(&request.id);
            self.first_request.call_once(|| self.die_later());
            let treatment = self.sabotage.treatment(ordinal, self.signalled.get().map(Instant::elapsed));
            if treatment != Treatment::Answer {
                self.account.request_sabotaged(self.sabotage, ordinal);
            }
            if treatment == Treatment::Silence {
                drop(in_flight);
                io::copy(&mut reader, &mut io::sink())?;
                return Ok(());
            }
            if self.answer(stream, &request, &before, treatment)? == Persistence::Close {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Notes what a request calls itself; returns what the one before it did.
    fn take_note_of(&self, id: &str) -> String {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *latest, id.to_owned())
    }

    /// Answers one request in the way that was decided, and says what becomes of its connection.
    fn answer(
        &self,
        mut stream: &TcpStream,
        request: &Request,
        before: &str,
        treatment: Treatment,
    ) -> io::Result<Persistence> {
        const HALF: usize = http::HELLO.len() / 2;
        let whole = http::HELLO.len();
        if !matches!(treatment, Treatment::Drop | Treatment::Die) {
            thread::sleep(request.delay);
        }
        let is_last = request.is_last || self.signalled.get().is_some();
        let mut persistence = if is_last { Persistence::Close } else { Persistence::KeepAlive };
        match treatment {
            Treatment::Answer | Treatment::AnswerAndClose => {
                http::write_answer(&mut stream, "200 OK", http::HELLO, whole, &request.id, persistence)?;
                self.account.request_answered();
                if treatment == Treatment::AnswerAndClose {
                    persistence = Persistence::Close;
                }
            }
            Treatment::AnswerTwice => {
                let mut twice = Vec::new();
                http::write_answer(&mut twice, "200 OK", http::HELLO, whole, &request.id, persistence)?;
                http::write_answer(&mut twice, "200 OK", http::HELLO, whole, &request.id, persistence)?;
                io::Write::write_all(&mut stream, &twice)?;
                self.account.request_answered();
            }
            Treatment::Unavailable => {
                http::write_answer(&mut stream, "503 Service Unavailable", "", 0, &request.id, persistence)?;
            }
            Treatment::WrongAnswer => {
                http::write_answer(&mut stream, "200 OK", http::NOT_HELLO, whole, &request.id, persistence)?;
            }
            Treatment::AnswerOfAnother => {
                http::write_answer(&mut stream, "200 OK", http::HELLO, whole, before, persistence)?;
            }
            Treatment::HalfAnswer => {
                http::write_answer(&mut stream, "200 OK", http::HELLO, HALF, &request.id, persistence)?;
                persistence = Persistence::Close;
            }
            Treatment::AnswerUndeclared | Treatment::HalfUndeclared => {
                let sent = if treatment == Treatment::AnswerUndeclared { whole } else { HALF };
                http::write_undeclared(&mut stream, http::HELLO, sent, &request.id)?;
                if treatment == Treatment::AnswerUndeclared {
                    self.account.request_answered();
                }
                persistence = Persistence::Close;
            }
            Treatment::Drop | Treatment::Silence => persistence = Persistence::Close,
            Treatment::Die => self.die(),
        }
        Ok(persistence)
    }

    /// Starts the clock of a saboteur that dies some time after its first request; nothing for the others.
    fn die_later(self: &Arc<Self>) {
        let Sabotage::Dies(Death::AfterFirstRequest(after)) = self.sabotage else { return };
        let server = Arc::clone(self);
        thread::spawn(move || {
            thread::sleep(after);
            server.die();
        });
    }

    /// Ends the process here and now, account closed and nothing else.
    fn die(&self) -> ! {
        self.account.close();
        std::process::exit(1)
    }
}

/// A listening socket that shares its port and never blocks.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The signals that ask a process to leave, as bytes in a pipe.
struct Signals(UnixStream);

impl Signals {
    fn new() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self(read))
    }

    /// Blocks until a signal arrives.
    fn wait(&self) -> io::Result<()> {
        self.take()
    }

    /// Takes one signal that has arrived.
    fn take(&self) -> io::Result<()> {
        (&self.0).read_exact(&mut [0])
    }
}

/// What ended a wait.
#[derive(Debug, PartialEq, Eq)]
enum Woken {
    BySignal,
    ByConnectionOrTime,
}

/// Sleeps until a connection waits, a signal arrived, or the time is up.
fn wait_for_either(
    listener: &TcpListener,
    signals: &Signals,
    timeout: Option<Duration>,
) -> io::Result<Woken> {
    let timeout = timeout.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }));
    let mut sources = [PollFd::new(listener, PollFlags::IN), PollFd::new(&signals.0, PollFlags::IN)];
    match poll(&mut sources, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let is_signal = sources[1].revents().contains(PollFlags::IN);
    Ok(if is_signal { Woken::BySignal } else { Woken::ByConnectionOrTime })
}

/// How many there are of something, and the moment when there are none.
#[derive(Default)]
struct Gauge {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Gauge {
    fn enter(self: &Arc<Self>) -> Inside {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Inside(Arc::clone(self))
    }

    /// Waits, but not longer than `timeout`.
    fn wait_until_zero(&self, timeout: Duration) {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(count, timeout, |count| *count > 0));
    }
}

/// One that a [`Gauge`] counts, for as long as it lives.
struct Inside(Arc<Gauge>);

impl Drop for Inside {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.changed.notify_all();
    }
}
