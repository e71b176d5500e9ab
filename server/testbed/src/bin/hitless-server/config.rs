//! Arguments and environment become a validated [`ServerConfig`]. Nothing is opened here. The only user of clap.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use hitless_server::{AdminAddress, HandoverAddress, Limits, Preset, Server, StartError, host_name};

/// Names the replica in every answer.
const REPLICA: HeaderName = HeaderName::from_static("x-replica");
/// This build's version: the package's, or another one that the build was given, for tests of upgrades.
const VERSION: &str = match option_env!("HITLESS_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
/// Names the replica's version in every answer.
const REPLICA_VERSION: HeaderName = HeaderName::from_static("x-replica-version");

const EXIT_CODES: &str = "Exit codes:
  0      drained: everything in flight was answered
  1      could not start or run (port taken, ...); `health`: not ready
  2      usage
  3      something was cut by the drain timeout; the log says how much
  128+n  ended at once by signal n: preset `normal`, or a second signal";

const PRESETS: &str = "What happens to clients on SIGTERM and SIGINT:
  normal     ends at once, requests in flight break off
  graceful   closes the listener and idle connections, finishes what is in flight
  reuseport  the same on a port that a sibling shares (SO_REUSEPORT)
  handover   gives listeners and connections to a sibling; nothing is refused, reset or closed
";

const HANDOVER: &str = "Where replicas of one service find each other, for the preset handover: unix:@NAME (abstract) \
                        or unix:/DIRECTORY (a shared volume) [default: unix:@hitless-server.<listen address>]";

const ADMIN: &str = "Where this replica answers /healthz, /readyz, /metrics and /account: unix:@NAME (abstract), \
                     unix:/PATH or HOST:PORT [default: unix:@hitless-server.<name>.admin]";

/// What the process was asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    Serve(Box<ServerConfig>),
    Health(AdminAddress),
}

/// A valid configuration.
#[derive(Debug)]
pub(crate) struct ServerConfig {
    pub(crate) name: String,
    pub(crate) delay: Duration,
    pub(crate) max_delay: Duration,
    name_header: HeaderValue,
    listen: SocketAddr,
    preset: Preset,
    drain_timeout: Duration,
    lame_duck: Option<Duration>,
    goodbye_after: Duration,
    handover: Option<HandoverAddress>,
    admin: AdminAddress,
    pub(crate) limits: Limits,
    service: Option<String>,
}

/// The testbed's HTTP server: it can be stopped, replaced and upgraded under load.
#[derive(Debug, Parser)]
#[command(name = "hitless-server", version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[expect(clippy::large_enum_variant, reason = "there is one, for a moment")]
#[derive(Debug, Subcommand)]
enum Action {
    /// Serve until told to stop (the default).
    #[command(after_help = EXIT_CODES)]
    Serve(ServeArgs),
    /// Ask this replica whether it is ready: exit code 0 if so, 1 if not.
    Health(Identity),
}

/// Which replica this is.
#[derive(Debug, Args)]
struct Identity {
    /// The replica's name [default: the host's name]
    #[arg(long, env = "HITLESS_NAME")]
    name: Option<String>,
    #[arg(long, env = "HITLESS_ADMIN", value_name = "ADDR", help = ADMIN)]
    admin: Option<AdminAddress>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    identity: Identity,
    /// Where to serve
    #[arg(long, env = "HITLESS_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// What happens to clients when the server is told to stop
    #[arg(long, env = "HITLESS_PRESET", long_help = PRESETS, default_value_t = Preset::default(),
          value_parser = presets())]
    preset: Preset,
    /// How long GET / takes, as in 3s or 250ms
    #[arg(long, env = "HITLESS_DELAY", default_value = "0s", value_parser = duration)]
    delay: Duration,
    /// The most that a request may ask for with ?delay=
    #[arg(long, env = "HITLESS_MAX_DELAY", default_value = "30s", value_parser = duration)]
    max_delay: Duration,
    /// How long a drain may take; must be less than what the container engine waits before it kills
    #[arg(long, env = "HITLESS_DRAIN_TIMEOUT", default_value = "8s", value_parser = duration)]
    drain_timeout: Duration,
    #[arg(long, env = "HITLESS_HANDOVER", value_name = "ADDR", help = HANDOVER)]
    handover: Option<HandoverAddress>,
    /// How long a replica without a sibling serves on, saying `Connection: close`, before it closes its listener
    /// [default: 500ms, or half the drain timeout if that is less]
    #[arg(long, env = "HITLESS_LAME_DUCK", value_parser = duration)]
    lame_duck: Option<Duration>,
    /// How long after the signal long-lived streams (/events) are told to connect again
    #[arg(long, env = "HITLESS_GOODBYE_AFTER", default_value = "0s", value_parser = duration)]
    goodbye_after: Duration,
    /// Connections at once; further ones wait in the accept queue
    #[arg(long, env = "HITLESS_MAX_CONNECTIONS", value_name = "N", default_value_t = 10_000,
          value_parser = connections)]
    max_connections: usize,
    /// Bytes of a request body; above it the answer is 413
    #[arg(long, env = "HITLESS_MAX_BODY", value_name = "BYTES", default_value_t = 64 * 1024 * 1024)]
    max_body: u64,
    /// Bytes of a request head, 8192 to 65536; above it the answer is 431
    #[arg(long, env = "HITLESS_MAX_HEAD", value_name = "BYTES", default_value_t = 32 * 1024, value_parser = head)]
    max_head: usize,
    /// How long a client may take for a request head, from its first byte
    #[arg(long, env = "HITLESS_HEAD_TIMEOUT", default_value = "30s", value_parser = positive_duration)]
    head_timeout: Duration,
    /// How long a connection may stay open without a request
    #[arg(long, env = "HITLESS_IDLE_TIMEOUT", default_value = "5m", value_parser = positive_duration)]
    idle_timeout: Duration,
    /// How long a body may stand still between two reads; then the answer is 408
    #[arg(long, env = "HITLESS_BODY_TIMEOUT", default_value = "60s", value_parser = positive_duration)]
    body_timeout: Duration,
    /// How long a client may take none of an answer; then its connection is closed
    #[arg(long, env = "HITLESS_WRITE_TIMEOUT", default_value = "60s", value_parser = positive_duration)]
    write_timeout: Duration,
    /// HTTP/2 streams of one connection at once
    #[arg(long, env = "HITLESS_MAX_STREAMS", value_name = "N", default_value_t = Limits::default().max_streams,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_streams: u32,
    /// The service that this is a replica of: only replicas of the same name hand over to each other
    #[arg(long, env = "HITLESS_SERVICE", value_name = "NAME")]
    service: Option<String>,
}

