//! What a public server must bear, and what it says when it cannot start.

use crate::support::{Replica, command, run, unique};

#[test]
fn every_answer_names_its_replica_and_version() {
    let replica = Replica::start(&["--max-body", "10"]);
    let mut client = replica.connect();
    for (path, status) in [("/", 200), ("/nowhere", 404), ("/?delay=31s", 400), ("/?delay=soon", 400)] {
        let answer = client.get(path);
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.replica(), replica.name);
        assert_eq!(answer.header("x-replica-version"), Some(env!("CARGO_PKG_VERSION")));
    }
    client.send("POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 11\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.replica()), (413, replica.name.as_str()));
}

#[test]
fn hello_world_is_eleven_bytes_of_text() {
    let replica = Replica::start(&[]);
    let answer = replica.connect().get("/");
    assert_eq!(answer.text(), "hello world");
    assert_eq!(answer.header("content-length"), Some("11"));
    assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
}

#[test]
fn what_a_request_calls_itself_is_repeated_in_its_answer() {
    let replica = Replica::start(&[]);
    let mut client = replica.connect();
    for path in ["/", "/stream?bytes=3"] {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\nx-request-id: 4711\r\n\r\n"));
        assert_eq!(client.answer().header("x-request-id"), Some("4711"), "{path}");
    }
    client.send("POST /upload HTTP/1.1\r\nhost: test\r\nx-request-id: 12\r\ncontent-length: 3\r\n\r\nabc");
    assert_eq!(client.answer().header("x-request-id"), Some("12"));
    assert_eq!(client.get("/").header("x-request-id"), None, "a request without one");
}

#[test]
fn a_body_above_the_limit_is_413_also_when_its_length_is_not_announced() {
    let replica = Replica::start(&["--max-body", "10"]);
    let mut client = replica.connect();
    client.send("POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n0123456789");
    assert!(client.answer().text().starts_with("10 "));
    client.send("POST /upload HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n");
    assert_eq!(client.answer().status, 413);
}

#[test]
fn a_head_above_the_limit_is_431() {
    let replica = Replica::start(&["--max-head", "8192"]);
    let mut client = replica.connect();
    client.send(format!("GET / HTTP/1.1\r\nhost: test\r\nx-long: {}\r\n\r\n", "x".repeat(7000)));
    assert_eq!(client.answer().status, 200);
    client.send(format!("GET / HTTP/1.1\r\nhost: test\r\nx-long: {}\r\n\r\n", "x".repeat(8192)));
    assert_eq!(client.answer().status, 431);
}

#[test]
fn a_head_that_takes_too_long_is_408_and_an_idle_connection_stays() {
    let replica = Replica::start(&["--head-timeout", "200ms"]);
    let mut idle = replica.connect();
    idle.get("/");
    let mut slow = replica.connect();
    slow.get("/");
    slow.send("GET / HT");
    let answer = slow.answer();
    assert_eq!((answer.status, answer.replica(), answer.is_last()), (408, replica.name.as_str(), true));
    slow.wait_until_closed();
    let mut first = replica.connect();
    first.send("GET / HT");
    let answer = first.answer();
    assert_eq!((answer.status, answer.replica(), answer.is_last()), (408, replica.name.as_str(), true));
    assert_eq!(idle.get("/").status, 200);
}

#[test]
fn a_connection_without_requests_is_closed_after_the_idle_timeout() {
    let replica = Replica::start(&["--idle-timeout", "200ms"]);
    let mut client = replica.connect();
    client.get("/");
    client.wait_until_closed();
    assert_eq!(replica.account()["connections_closed_idle"], 1);
}

