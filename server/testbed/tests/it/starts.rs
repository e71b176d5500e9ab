//! How a replica joins its group and leaves the port: what a failed start must not have done, and what must not keep one
//! from starting.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::support::peer::{Peer, claimed_names, place, socket};
use crate::support::{PATIENCE, Replica, command, unique};
use axum::Router;
use hitless_server::{Event, Outcome, Preset, Server};
use tokio::sync::{mpsc, oneshot};

#[test]
fn a_start_that_fails_has_claimed_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", directory.path().display());
    let mut args = vec!["--handover", &address];
    let first = Replica::start(&args);
    let second = Replica::start_at(&first.addr.to_string(), &args);
    let mut second = second;
    second.terminate();
    assert_eq!(second.wait().0, 0);
    assert_eq!(first.account()["listeners_taken"], 1);
    // Nobody can take a place any more, though the siblings can be reached.
    std::fs::remove_file(directory.path().join("lock")).unwrap();
    std::fs::create_dir(directory.path().join("lock")).unwrap();
    let (listen, name) = (first.addr.to_string(), unique("late"));
    args.extend(["--listen", &listen, "--name", &name]);
    let output = crate::support::run(&args);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("handover group"));
    let account = first.account();
    assert_eq!((&account["listeners_returned"], &account["handover_refused"]), (&0.into(), &0.into()));
    for _ in 0..50 {
        assert_eq!(first.connect().get("/").status, 200);
    }
}

#[test]
fn whoever_takes_all_names_of_a_group_keeps_no_replica_from_starting() {
    let group = unique("hitless-test");
    let _names = claimed_names(&group);
    let address = format!("unix:@{group}");
    let mut replica = Replica::start(&["--handover", &address]);
    assert!(replica.events().contains(&"handover_refused"));
    assert_eq!(replica.connect().get("/").status, 200);
    replica.terminate();
    assert_eq!(replica.wait().0, 0);
}

/// A replica of another user; killed when dropped.
struct Intruder(Child);

impl Intruder {
    /// `None` if this test may not start one.
    fn start(group: &str) -> Option<Self> {
        use std::os::unix::process::CommandExt;
        let address = format!("unix:@{group}");
        let mut command: Command = command();
        command.args(["--listen", "127.0.0.1:0", "--name", &unique("intruder"), "--handover", &address]);
        Some(Self(command.uid(4242).stdout(Stdio::null()).spawn().ok()?))
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn another_user_is_given_nothing_though_it_has_a_place_in_the_group() {
    let group = unique("hitless-test");
    let Some(_intruder) = Intruder::start(&group) else {
        eprintln!("skipped: only root can start a replica of another user");
        return;
    };
    let deadline = Instant::now() + PATIENCE;
    while socket().connect(&place(&group, 0)).is_err() {
        assert!(Instant::now() < deadline, "the intruder does not take a place");
        std::thread::yield_now();
    }
    let mut replica = Replica::start(&["--handover", &format!("unix:@{group}"), "--lame-duck", "100ms"]);
    let mut client = replica.connect();
    client.get("/");
    replica.terminate();
    assert_eq!(replica.wait_for("handover_refused")["reason"], "the peer runs as user 4242");
    replica.wait_for("lame_duck");
    let (code, exit) = replica.wait();
    let given = (&exit["listeners_given"], &exit["connections_given"]);
    assert_eq!((code, given), (0, (&0.into(), &0.into())), "{exit:#}");
}

#[test]
fn a_flood_of_strangers_is_logged_in_part_and_counted_whole() {
    let group = unique("hitless-test");
    let address = format!("unix:@{group}");
    let mut replica = Replica::start(&["--handover", &address]);
    for _ in 0..200 {
        Peer::connect(&group).send(b"nonsense", None);
    }
    replica.wait_until("refused", |account| account["handover_refused"] == 200);
    replica.terminate();
    let (code, exit) = replica.wait();
    assert_eq!((code, &exit["handover_refused"]), (0, &200.into()));
    let told = replica.events().iter().filter(|event| **event == "handover_refused").count();
    assert!(told < 100, "{told}");
}

/// A server in this process, as it listens.
async fn listening(server: Server) -> (SocketAddr, tokio::task::JoinHandle<Outcome>) {
    let (sender, mut events) = mpsc::unbounded_channel();
    let server = server.on_event(move |record| {
        if let Event::Listening { addr } = record.event {
            sender.send(addr).expect("the test listens");
        }
    });
    let run = async move { server.run(Router::new()).await.expect("it starts").outcome };
    let task = tokio::spawn(run);
    (events.recv().await.expect("an address"), task)
}

#[tokio::test]
async fn when_run_returns_the_port_is_free() {
    for preset in Preset::ALL {
        let (stop, stopped) = oneshot::channel::<()>();
        let server = Server::new(([127, 0, 0, 1], 0))
            .preset(preset)
            .lame_duck(std::time::Duration::ZERO)
            .stop_when(async { drop(stopped.await) });
        let (addr, task) = listening(server).await;
        // Somebody is connected and asks nothing.
        let _client = tokio::net::TcpStream::connect(addr).await.unwrap();
        stop.send(()).unwrap();
        task.await.unwrap();
        TcpListener::bind(addr).unwrap_or_else(|error| panic!("{preset}: {error}"));
    }
}

#[tokio::test]
async fn when_run_is_dropped_the_port_becomes_free() {
    for preset in Preset::ALL {
        let (addr, task) = listening(Server::new(([127, 0, 0, 1], 0)).preset(preset)).await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = TcpListener::bind(addr) {
            assert!(Instant::now() < deadline, "{preset}: {error}");
            tokio::task::yield_now().await;
        }
    }
}