impl Command {
    /// Reads the arguments and the environment; on a mistake says so and exits with 2.
    pub(crate) fn from_environment() -> Self {
        Self::from_cli(Cli::parse()).unwrap_or_else(|error| error.exit())
    }

    fn from_cli(cli: Cli) -> Result<Self, clap::Error> {
        match cli.action {
            None => ServerConfig::new(cli.serve),
            Some(Action::Serve(args)) => ServerConfig::new(args),
            Some(Action::Health(identity)) => return Ok(Self::Health(identity.resolve().1)),
        }
        .map(|config| Self::Serve(Box::new(config)))
    }
}

impl Identity {
    fn resolve(self) -> (String, AdminAddress) {
        let name = self.name.unwrap_or_else(host_name);
        let admin = self.admin.unwrap_or_else(|| AdminAddress::of_replica(&name));
        (name, admin)
    }
}

impl ServerConfig {
    fn new(args: ServeArgs) -> Result<Self, clap::Error> {
        let (name, admin) = args.identity.resolve();
        // The name goes into a header and into the admin socket's name, which holds 107 bytes in all.
        let is_name = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte));
        let name_header = HeaderValue::from_str(&name).ok().filter(|_| is_name).ok_or_else(|| {
            invalid(&format!(
                "--name (HITLESS_NAME) `{name}`: use 1 to 64 letters, digits or any of - _ . : /"
            ))
        })?;
        let drain_timeout = args.drain_timeout;
        within(drain_timeout, "--lame-duck (HITLESS_LAME_DUCK)", args.lame_duck.unwrap_or_default())?;
        within(drain_timeout, "--goodbye-after (HITLESS_GOODBYE_AFTER)", args.goodbye_after)?;
        let mut limits = Limits::default();
        limits.max_connections = args.max_connections;
        limits.max_body = args.max_body;
        limits.max_head = args.max_head;
        limits.head_timeout = args.head_timeout;
        limits.idle_timeout = args.idle_timeout;
        limits.body_timeout = args.body_timeout;
        limits.write_timeout = args.write_timeout;
        limits.max_streams = args.max_streams;
        Ok(Self {
            name,
            delay: args.delay,
            max_delay: args.max_delay,
            name_header,
            listen: args.listen,
            preset: args.preset,
            drain_timeout,
            lame_duck: args.lame_duck,
            goodbye_after: args.goodbye_after,
            handover: args.handover,
            admin,
            limits,
            service: args.service,
        })
    }

    /// The server that this configuration describes.
    pub(crate) fn into_server(self) -> Server {
        let mut server = Server::new(self.listen);
        if let Some(group) = self.handover {
            server = server.handover(group);
        }
        if let Some(time) = self.lame_duck {
            server = server.lame_duck(time);
        }
        if let Some(service) = self.service {
            server = server.service(service);
        }
        server
            .preset(self.preset)
            .name(self.name)
            .version(VERSION)
            .limits(self.limits)
            .drain_timeout(self.drain_timeout)
            .stream_grace(self.goodbye_after)
            .admin(self.admin)
            .response_header(REPLICA, self.name_header)
            .response_header(REPLICA_VERSION, HeaderValue::from_static(VERSION))
    }
}

