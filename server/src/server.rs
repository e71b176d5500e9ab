//! [`Server`]: an axum router, an address and a preset, run from the first bind to the last answer.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::accept::Entrance;
use crate::admin;
use crate::admin::address::AdminAddress;
use crate::clock::monotonic_ns;
use crate::drain::{Drain, DrainSource};
use crate::event::{Event, Observer, Record};
use crate::handover::HandoverAddress;
use crate::handover::membership::Membership;
use crate::lifecycle::State;
use crate::limits::{FOREVER, Limits};
use crate::listeners::Listeners;
use crate::preset::Preset;
use crate::replica::{Order, Replica};
use crate::report::{Outcome, StopReport};
use crate::signals::{Signals, StopSignal};
use crate::start_error::StartError;

type StopFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How long any client may be silent in the middle of a body while its server drains.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// An HTTP server for an axum [`Router`] that knows how to stop.
///
/// It speaks HTTP/1.1 and HTTP/2 (prior knowledge) on one port, with `TCP_NODELAY`, and stops on SIGTERM, on SIGINT or
/// when [`stop_when`](Self::stop_when) says so. Handlers find the client's address in
/// [`ConnectInfo<SocketAddr>`](axum::extract::ConnectInfo), also on a connection that came from a sibling. See the [crate's documentation](crate) for an example and for what each
/// [`Preset`] means to a client.
#[must_use = "a server does nothing until it is run"]
pub struct Server {
    addr: SocketAddr,
    preset: Preset,
    name: Arc<str>,
    version: String,
    limits: Limits,
    drain_timeout: Duration,
    lame_duck: Option<Duration>,
    stream_grace: Duration,
    drain: DrainSource,
    handover: Option<HandoverAddress>,
    service: Option<String>,
    admin: Option<AdminAddress>,
    extra_headers: Vec<(HeaderName, HeaderValue)>,
    observe: Arc<dyn Fn(&Record) + Send + Sync>,
    stop: Option<StopFuture>,
    handles_signals: bool,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addr", &self.addr)
            .field("preset", &self.preset)
            .field("name", &self.name)
            .field("limits", &self.limits)
            .field("drain_timeout", &self.drain_timeout)
            .field("handover", &self.handover)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Eight seconds: a plain `docker stop` kills after ten.
    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);
    /// Half a second: a client that is at work meets the last answer within milliseconds, and a container that is
    /// restarted is back within a few hundred.
    pub const LAME_DUCK: Duration = Duration::from_millis(500);

    /// A server for `addr`, with the default preset, limits and drain timeout, named after the host, without an admin
    /// listener and without an observer.
    pub fn new(addr: impl Into<SocketAddr>) -> Self {
        Self {
            addr: addr.into(),
            preset: Preset::default(),
            name: host_name().into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            limits: Limits::default(),
            drain_timeout: Self::DRAIN_TIMEOUT,
            lame_duck: None,
            stream_grace: Duration::ZERO,
            drain: DrainSource::new(),
            handover: None,
            service: None,
            admin: None,
            extra_headers: Vec::new(),
            observe: Arc::new(|_| {}),
            stop: None,
            handles_signals: true,
        }
    }

    /// What to do with the clients when told to stop.
    pub fn preset(mut self, preset: Preset) -> Self {
        self.preset = preset;
        self
    }

    /// The replica's name, in events, metrics and accounts. Replicas of one service need different names.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// The application's version, for the `starting` event.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// What to bear from clients; see there for the bounds.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits.bounded();
        self
    }

    /// How long a drain may take; what is in flight then is cut and counted. Whoever kills what does not stop (Docker's
    /// stop timeout, Kubernetes' grace period) must wait longer than this.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout.min(FOREVER);
        self
    }

    /// Where siblings find each other under [`Preset::Handover`]. Without it: an abstract name made of the address that
    /// is served, `unix:@hitless-server.0.0.0.0:8080` for example.
    pub fn handover(mut self, group: HandoverAddress) -> Self {
        self.handover = Some(group);
        self
    }

    /// The name of the service that this is a replica of, under [`Preset::Handover`]: up to
    /// [`MAX_NAME`](crate::handover::protocol::MAX_NAME) bytes of UTF-8 count. Only replicas of the same name give their
    /// connections to each other. Replicas without a name are siblings of each other, whatever program they are, and of no
    /// replica with a name. Use it where several programs of one user may share a port.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.service = Some(name.into());
        self
    }

    /// How long a replica without a sibling goes on accepting and serving, with `Connection: close` on every answer and
    /// an eye on siblings that start, before it closes its listener and its idle connections. Without it:
    /// [`LAME_DUCK`](Self::LAME_DUCK), or half the drain timeout if that is less. Only [`Preset::Handover`] uses it; under
    /// another preset the setting is reported as [`Event::SettingIgnored`]. It should be less than the drain timeout,
    /// which ends it too, and then nothing is left for what is in flight.
    pub fn lame_duck(mut self, time: Duration) -> Self {
        self.lame_duck = Some(time.min(FOREVER));
        self
    }

    /// How long after the signal long-lived streams are told to go, see [`Drain`]. It should be less than the drain
    /// timeout, which cuts them.
    pub fn stream_grace(mut self, time: Duration) -> Self {
        self.stream_grace = time.min(FOREVER);
        self
    }

    /// For handlers of long-lived streams: when to say goodbye.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.drain.watch()
    }

    /// Answers `/healthz`, `/readyz`, `/metrics` and `/account` of this very replica at `addr`, also while siblings share
    /// the main port and while it drains. If another process holds the address, the replica serves without it, reports
    /// [`Event::AdminUnavailable`], and tries again until it ends.
    pub fn admin(mut self, addr: AdminAddress) -> Self {
        self.admin = Some(addr);
        self
    }

    /// A header that every answer carries, those included that the server gives by itself (408, 413). Only answers to
    /// what is no HTTP request at all, or whose head is too large, go without.
    pub fn response_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.extra_headers.push((name, value));
        self
    }

    /// Calls `tell` with every event, on the thread where it happened: it must be quick and must not panic.
    pub fn on_event(mut self, observe: impl Fn(&Record) + Send + Sync + 'static) -> Self {
        self.observe = Arc::new(observe);
        self
    }

    /// Also stops when `stop` is over, as if a signal had come. The first signal after that ends nothing: it may be the
    /// very one that `stop` waited for. The next one does, like every second signal.
    pub fn stop_when(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        self.stop = Some(Box::pin(stop));
        self
    }

    /// Leaves SIGTERM and SIGINT to the application: only [`stop_when`](Self::stop_when) stops the server then, and only
    /// the drain timeout ends its drain early.
    pub fn without_signals(mut self) -> Self {
        self.handles_signals = false;
        self
    }

    /// Serves `router` until told to stop, then drains as the preset says, and returns **when the drain has ended**,
    /// not when the listener has closed: a `main` that returns after it cuts nothing.
    ///
    /// # Errors
    ///
    /// Only if it cannot start. Must be called within a tokio runtime whose I/O and time drivers are on.
    pub async fn run(self, router: Router) -> Result<StopReport, StartError> {
        let observer = Observer::new(Arc::clone(&self.name), self.observe);
        // Before anything else: a stop signal that comes during the start must not kill the process half way.
        let mut signals = if self.handles_signals {
            Signals::install().map_err(StartError::Signals)?
        } else {
            Signals::none()
        };
        observer.emit(Event::Starting {
            version: self.version,
            preset: self.preset,
            pid: std::process::id(),
        });
        if self.preset != Preset::Handover {
            let settings = [
                ("handover", self.handover.is_some()),
                ("service", self.service.is_some()),
                ("lame_duck", self.lame_duck.is_some()),
            ];
            for (setting, _) in settings.into_iter().filter(|(_, is_set)| *is_set) {
                observer.emit(Event::SettingIgnored { setting, preset: self.preset });
            }
        }
        let replica = Arc::new(Replica::new(self.name, self.limits, self.extra_headers, observer));
        let _admin = match self.admin {
            Some(addr) => Some(
                admin::serve(addr.clone(), Arc::clone(&replica))
                    .map_err(|source| StartError::Admin { addr, source })?,
            ),
            None => None,
        };
        // Merges the router's state once and not for every request.
        let entrance = Entrance { replica: Arc::clone(&replica), router: router.with_state(()) };
        let listeners = Arc::new(Listeners::new(entrance));
        let membership = if self.preset == Preset::Handover {
            Some(
                Membership::join(self.addr, self.handover, self.service.as_deref(), &replica, &listeners)
                    .await?,
            )
        } else {
            let addr = listeners
                .bind(self.addr, self.preset.sharing())
                .map_err(|source| StartError::Listen { addr: self.addr, source })?;
            replica.observer.emit(Event::Listening { addr });
            None
        };
        replica.lifecycle.advance(State::Ready);
        replica.observer.emit(Event::Ready);

        let mut stop = self.stop.unwrap_or_else(|| Box::pin(std::future::pending()));
        let cause = tokio::select! {
            signal = signals.next() => Cause::Signal(signal),
            () = &mut stop => Cause::Request,
        };
        let signal_ns = monotonic_ns();
        replica.connection_counters.stop(signal_ns, replica.request_counters.answered());
        replica.observer.emit_at(signal_ns, Event::SignalReceived { signal: cause.to_string() });
        if self.preset == Preset::Abort {
            let report = end_at_once(&replica, cause);
            listeners.close().await;
            return Ok(report);
        }
        replica.lifecycle.advance(State::Draining);
        // A body that stands still costs half of the drain and is told so, instead of costing all of it and being cut.
        replica.begin_drain((self.drain_timeout / 2).max(DRAIN_PATIENCE));
        let (in_flight, connections) =
            (replica.request_counters.in_flight(), replica.request_counters.connections());
        replica.observer.emit(Event::Draining { in_flight, connections });
        let _goodbye = self.drain.start_after(self.stream_grace);
        let deadline = Instant::now() + self.drain_timeout;
        let lame_duck = self.lame_duck.unwrap_or(Self::LAME_DUCK.min(self.drain_timeout / 2));
        let drain = async {
            if let Some(membership) = &membership {
                return membership.leave(&listeners, lame_duck, deadline).await;
            }
            listeners.close().await;
            // Whoever hears of the one can rely on the other.
            let closed_ns = monotonic_ns();
            replica.orders.give(Order::CloseIdle);
            replica.observer.emit_at(closed_ns, Event::ListenerClosed);
            replica.wait_until_drained(deadline).await
        };
        let impatience = async {
            let mut cause = cause;
            loop {
                let signal = signals.next().await;
                replica.observer.emit(Event::SignalReceived { signal: signal.to_string() });
                if matches!(cause, Cause::Signal(_)) {
                    return signal;
                }
                cause = Cause::Signal(signal);
            }
        };
        let report = tokio::select! {
            biased;
            signal = impatience => end_at_once(&replica, Cause::Signal(signal)),
            is_drained = drain => end(&replica, is_drained),
        };
        // The port is free when this returns, whatever ended the drain.
        listeners.close().await;
        Ok(report)
    }
}

