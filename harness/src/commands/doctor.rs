//! `hitless doctor`: can this machine run it, and what will bite? Looks, and changes nothing.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use clap::Args;

use super::CommandError;
use crate::artifacts::program::{self, ProgramError, Source};
use crate::console;
use crate::host::engine::{Engine, HostNetwork};
use crate::host::limits;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The port that a run would use.
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

pub(super) async fn execute(args: &DoctorArgs) -> Result<u8, CommandError> {
    let checks = examine(args.port).await;
    for check in &checks {
        let mark = match check.finding {
            Finding::Fine => "ok  ",
            Finding::Warning => "warn",
            Finding::Problem => "FAIL",
        };
        console::print(&format!("{mark}  {:<17} {}\n", check.name, check.value))?;
        if !check.remedy.is_empty() {
            console::print(&format!("{:23} -> {}\n", "", check.remedy))?;
        }
    }
    Ok(if checks.iter().any(|check| check.finding == Finding::Problem) { 3 } else { 0 })
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// As it should be.
    Fine,
    /// A run is possible, but this will bite.
    Warning,
    /// No run is possible, or none but those that the remedy names.
    Problem,
}

/// One line of the doctor's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// What was found.
    pub finding: Finding,
    /// What it is.
    pub value: String,
    /// What to do about it; nothing if it is fine.
    pub remedy: String,
}

impl Check {
    fn fine(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, finding: Finding::Fine, value: value.into(), remedy: String::new() }
    }

    fn warning(name: &'static str, value: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, finding: Finding::Warning, value: value.into(), remedy: remedy.into() }
    }

    fn problem(name: &'static str, value: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, finding: Finding::Problem, value: value.into(), remedy: remedy.into() }
    }
}

/// Below this many descriptors a busy run ends in the harness's own interference.
const ENOUGH_DESCRIPTORS: u64 = 4096;
const ENOUGH_PORTS: u32 = 10_000;
/// How long connection tracking remembers a connection that has ended, in seconds (`nf_conntrack_tcp_timeout_time_wait`).
const REMEMBERED_S: u64 = 120;
/// Every port, and as many connections that are none of ours.
const ENOUGH_FOR_ALL_PORTS: u64 = 2 * 65_536;
/// Enough for a thousand fresh connections a second.
const ENOUGH_TRACKED: u64 = 1000 * REMEMBERED_S;

/// Looks at everything that a run depends on.
async fn examine(port: u16) -> Vec<Check> {
    let mut checks = engine().await;
    checks.push(processes(program::find()));
    checks.push(port_free(port));
    checks.push(kernel(&limits::kernel()));
    checks.push(tcp_migrate_req(limits::tcp_migrate_req()));
    checks.push(descriptors(limits::descriptor_limit()));
    checks.push(ephemeral_ports(limits::ephemeral_ports()));
    checks.push(connection_tracking(limits::tracked_connections(), limits::are_ports_reused()));
    checks.push(cpus(limits::cpus()));
    checks.push(static_linking());
    checks
}

async fn engine() -> Vec<Check> {
    let engine = match Engine::connect().await {
        Ok(engine) => engine,
        Err(error) => {
            return vec![Check::problem(
                "container engine",
                error.to_string(),
                "install Docker (docs.docker.com/engine/install), or start it: `sudo systemctl start docker`; `hitless run \
                 --runtime process` needs none",
            )];
        }
    };
    let address = engine.address();
    let reached =
        Check::fine("container engine", format!("reached at {} ({})", address.host, address.because));
    let version = match engine.version().await {
        Ok(version) => Check::fine("engine version", format!("{}, API {}", version.name, version.api)),
        Err(error) => Check::problem("engine version", error.to_string(), "restart the engine"),
    };
    let network = match engine.host_network().await {
        Ok(network) => host_network(network, &address.host),
        Err(error) => Check::problem("host network", error.to_string(), "restart the engine"),
    };
    vec![reached, version, network]
}

