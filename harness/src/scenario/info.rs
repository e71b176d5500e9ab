//! What is told of a scenario.

use std::time::Duration;

use super::{Change, LaunchSource, Scenario, Subject};
use crate::model::scenario_info::{CohortInfo, ScenarioInfo};
use crate::options::{Options, redacted_url};

impl ScenarioInfo {
    /// What is told of a scenario. Without secrets.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Self {
        let image = scenario.subject.source().and_then(LaunchSource::image).map(ToOwned::to_owned);
        Self {
            subject: scenario.subject_name(),
            preset: scenario.preset().map(|preset| preset.name().to_owned()),
            image,
            replicas: scenario.replicas,
            rounds: scenario.rounds,
            url: redacted_url(&scenario.target.url),
            cohorts: scenario
                .cohorts
                .iter()
                .map(|plan| CohortInfo {
                    name: plan.kind.name().to_owned(),
                    rate: plan.rate,
                    concurrency: plan.concurrency,
                    url: redacted_url(&plan.url),
                })
                .collect(),
            seed: scenario.seed,
            options: scenario.options.redacted().said(),
        }
    }
}

impl Scenario {
    /// What was said, and what was taken by default where nothing was.
    pub(super) fn effective(&self, said: &Options) -> Options {
        let text = |duration: Duration| Some(humantime::format_duration(duration).to_string());
        let is_compose = matches!(self.subject, Subject::Compose { .. });
        let order = match &self.change {
            Change::Replace { order, .. } => Some(order.name().to_owned()),
            Change::Restart => None,
        };
        let runtime = match &self.subject {
            Subject::Compose { .. } => "compose",
            subject if subject.is_process() => "process",
            _ => "docker",
        };
        let longest = self.cohorts.iter().find(|plan| plan.kind.is_long()).map(|plan| plan.delay);
        Options {
            preset: self.preset().map(|preset| preset.name().to_owned()),
            runtime: Some(runtime.to_owned()),
            replicas: (!is_compose).then_some(self.replicas),
            order,
            rounds: Some(self.rounds),
            lead: text(self.timing.lead),
            settle: text(self.timing.settle),
            ready_timeout: text(self.timing.ready_timeout),
            ready: Some(self.readiness.to_string()),
            url: Some(self.target.url.clone()),
            cohort: self.cohorts.iter().map(|plan| format!("{}={}", plan.kind.name(), plan.rate)).collect(),
            concurrency: self.cohorts.first().map(|plan| plan.concurrency),
            request_timeout: text(self.timing.request_timeout),
            slow_delay: longest.and_then(text),
            expect_status: self.cohorts.first().map(|plan| plan.expectation.status),
            budget: self.budgets.iter().map(ToString::to_string).collect(),
            seed: Some(self.seed),
            ..said.clone()
        }
    }
}