#[test]
fn at_the_limit_on_connections_a_client_waits_and_is_then_served() {
    let mut replica = Replica::start(&["--max-connections", "2"]);
    let mut open = [replica.connect(), replica.connect()];
    for client in &mut open {
        assert_eq!(client.get("/").status, 200);
    }
    let mut waiting = replica.connect();
    waiting.ask("/");
    assert_eq!(replica.wait_for("connection_limit")["max_connections"], 2);
    assert_eq!(replica.account()["accepted"], 2);
    drop(open);
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn garbage_is_400_and_changes_nothing() {
    let replica = Replica::start(&[]);
    let mut client = replica.connect();
    client.send("\x01\x02\x03 garbage\r\n\r\n");
    assert_eq!(client.answer().status, 400);
    assert_eq!(replica.connect().get("/").status, 200);
}

#[test]
fn metrics_and_account_count_requests() {
    let replica = Replica::start(&[]);
    let mut client = replica.connect();
    client.get("/");
    client.get("/");
    let account = replica.account();
    assert_eq!(
        (&account["begun"], &account["answered"], &account["state"]),
        (&2.into(), &2.into(), &"ready".into())
    );
    let (status, text) = replica.ask("/metrics");
    assert_eq!(status, 200);
    assert!(
        text.contains(&format!("hitless_requests_answered_total{{replica=\"{}\"}} 2", replica.name)),
        "{text}"
    );
}

#[test]
fn a_client_that_goes_away_is_an_aborted_request() {
    let replica = Replica::start(&[]);
    let mut client = replica.connect();
    client.ask("/?delay=20s");
    replica.wait_until_in_flight(1);
    drop(client);
    let account = replica.wait_until("aborted", |account| account["aborted"] == 1);
    assert_eq!(account["in_flight"], 0);
}

/// A replica that stops reads nothing beyond the request under way, but the end it must see.
#[test]
fn a_client_that_goes_away_during_a_drain_is_not_waited_for() {
    for preset in ["graceful", "handover"] {
        let mut replica = Replica::start(&["--preset", preset]);
        let _sibling = (preset == "handover")
            .then(|| Replica::start_at(&replica.addr.to_string(), &["--preset", preset]));
        // The kernel chooses whose connections they are.
        let mut clients: Vec<_> = (0..64).map(|_| replica.connect()).collect();
        for client in &mut clients {
            client.ask("/?delay=20s");
        }
        let is_busy = |account: &serde_json::Value| account["in_flight"] == account["connections"];
        replica.wait_until("busy", |account| account["in_flight"] != 0 && is_busy(account));
        replica.terminate();
        replica.wait_for(if preset == "handover" { "handover_begun" } else { "listener_closed" });
        drop(clients);
        let (code, exit) = replica.wait();
        assert_eq!(
            (code, &exit["cut"], &exit["aborted"]),
            (0, &0.into(), &exit["begun"]),
            "{preset}: {exit:#}"
        );
    }
}

/// Runs to a failure and returns its exit code and the one line that it says.
fn fails(args: &[&str]) -> (i32, String) {
    let output = run(args);
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), line)
}

#[test]
fn a_taken_port_is_exit_code_1_and_one_line_with_a_remedy() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap().to_string();
    let (code, line) = fails(&["--listen", &addr, "--name", &unique("late")]);
    assert_eq!(code, 1);
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(
        line.starts_with(&format!("error: failed to listen on {addr}")) && line.contains("--listen"),
        "{line}"
    );
}

#[test]
fn an_address_of_another_host_is_exit_code_1() {
    let (code, line) = fails(&["--listen", "192.0.2.1:8080", "--name", &unique("lost")]);
    assert_eq!((code, line.lines().count()), (1, 1), "{line}");
    assert!(line.contains("192.0.2.1:8080"), "{line}");
}

#[test]
fn a_replica_whose_admin_name_is_taken_serves_and_says_so() {
    let first = Replica::start(&[]);
    let mut second = Replica::start_named(&first.name, "127.0.0.1:0", &[]);
    assert!(second.events().contains(&"admin_unavailable"));
    assert_eq!(second.connect().get("/").status, 200);
    drop(first);
    second.wait_for("admin_listening");
    assert_eq!(second.account()["accepted"], 1);
}

#[test]
fn mistakes_in_usage_are_exit_code_2() {
    for (args, named) in [
        (&["--listen", "nowhere"][..], "--listen"),
        (&["--no-such-flag"], "--no-such-flag"),
        (&["--preset", "brutal"], "brutal"),
    ] {
        let (code, text) = fails(args);
        assert_eq!(code, 2, "{args:?}");
        assert!(text.starts_with("error: ") && text.contains(named), "{text}");
    }
}

#[test]
fn the_environment_is_as_good_as_flags() {
    let output = command().env("HITLESS_PRESET", "brutal").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("brutal"));
    let name = unique("env");
    let output = command().arg("health").env("HITLESS_NAME", &name).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains(&name));
}