/// Why a server stops.
#[derive(Debug, Clone, Copy)]
enum Cause {
    Signal(StopSignal),
    Request,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => signal.fmt(f),
            Self::Request => f.write_str("request"),
        }
    }
}

fn end(replica: &Replica, is_drained: bool) -> StopReport {
    let cut = replica.request_counters.at_stake();
    if let Some(at) = replica.request_counters.last_response_ns() {
        replica.observer.emit_at(at, Event::LastResponse);
    }
    replica.orders.give(Order::Cut);
    replica.lifecycle.advance(State::Stopped);
    let outcome = if is_drained {
        replica.observer.emit(Event::Drained);
        Outcome::Drained
    } else {
        replica.observer.emit(Event::DrainTimeout { cut });
        Outcome::TimedOut
    };
    StopReport { outcome, account: replica.snapshot(cut) }
}

fn end_at_once(replica: &Replica, cause: Cause) -> StopReport {
    let cut = replica.request_counters.at_stake();
    replica.orders.give(Order::Cut);
    replica.lifecycle.advance(State::Stopped);
    let outcome = match cause {
        Cause::Signal(signal) => Outcome::AtOnce(signal),
        Cause::Request => Outcome::AtOnceOnRequest,
    };
    StopReport { outcome, account: replica.snapshot(cut) }
}