/// The line that a person reads when the server could not start: what failed, why, and what to do about it.
pub(crate) fn remedy(error: &StartError) -> String {
    match error {
        StartError::Listen { source, .. } => {
            let advice = match source.kind() {
                io::ErrorKind::AddrInUse => {
                    "stop what holds the port (it is shared only between replicas of one user whose preset is \
                     reuseport or handover), or choose another with --listen"
                }
                io::ErrorKind::AddrNotAvailable => "no interface here has it: choose another with --listen",
                io::ErrorKind::PermissionDenied => "choose a port from 1024 on with --listen",
                _ => "choose another with --listen",
            };
            format!("{error}: {source}; {advice}")
        }
        StartError::Admin { addr, source } if source.kind() == io::ErrorKind::AddrInUse => {
            format!(
                "{error}: {source}; is a replica of the same name running? give this one another --name, or --admin other than {addr}"
            )
        }
        StartError::Admin { source, .. } => format!("{error}: {source}; choose another with --admin"),
        StartError::Handover { source, .. } => format!("{error}: {source}; choose another with --handover"),
        error => std::error::Error::source(error)
            .map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
    }
}

fn invalid(line: &str) -> clap::Error {
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{line}\n"))
}

/// A time within the drain, which must leave something of it.
fn within(drain_timeout: Duration, flag: &str, time: Duration) -> Result<(), clap::Error> {
    if time.is_zero() || time < drain_timeout {
        return Ok(());
    }
    let (time, timeout) = (humantime::format_duration(time), humantime::format_duration(drain_timeout));
    Err(invalid(&format!(
        "{flag} {time}: must be less than --drain-timeout (HITLESS_DRAIN_TIMEOUT), {timeout}"
    )))
}

fn presets() -> impl TypedValueParser<Value = Preset> {
    PossibleValuesParser::new(Preset::ALL.map(Preset::name)).try_map(|name| name.parse::<Preset>())
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() { Err("must be longer than nothing".to_owned()) } else { Ok(duration) }
}

fn connections(text: &str) -> Result<usize, String> {
    bounded(text, 1, 1_000_000)
}

fn head(text: &str) -> Result<usize, String> {
    bounded(text, Limits::MIN_HEAD, Limits::MAX_HEAD)
}

fn bounded(text: &str, least: usize, most: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("must be a number from {least} to {most}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &[&str]) -> Result<Command, clap::Error> {
        Cli::try_parse_from([&["hitless-server"], args].concat()).and_then(Command::from_cli)
    }

    fn serve(args: &[&str]) -> ServerConfig {
        match parse(args).unwrap() {
            Command::Serve(config) => *config,
            Command::Health(_) => panic!("not a serve command"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_the_default_command() {
        let config = serve(&["--name", "a", "--listen", "127.0.0.1:0", "--delay", "3s"]);
        assert_eq!(config.delay, Duration::from_secs(3));
        assert_eq!(config.admin, AdminAddress::of_replica("a"));
        assert_eq!(serve(&["serve", "--name", "a"]).name, "a");
    }

    #[test]
    fn health_asks_the_replica_of_that_name() {
        match parse(&["health", "--name", "b"]).unwrap() {
            Command::Health(admin) => assert_eq!(admin, AdminAddress::of_replica("b")),
            Command::Serve(_) => panic!("not a health command"),
        }
    }

    #[test]
    fn a_mistake_names_the_flag_and_the_value() {
        for (args, expected) in [
            (&["--listen", "nowhere"][..], "nowhere"),
            (&["--preset", "brutal"], "brutal"),
            (&["--delay", "soon"], "soon"),
            (&["--head-timeout", "0s"], "--head-timeout"),
            (&["--max-head", "12"], "--max-head"),
            (&["--max-connections", "0"], "--max-connections"),
            (&["--admin", "somewhere"], "unix:@NAME"),
            (&["--name", "a b"], "--name"),
            (&["--handover", "somewhere"], "unix:/DIRECTORY"),
            (&["--lame-duck", "8s"], "--lame-duck (HITLESS_LAME_DUCK) 8s: must be less than --drain-timeout"),
            (&["--goodbye-after", "3s", "--drain-timeout", "2s"], "--goodbye-after"),
        ] {
            let error = parse(args).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{args:?}");
            assert!(error.to_string().contains(expected), "{args:?}: {error}");
        }
    }

    #[test]
    fn a_short_drain_has_a_short_lame_duck_by_default() {
        assert_eq!(serve(&["--name", "a", "--drain-timeout", "100ms"]).lame_duck, None);
        assert_eq!(
            serve(&["--name", "a", "--drain-timeout", "0s", "--lame-duck", "0s"]).drain_timeout,
            Duration::ZERO
        );
    }

    #[test]
    fn a_taken_port_is_one_line_with_a_remedy() {
        let error = StartError::Listen {
            addr: "127.0.0.1:8080".parse().unwrap(),
            source: io::ErrorKind::AddrInUse.into(),
        };
        let line = remedy(&error);
        assert!(line.contains("127.0.0.1:8080") && line.contains("--listen"), "{line}");
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn a_taken_admin_name_points_at_name_and_admin() {
        let error = StartError::Admin {
            addr: AdminAddress::of_replica("a"),
            source: io::ErrorKind::AddrInUse.into(),
        };
        let line = remedy(&error);
        assert!(line.contains("--name") && line.contains("--admin"), "{line}");
    }
}
