//! What one container of the server does when it is told to stop, and what it says meanwhile.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{InFlight, ask, is_refused};
use crate::lab::{self, Outcome};
use crate::replica::Replica;

/// What `docker stop` gives a container before it kills it, here. A server that needs the kill is too late for
/// [`PROMPT`].
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// A server that ends at once has ended by then, also on a busy machine.
const PROMPT: Duration = Duration::from_secs(10);
/// A request that outlives every wait of a test: it ends only because the server does.
const ENDLESS: &str = "/?delay=30s";

#[test]
fn abrupt_server_as_pid_1_ends_at_once_and_drops_its_in_flight_request() -> Outcome {
    lab::run(async |lab| {
        let server = Replica::ready(lab, "normal", "a").await;
        let in_flight = InFlight::begin(lab, ENDLESS).await;
        let asked = Instant::now();
        server.stop(STOP_TIMEOUT).await;
        assert!(asked.elapsed() < PROMPT, "it had to be killed");
        assert_eq!(server.exit_code().await, 128 + 15);
        assert_eq!(in_flight.answer().await.unwrap(), "", "an empty reply");
    })
}

#[test]
fn draining_server_answers_its_in_flight_request_before_it_exits() -> Outcome {
    lab::run(async |lab| {
        let server = Replica::ready(lab, "graceful", "a").await;
        let in_flight = InFlight::begin(lab, "/?delay=2s").await;
        server.stop(STOP_TIMEOUT).await;
        assert_eq!(server.exit_code().await, 0);
        let answer = in_flight.answer().await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.trim_end().ends_with("hello world"),
            "{answer}"
        );
    })
}

/// The riddle of the seed: `Shutdown` makes `ListenAndServe` return at once, so a process that ends when that returns
/// (`log.Fatal`) ends while requests are running. Ours ends when the drain does.
#[test]
fn process_ends_when_the_drain_does_and_not_when_the_listener_does() -> Outcome {
    lab::run(async |lab| {
        let server = Replica::ready(lab, "graceful", "a").await;
        let in_flight = InFlight::begin(lab, "/?delay=2s").await;
        server.signal("SIGTERM").await;
        server.wait_for_event("listener_closed").await;
        assert!(server.is_running().await, "it ended with its listener");
        assert!(is_refused(lab).await);
        assert!(in_flight.answer().await.unwrap().contains("hello world"));
        assert_eq!(server.exit_code().await, 0);
        let log = server.log().await;
        assert_in_order(&log, &["signal_received", "listener_closed", "last_response", "drained", "exit"]);
        let ran_on = moment(&log, "last_response").saturating_sub(moment(&log, "listener_closed"));
        assert!(ran_on > Duration::from_secs(1), "only {ran_on:?} passed after the listener was closed");
    })
}