/// The host's name, or `hitless-server` if it has none.
#[must_use]
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "hitless-server".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::event::Level;

    /// The settings that a server of that preset reports as unused.
    async fn ignored(preset: Preset) -> Vec<&'static str> {
        let records = Arc::new(Mutex::new(Vec::new()));
        let events = Arc::clone(&records);
        let server = Server::new(([127, 0, 0, 1], 0))
            .preset(preset)
            .lame_duck(Duration::from_secs(1))
            .service("web")
            .without_signals()
            .stop_when(async {})
            .on_event(move |record| events.lock().unwrap().push(record.clone()));
        server.run(Router::new()).await.unwrap();
        let records = records.lock().unwrap();
        records
            .iter()
            .filter_map(|record| match record.event {
                Event::SettingIgnored { setting, preset } => {
                    assert_eq!((record.level, preset), (Level::Warn, preset));
                    Some(setting)
                }
                _ => None,
            })
            .collect()
    }

    #[tokio::test]
    async fn a_setting_that_the_strategy_does_not_use_is_reported() {
        for preset in [Preset::Abort, Preset::Graceful, Preset::ReusePort] {
            assert_eq!(ignored(preset).await, ["service", "lame_duck"], "{preset:?}");
        }
        assert!(ignored(Preset::Handover).await.is_empty());
    }
}
