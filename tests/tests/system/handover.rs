//! What `handover` promises: restarts and upgrades that no client notices, under every kind of connection.

use crate::hitless::{Ended, Hitless};
use crate::lab::{self, Outcome};

/// Every kind of request that is short, and some that are in flight over each restart.
const LOAD: [&str; 6] = ["--rate", "150", "--slow-delay", "200ms", "--settle", "0ms"];

#[test]
fn fifty_restarts_lose_nothing_and_close_no_kept_connection() -> Outcome {
    lab::run(async |lab| {
        let cohorts = ["--cohort", "fresh,pooled,strict,h2,slow=20", "--rounds", "25"];
        let ended = Hitless::run(lab, &[&LOAD[..], &cohorts].concat()).conclude().await;
        assert_nothing_lost(&ended, 50);
        let report = ended.report();
        assert_eq!(report.cohort_total("strict", "closed_idle"), 0, "a kept connection was closed: {ended}");
    })
}

#[test]
fn upgrade_there_and_back_loses_nothing_in_either_order() -> Outcome {
    lab::run(async |lab| {
        let next = "hitless-server:next";
        Hitless::new(lab, &["image", "--tag", next]).end().await.assert_exit_code(0);
        for order in ["start-first", "stop-first"] {
            let replace = [
                "--replace",
                next,
                "--order",
                order,
                "--rounds",
                "2",
                "--cohort",
                "fresh,pooled,strict,slow=20",
            ];
            let ended = Hitless::run(lab, &[&LOAD[..], &replace].concat()).conclude().await;
            assert_nothing_lost(&ended, 4);
        }
    })
}

#[test]
fn uploads_and_streams_under_way_arrive_whole() -> Outcome {
    lab::run(async |lab| {
        let load = ["--cohort", "upload=10,stream=10", "--slow-delay", "1s", "--rounds", "2"];
        let ended = Hitless::run(lab, &load).conclude().await;
        assert_nothing_lost(&ended, 4);
    })
}

fn assert_nothing_lost(ended: &Ended, restarts: usize) {
    ended.assert_exit_code(0);
    let report = ended.report();
    assert_eq!(report.total("failed"), 0, "{ended}");
    assert_eq!(report.restarts().len(), restarts, "{ended}");
}