/// Whether requests of this machine reach what listens in the containers' host network.
fn host_network(network: HostNetwork, address: &str) -> Check {
    let name = "host network";
    match network {
        HostNetwork::Rootless => Check::warning(
            name,
            "the engine runs without root, and its host network is a namespace of its own",
            "requests to 127.0.0.1 do not reach replicas with host networking: use an engine that runs as root, a Compose \
             project that publishes its ports (--runtime compose), or --runtime process",
        ),
        HostNetwork::VirtualMachine => Check::warning(
            name,
            "the engine is Docker Desktop's, and its host network is that of a virtual machine",
            "requests to 127.0.0.1 reach replicas only if host networking is enabled in Docker Desktop's settings \
             (Resources, Network); hitless sees no listeners there. Use an engine on this machine, or --runtime process",
        ),
        HostNetwork::Machine if address.starts_with("unix://") => {
            Check::fine(name, "the engine is on this machine")
        }
        HostNetwork::Machine => Check::warning(
            name,
            format!("the engine is behind {address}"),
            "replicas listen on the engine's host: requests to 127.0.0.1 reach them only if that is this machine",
        ),
    }
}

/// What `--runtime process` would run.
fn processes(server: Result<Source, ProgramError>) -> Check {
    let name = "processes";
    match server {
        Ok(Source::File(path)) => {
            Check::fine(name, format!("--runtime process needs no engine and runs {}", path.display()))
        }
        Ok(Source::Build(_)) => {
            Check::fine(name, "--runtime process needs no engine; the server is built from this checkout")
        }
        Err(error) => Check::warning(
            name,
            format!("--runtime process needs no engine, but there is {error}"),
            "a program of your own needs neither: --runtime process --command 'PROGRAM ARGUMENTS'",
        ),
    }
}

fn port_free(port: u16) -> Check {
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => Check::fine("port", format!("{port} is free")),
        Err(error) => Check::problem(
            "port",
            format!("{port} cannot be used: {error}"),
            "stop the process that is listening on it, run `hitless clean`, or use --url http://127.0.0.1:PORT/",
        ),
    }
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse::<u32>);
    let version = (numbers.next().and_then(Result::ok), numbers.next().and_then(Result::ok));
    if version >= (Some(3), Some(9)) {
        Check::fine("kernel", release)
    } else {
        Check::problem("kernel", release, "SO_REUSEPORT needs Linux 3.9 or later")
    }
}

fn tcp_migrate_req(setting: Option<bool>) -> Check {
    let name = "tcp_migrate_req";
    match setting {
        Some(false) => Check::fine(name, "0: a listener that closes resets what waits in its accept queue"),
        Some(true) => Check::warning(
            name,
            "1: the kernel moves waiting connections to a sibling listener",
            "results hold only for hosts with the same setting; 0 is the default: sysctl net.ipv4.tcp_migrate_req=0",
        ),
        None => Check::fine(name, "this kernel has none (5.14 and later do)"),
    }
}

fn descriptors(limit: Option<u64>) -> Check {
    match limit {
        Some(limit) if limit < ENOUGH_DESCRIPTORS => Check::warning(
            "descriptors",
            format!("{limit} at most"),
            format!(
                "high rates need more, and this is the hard limit: as root `ulimit -Hn {ENOUGH_DESCRIPTORS}`"
            ),
        ),
        Some(limit) => Check::fine("descriptors", format!("{limit} at most")),
        None => Check::fine("descriptors", "unlimited"),
    }
}

fn ephemeral_ports(range: Option<(u16, u16)>) -> Check {
    match range {
        Some((first, last)) if u32::from(last.saturating_sub(first)) < ENOUGH_PORTS => Check::warning(
            "ephemeral ports",
            format!("{first} to {last}"),
            "widen them for high rates of fresh connections: sysctl net.ipv4.ip_local_port_range=\"32768 60999\"",
        ),
        Some((first, last)) => Check::fine("ephemeral ports", format!("{first} to {last}")),
        None => Check::warning("ephemeral ports", "unknown", "is /proc mounted?"),
    }
}

/// A connection whose port was used before takes the place of the one before it, so that there are never more to remember
/// than there are ports.
fn connection_tracking(most: Option<u64>, are_ports_reused: bool) -> Check {
    let name = "conntrack";
    match most {
        Some(most) if are_ports_reused && most > ENOUGH_FOR_ALL_PORTS => {
            Check::fine(name, format!("remembers {most} connections, more than a client has ports"))
        }
        Some(most) if most < ENOUGH_TRACKED => Check::warning(
            name,
            format!("has room for {} fresh connections a second", most / REMEMBERED_S),
            "past that the kernel drops new ones: sysctl net.netfilter.nf_conntrack_max=262144",
        ),
        Some(most) => {
            Check::fine(name, format!("has room for {} fresh connections a second", most / REMEMBERED_S))
        }
        None => Check::fine(name, "connections are not tracked"),
    }
}