#[test]
fn drain_timeout_cuts_what_is_left_counts_it_and_exits_3() -> Outcome {
    lab::run(async |lab| {
        let env = [("HITLESS_DRAIN_TIMEOUT", "500ms")];
        let server = Replica::ready_with(lab, "graceful", "a", &env).await;
        let first = InFlight::begin(lab, ENDLESS).await;
        let second = InFlight::begin(lab, ENDLESS).await;
        server.stop(STOP_TIMEOUT).await;
        assert_eq!(server.exit_code().await, 3);
        for cut in [first, second] {
            match cut.answer().await {
                Ok(answer) => assert_eq!(answer, ""),
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
        }
        let log = server.log().await;
        assert_in_order(&log, &["draining", "drain_timeout", "exit"]);
        let timeout = log.iter().find(|line| line["event"] == "drain_timeout").unwrap();
        assert!(numbers(timeout).contains(&2), "no count of the 2 that were cut in {timeout}");
    })
}

#[test]
fn second_signal_ends_a_drain_at_once() -> Outcome {
    lab::run(async |lab| {
        let env = [("HITLESS_DRAIN_TIMEOUT", "60s")];
        let server = Replica::ready_with(lab, "graceful", "a", &env).await;
        let _in_flight = InFlight::begin(lab, ENDLESS).await;
        server.signal("SIGTERM").await;
        server.wait_for_event("draining").await;
        let asked = Instant::now();
        server.signal("SIGTERM").await;
        assert_eq!(server.exit_code().await, 128 + 15);
        assert!(asked.elapsed() < PROMPT);
    })
}

#[test]
fn sigint_drains_as_sigterm_does() -> Outcome {
    lab::run(async |lab| {
        let server = Replica::ready(lab, "graceful", "a").await;
        let in_flight = InFlight::begin(lab, "/?delay=1s").await;
        server.signal("SIGINT").await;
        assert!(in_flight.answer().await.unwrap().contains("hello world"));
        assert_eq!(server.exit_code().await, 0);
    })
}

#[test]
fn log_tells_the_life_of_a_replica_in_order_on_the_clock_of_the_machine() -> Outcome {
    lab::run(async |lab| {
        let before = monotonic_now();
        let server = Replica::ready(lab, "graceful", "a").await;
        assert!(ask(lab, "/").await.unwrap().contains("hello world"));
        server.stop(STOP_TIMEOUT).await;
        server.exit_code().await;
        let log = server.log().await;
        let life = [
            "starting",
            "listening",
            "ready",
            "signal_received",
            "draining",
            "listener_closed",
            "drained",
            "exit",
        ];
        assert_in_order(&log, &life);
        let moments: Vec<u64> = log.iter().map(|line| line["mono_ns"].as_u64().unwrap()).collect();
        assert!(moments.first().unwrap() > &before && moments.last().unwrap() < &monotonic_now());
    })
}

#[test]
fn health_is_that_of_the_replica_although_the_port_is_shared() -> Outcome {
    const HEALTH: [&str; 2] = ["/hitless-server", "health"];
    lab::run(async |lab| {
        let old = Replica::ready(lab, "reuseport", "old").await;
        // Begun while the old one is alone, so that it is surely the one that has it.
        let in_flight = InFlight::begin(lab, "/?delay=15s").await;
        let new = Replica::ready(lab, "reuseport", "new").await;
        assert_eq!((old.exec(&HEALTH).await, new.exec(&HEALTH).await), (0, 0));
        old.signal("SIGTERM").await;
        old.wait_for_event("listener_closed").await;
        assert_eq!((old.exec(&HEALTH).await, new.exec(&HEALTH).await), (1, 0));
        drop(in_flight);
    })
}

#[test]
fn engine_sees_two_healthy_replicas_on_one_port() -> Outcome {
    lab::run(async |lab| {
        let a = Replica::ready(lab, "reuseport", "a").await;
        let b = Replica::ready(lab, "reuseport", "b").await;
        a.wait_until_health_is("healthy").await;
        b.wait_until_health_is("healthy").await;
    })
}

#[test]
fn exclusive_port_that_is_taken_is_one_line_and_exit_code_1() -> Outcome {
    lab::run(async |lab| {
        let _taken = TcpListener::bind(("127.0.0.1", lab.port)).unwrap();
        let server = Replica::ended(lab, "graceful", "a", &[]).await;
        assert_eq!(server.exit_code().await, 1);
        assert_one_line_about(&server, &lab.port.to_string()).await;
    })
}

#[test]
fn setting_that_makes_no_sense_is_named_with_its_value_and_is_exit_code_2() -> Outcome {
    lab::run(async |lab| {
        let server = Replica::ended(lab, "graceful", "a", &[("HITLESS_DRAIN_TIMEOUT", "soon")]).await;
        assert_eq!(server.exit_code().await, 2);
        let stderr = server.stderr().await;
        assert!(stderr.contains("drain-timeout") && stderr.contains("soon"), "{stderr}");
    })
}

#[test]
fn image_is_one_small_binary_for_a_user_without_rights() -> Outcome {
    const MOST: i64 = 4 * 1024 * 1024;
    lab::run(async |lab| {
        let server = Replica::ready(lab, "normal", "a").await;
        let image = lab.docker.inspect_image("hitless-server:latest").await.unwrap();
        let size = image.size.unwrap();
        assert!(size <= MOST, "{size} bytes");
        let config = image.config.unwrap();
        assert_eq!(config.user.as_deref(), Some("65532:65532"));
        assert_eq!(config.stop_signal.as_deref(), Some("SIGTERM"));
        // Nothing but the binary: there is no shell to be had.
        assert_ne!(server.exec(&["/bin/sh", "-c", "true"]).await, 0);
    })
}

/// Fails unless these events are in the log in this order, and the log's clock never goes back.
fn assert_in_order(log: &[Value], expected: &[&str]) {
    let told: Vec<&str> = log.iter().map(|line| line["event"].as_str().unwrap()).collect();
    let mut rest = told.iter();
    for event in expected {
        assert!(rest.any(|told| told == event), "`{event}` is missing, or out of order, in {told:?}");
    }
    // The last response is told when it is known to have been the last, with the moment at which it was sent.
    let as_they_happened = log.iter().filter(|line| line["event"] != "last_response");
    assert!(
        as_they_happened.is_sorted_by_key(|line| line["mono_ns"].as_u64()),
        "the clock went back: {log:?}"
    );
}

/// When this event happened, on the machine's monotonic clock.
fn moment(log: &[Value], event: &str) -> Duration {
    let line = log.iter().find(|line| line["event"] == event).unwrap();
    Duration::from_nanos(line["mono_ns"].as_u64().unwrap())
}

/// All whole numbers of a log line.
fn numbers(line: &Value) -> Vec<u64> {
    line.as_object().unwrap().values().filter_map(Value::as_u64).collect()
}

async fn assert_one_line_about(server: &Replica<'_>, word: &str) {
    let stderr = server.stderr().await;
    assert!(stderr.lines().count() == 1 && stderr.contains(word), "one line about {word}: {stderr}");
}

/// `CLOCK_MONOTONIC` in nanoseconds.
fn monotonic_now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}
