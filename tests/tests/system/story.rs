//! The story of the three presets, told by curl as a person sees it.

use std::time::Duration;

use crate::client::Curl;
use crate::lab::{self, Outcome};
use crate::replica::Replica;

/// Longer than any drain here: nobody is killed in this story.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn normal_answers_the_running_request_with_an_empty_reply() -> Outcome {
    lab::run(async |lab| {
        let server = Replica::ready(lab, "normal", "a").await;
        let running = Curl::in_flight(lab, "/?delay=20s").await;
        server.stop(STOP_TIMEOUT).await;
        let end = running.end().await;
        assert_eq!((end.code, end.message.as_str()), (Some(52), "curl: (52) Empty reply from server"));
    })
}

#[test]
fn graceful_finishes_the_running_request_and_refuses_the_next() -> Outcome {
    lab::run(async |lab| {
        let server = Replica::ready(lab, "graceful", "a").await;
        let running = Curl::in_flight(lab, "/?delay=3s").await;
        server.signal("SIGTERM").await;
        server.wait_for_event("listener_closed").await;
        let next = Curl::start(lab, "/").end().await;
        assert_eq!(next.code, Some(7), "{}", next.message);
        let running = running.end().await;
        assert_eq!((running.code, running.body.trim_end()), (Some(0), "hello world"));
        assert_eq!(server.exit_code().await, 0);
    })
}

#[test]
fn reuseport_finishes_the_running_request_and_the_sibling_answers_the_next() -> Outcome {
    lab::run(async |lab| {
        let old = Replica::ready(lab, "reuseport", "old").await;
        // Begun while the old one is alone, so that it is surely the one that has it.
        let running = Curl::in_flight(lab, "/?delay=3s").await;
        let new = Replica::ready(lab, "reuseport", "new").await;
        old.signal("SIGTERM").await;
        old.wait_for_event("listener_closed").await;
        for _ in 0..20 {
            let next = Curl::start(lab, "/").end().await;
            assert_eq!((next.code, next.body.trim_end()), (Some(0), "hello world"), "{}", next.message);
        }
        let running = running.end().await;
        assert_eq!((running.code, running.body.trim_end()), (Some(0), "hello world"));
        assert_eq!(old.exit_code().await, 0);
        assert!(new.is_running().await);
    })
}
