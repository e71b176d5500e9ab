//! What is told of a scenario.

use super::{Origin, Scenario};
use crate::model::scenario_info::{CohortInfo, ScenarioInfo};

impl ScenarioInfo {
    /// What is told of a scenario.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Self {
        let image = scenario.subject.origin().and_then(Origin::image).map(ToOwned::to_owned);
        Self {
            subject: scenario.subject_name(),
            preset: scenario.preset().map(|preset| preset.name().to_owned()),
            image,
            replicas: scenario.replicas,
            rounds: scenario.rounds,
            url: scenario.target.url.clone(),
            cohorts: scenario
                .cohorts
                .iter()
                .map(|plan| CohortInfo {
                    name: plan.kind.name().to_owned(),
                    rate: plan.rate,
                    concurrency: plan.concurrency,
                    url: plan.url.clone(),
                })
                .collect(),
            seed: scenario.seed,
        }
    }
}
