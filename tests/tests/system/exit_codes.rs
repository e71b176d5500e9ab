//! The exit code of `hitless` says what came of a run: 0 pass, 1 a budget is broken, 2 usage, 3 environment (see
//! `bad_environment`), 4 inconclusive.

use crate::hitless::Hitless;
use crate::lab::{self, Outcome};

#[test]
fn kept_budget_is_exit_code_0_and_the_same_run_with_a_broken_one_is_1() -> Outcome {
    lab::run(async |lab| {
        let load = ["--preset", "reuseport", "--rounds", "1", "--rate", "400", "--cohort", "fresh"];
        let kept = Hitless::run(lab, &[&load[..], &["--budget", "refused==0"]].concat()).end().await;
        kept.assert_held();
        drop(kept);
        let broken = Hitless::run(lab, &[&load[..], &["--budget", "requests==0"]].concat()).end().await;
        broken.assert_exit_code(1);
        assert_eq!(broken.report().verdict(), "fail");
    })
}

#[test]
fn usage_error_is_exit_code_2_and_names_the_flag_and_the_value() -> Outcome {
    lab::run(async |lab| {
        for (flag, value) in
            [("--preset", "sloppy"), ("--rounds", "many"), ("--budget", "refused~0"), ("--cohort", "stale")]
        {
            let ended = Hitless::run(lab, &[flag, value]).end().await;
            ended.assert_exit_code(2);
            let said = &ended.stderr;
            assert!(said.contains(flag.trim_start_matches('-')) && said.contains(value), "{ended}");
        }
        assert!(lab.containers().await.is_empty());
    })
}

#[test]
fn budget_about_something_that_does_not_exist_is_a_usage_error() -> Outcome {
    lab::run(async |lab| {
        let ended = Hitless::run(lab, &["--budget", "regrets==0"]).end().await;
        ended.assert_exit_code(2);
        assert!(ended.stderr.contains("regrets"), "{ended}");
    })
}

#[test]
fn run_that_could_not_have_seen_a_failure_is_exit_code_4() -> Outcome {
    lab::run(async |lab| {
        let load = ["--preset", "reuseport", "--rounds", "1", "--rate", "1", "--cohort", "fresh"];
        let ended = Hitless::run(lab, &[&load[..], &["--budget", "refused==0"]].concat()).end().await;
        ended.assert_exit_code(4);
        assert_eq!(ended.report().verdict(), "inconclusive");
    })
}
