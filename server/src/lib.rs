//! An HTTP server for axum applications that can be stopped, replaced and upgraded under load.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use axum::{Router, routing::get};
//! use hitless_server::{Server, StartError};
//!
//! #[tokio::main]
//! async fn main() -> Result<ExitCode, StartError> {
//!     let router = Router::new().route("/", get(async || "hello world"));
//!     let report = Server::new(([0, 0, 0, 0], 8080)).run(router).await?;
//!     Ok(report.exit_code())
//! }
//! ```
//!
//! # What a client sees when the server stops
//!
//! | [`Preset`] | the port | on SIGTERM or SIGINT | a client sees |
//! | --- | --- | --- | --- |
//! | [`Normal`](Preset::Abort) | its own | ends at once | running requests: `curl: (52) Empty reply from server` |
//! | [`Graceful`](Preset::Graceful) | its own | closes the listener and idle connections, finishes the rest, ends | new connections: `curl: (7) Connection refused` |
//! | [`ReusePort`](Preset::ReusePort) | shared with siblings | the same | connections in the closed listener's accept queue: `curl: (56)`, reset |
//! | [`Handover`](Preset::Handover) | shared with siblings | gives listeners and idle connections to a sibling, busy ones after their response, ends | nothing: even an open connection goes on |
//!
//! `Handover` is the default. It needs at least two replicas on the host that do not stop at the same time, run by the
//! same user, in one network namespace (containers: host networking) or with a directory in common
//! ([`Server::handover`]). Without a sibling it falls back to a [lame duck](Server::lame_duck).
//!
//! # Why `main` must wait: the riddle of `log.Fatal`
//!
//! A well-known Go program stops like this, and warns that `log.Println` must not become `log.Fatal`, "otherwise it
//! exits at once", without knowing why:
//!
//! ```go
//! go func() { log.Println(server.ListenAndServe()) }()
//! <-signals
//! server.Shutdown(context.Background())
//! ```
//!
//! The answer: `Shutdown` first closes the listener, and that makes `ListenAndServe` return **at once**, while requests
//! are still running. `log.Fatal` then calls `os.Exit`, and the requests die with the process. The rule behind it holds
//! in every language: *the process ends when the drain ends, not when the listener does.* [`Server::run`] is built so
//! that it cannot be got wrong: it returns when the last response is with the kernel (or the drain timeout passed), and
//! the listener's end is only an [event](Event::ListenerClosed) on the way.
//!
//! # The life of a connection
//!
//! ```text
//!   accept          from a sibling,
//!     │             with what it had read
//!     v                  │
//!   recognize <──────────┘
//!   the protocol by the first bytes
//!     │
//!     ├── HTTP/1 ──> idle ──────── head read ────────> busy
//!     │               │  ^                              │
//!     │               │  └──── response flushed ────────┘
//!     │               │
//!     │               │  told to stop            busy ones first finish their response
//!     │               ├── handover ────────────> to a sibling, with what was read
//!     │               ├── handover, no sibling > stays; the next answer says `Connection: close`;
//!     │               │                          after a while a last look into the socket, then closed
//!     │               └── graceful, reuseport ─> closed; busy ones answer with `Connection: close`
//!     │
//!     ├── HTTP/2 ──> streams
//!     │               │  told to stop
//!     │               └── GOAWAY "no new streams" ─> round trip ─> GOAWAY with the last stream
//!     │                                              ─> streams finish ─> closed
//!     │                   (a client that is silent for a second, without a stream: closed)
//!     │
//!     └── upgraded (a WebSocket): the application says goodbye when [`Drain::started`] tells it
//! ```
//!
//! *Closed* means: in stages (RFC 9112, section 9.6). The write side is shut down, what still comes is read and thrown away,
//! and the socket is closed when the client has closed, or when the kernel says that the client has everything. Only then
//! the last answer counts as answered; if the drain timeout comes first, it counts as cut.
//!
//! *Idle* means: every request that began has been answered down to the last byte in the kernel's buffer. Bytes of the
//! next request may be here already, even half a head; they travel with the connection. How two processes pass a
//! connection without losing or doubling a byte is told in [`handover`].
//!
//! # Streams that last for ever
//!
//! An event stream or a WebSocket cannot move. It is told to come again, in its own way, see [`Drain`]; there are examples
//! of both, `examples/chat.rs` and `examples/events.rs`.
//!
//! # What happens, as data
//!
//! [`Server::on_event`] is told of every step as an [`Event`] with a moment on the host's monotonic clock, and
//! [`Server::admin`] answers `/healthz`, `/readyz`, `/metrics` and `/account` of this very replica although the port is
//! shared. With the feature `serde`, events, records and accounts implement `Serialize`.
//!
//! # Exit codes
//!
//! [`StopReport::exit_code`] is 0 when everything was answered, 3 when something was cut by the drain timeout or, under
//! preset `normal` ([`Preset::Abort`]), by the application's own wish, and 128 + n when the server ended at once by signal n (preset
//! `normal`, or a second signal).

#[cfg(not(target_os = "linux"))]
compile_error!("hitless-server needs Linux: SO_REUSEPORT groups, abstract unix sockets and /proc");

mod accept;
mod accept_failures;
mod activity;
mod admin;
mod clock;
mod connection;
mod connection_limit;
mod counters;
mod drain;
mod event;
mod exchange;
mod framing;
pub mod handover;
mod idle;
mod lifecycle;
mod limits;
mod listener;
mod listeners;
mod preset;
mod replica;
mod report;
mod server;
mod signals;
mod start_error;
mod timer;
mod transfer_queue;

pub use admin::address::{AdminAddress, BadAdminAddress};
pub use admin::health::{Readiness, ask_ready};
pub use clock::monotonic_ns;
pub use counters::CountersSnapshot;
pub use drain::{Drain, RECONNECT_CLOSE_CODE};
pub use event::{Event, Level, Record};
pub use handover::{BadHandoverAddress, HandoverAddress};
pub use lifecycle::State;
pub use limits::Limits;
pub use preset::{Preset, UnknownPreset};
pub use report::{Outcome, StopReport};
pub use server::{Server, host_name};
pub use signals::StopSignal;
pub use start_error::StartError;
