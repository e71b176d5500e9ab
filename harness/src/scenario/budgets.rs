//! The budgets of a run, and whether it can have what they count.

use super::{Change, ScenarioError};
use crate::model::budget::{Budget, Metric};
use crate::model::cohort::{CohortKind, CohortPlan};
use crate::model::phase::Phase;

/// The budgets that `texts` say, all of them over what a run of these cohorts and this change can have.
pub(super) fn from_texts(
    texts: &[String],
    cohorts: &[CohortPlan],
    change: &Change,
) -> Result<Vec<Budget>, ScenarioError> {
    let texts = if texts.is_empty() { &["failed==0".to_owned()] } else { texts };
    texts
        .iter()
        .map(|text| {
            let budget: Budget =
                text.parse().map_err(|error| ScenarioError::new("--budget", text, format!("{error}")))?;
            check_scope(&budget, cohorts, change)
                .map_err(|remedy| ScenarioError::new("--budget", text, remedy))?;
            Ok(budget)
        })
        .collect()
}

/// A budget over what cannot occur would always hold, or never: it is an error.
fn check_scope(budget: &Budget, cohorts: &[CohortPlan], change: &Change) -> Result<(), String> {
    let scope = budget.scope.as_deref();
    let in_scope = |plan: &&CohortPlan| scope.is_none_or(|scope| plan.kind.name() == scope);
    match budget.metric {
        Metric::Replayed => {
            let can_see = cohorts.iter().filter(in_scope).any(|plan| plan.kind.reuses_connections());
            return if can_see {
                Ok(())
            } else {
                Err("replays are counted for pooled, strict and h2 only, and none of them is meant here"
                    .to_owned())
            };
        }
        Metric::Unsent if !cohorts.iter().filter(in_scope).any(|plan| plan.kind == CohortKind::Strict) => {
            return Err("unsent requests are counted for strict only, and it is not meant here".to_owned());
        }
        Metric::Killed if scope.is_some() => {
            return Err("restarts are no cohort's and no phase's; write 'killed==0'".to_owned());
        }
        Metric::Killed | Metric::Unsent => return Ok(()),
        _ => {}
    }
    let is_cohort = scope.is_some_and(|scope| cohorts.iter().any(|plan| plan.kind.name() == scope));
    if !is_cohort && budget.metric.is_latency() && cohorts.iter().all(|plan| plan.kind.is_long()) {
        let name = cohorts.first().map_or("slow", |plan| plan.kind.name());
        return Err(format!(
            "latencies of cohorts that are slow on purpose count only where one is named, as in {name}.{budget}"
        ));
    }
    let Some(scope) = scope.filter(|_| !is_cohort) else { return Ok(()) };
    let phases = change.phases();
    if phases.iter().any(|phase| phase.name() == scope) {
        return Ok(());
    }
    let names: Vec<&str> = cohorts.iter().map(|plan| plan.kind.name()).collect();
    Err(format!(
        "this run has no `{scope}`; its cohorts are {}, its phases {}",
        names.join(", "),
        phases.map(Phase::name).join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::super::{Options, Order, Scenario};

    #[test]
    fn budget_over_what_cannot_occur_is_an_error() {
        let asked = |budget: &str, replace: Option<Order>, cohorts: &str| {
            let options = Options {
                budget: vec![budget.into()],
                replace: replace.map(|_| "next:1".into()),
                order: replace.map(|order| order.name().into()),
                cohort: vec![cohorts.into()],
                ..Options::default()
            };
            Scenario::from_options(&options).map(|_| ()).map_err(|error| error.to_string())
        };
        let refused = [
            ("overlap.failed==0", None, "fresh", "this run has no `overlap`"),
            ("overlap.failed==0", Some(Order::StopFirst), "fresh", "this run has no `overlap`"),
            ("gap.failed==0", Some(Order::StartFirst), "fresh", "this run has no `gap`"),
            ("replayed==0", None, "fresh,slow", "replays are counted for"),
            ("steady.replayed==0", None, "pooled", "replays are counted for"),
            ("fresh.killed==0", None, "fresh", "restarts are no cohort's"),
            ("unsent==0", None, "pooled", "unsent requests are counted for strict only"),
            ("max<1s", None, "slow", "latencies of cohorts that are slow on purpose"),
            ("gap.p(99)<1s", None, "slow,upload", "latencies of cohorts that are slow on purpose"),
        ];
        for (budget, replace, cohorts, told) in refused {
            let error = asked(budget, replace, cohorts).unwrap_err();
            assert!(error.starts_with("--budget: ") && error.contains(told), "{budget}: {error}");
        }
        let taken = [
            ("gap.failed==0", None, "fresh"),
            ("gap.failed==0", Some(Order::StopFirst), "fresh"),
            ("overlap.failed==0", Some(Order::StartFirst), "fresh"),
            ("replayed==0", None, "fresh,pooled"),
            ("killed==0", None, "fresh"),
            ("unsent==0", None, "fresh,strict"),
            ("draining.rate<0.1%", None, "fresh"),
            ("slow.max<4s", None, "slow"),
            ("max<1s", None, "slow,fresh"),
        ];
        for (budget, replace, cohorts) in taken {
            assert_eq!(asked(budget, replace, cohorts), Ok(()), "{budget}");
        }
    }
}