fn cpus(count: usize) -> Check {
    match count {
        1 => Check::warning(
            "CPUs",
            "1",
            "load and servers share it: keep --rate low, or the run is inconclusive",
        ),
        count => Check::fine("CPUs", count.to_string()),
    }
}

/// Links a program that does nothing, statically, as the server's image needs it.
fn static_linking() -> Check {
    let name = "static linking";
    let remedy = "`hitless image` needs Rust from rustup.rs and the static C library (Debian: libc6-dev)";
    let Ok(directory) = std::env::temp_dir().canonicalize() else {
        return Check::warning(name, "there is no directory for temporary files", "set TMPDIR");
    };
    let source = directory.join(format!("hitless-doctor-{}.rs", std::process::id()));
    let binary = source.with_extension("bin");
    let compiled = std::fs::write(&source, "fn main() {}\n").and_then(|()| {
        Command::new("rustc")
            .args(["-C", "target-feature=+crt-static", "--target"])
            .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
            .arg("-o")
            .args([&binary, &source])
            .output()
    });
    let _ = std::fs::remove_file(&source);
    let _ = std::fs::remove_file(&binary);
    match compiled {
        Ok(output) if output.status.success() => Check::fine(name, "rustc links a static binary"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            let first =
                text.lines().find(|line| line.starts_with("error")).unwrap_or("rustc failed").to_owned();
            Check::warning(name, first, remedy)
        }
        Err(error) => Check::warning(name, format!("rustc cannot be run: {error}"), remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::checkout::CheckoutError;

    #[test]
    fn what_will_bite_is_told_with_a_remedy_and_what_is_fine_is_not() {
        let no_server =
            ProgramError::NoServer { beside: "/opt".into(), source: CheckoutError::None("/home".into()) };
        let cases: [(Check, Finding); 25] = [
            (host_network(HostNetwork::Machine, "unix:///run/docker.sock"), Finding::Fine),
            (host_network(HostNetwork::Machine, "tcp://10.0.0.2:2375"), Finding::Warning),
            (host_network(HostNetwork::Rootless, "unix:///run/user/1000/docker.sock"), Finding::Warning),
            (host_network(HostNetwork::VirtualMachine, "unix:///run/docker.sock"), Finding::Warning),
            (kernel("6.18.5-amd64"), Finding::Fine),
            (kernel("3.9"), Finding::Fine),
            (kernel("3.8.13"), Finding::Problem),
            (kernel("unknown"), Finding::Problem),
            (tcp_migrate_req(Some(false)), Finding::Fine),
            (tcp_migrate_req(Some(true)), Finding::Warning),
            (tcp_migrate_req(None), Finding::Fine),
            (descriptors(Some(1024)), Finding::Warning),
            (descriptors(Some(ENOUGH_DESCRIPTORS)), Finding::Fine),
            (descriptors(None), Finding::Fine),
            (ephemeral_ports(Some((60_000, 60_999))), Finding::Warning),
            (ephemeral_ports(Some((32_768, 60_999))), Finding::Fine),
            (connection_tracking(Some(65_536), false), Finding::Warning),
            (connection_tracking(Some(65_536), true), Finding::Warning),
            (connection_tracking(Some(200_000), true), Finding::Fine),
            (connection_tracking(Some(200_000), false), Finding::Fine),
            (connection_tracking(None, false), Finding::Fine),
            (processes(Err(no_server)), Finding::Warning),
            (processes(Ok(Source::File("/opt/hitless-server".into()))), Finding::Fine),
            (cpus(1), Finding::Warning),
            (cpus(2), Finding::Fine),
        ];
        for (check, finding) in cases {
            assert_eq!(check.finding, finding, "{check:?}");
            assert_eq!(check.remedy.is_empty(), finding == Finding::Fine, "{check:?}");
            assert!(!check.value.is_empty(), "{check:?}");
        }
    }

    #[test]
    fn port_that_somebody_listens_on_is_a_problem() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = port_free(port);
        assert_eq!(taken.finding, Finding::Problem);
        assert!(taken.value.contains(&port.to_string()) && !taken.remedy.is_empty(), "{taken:?}");
    }
}
