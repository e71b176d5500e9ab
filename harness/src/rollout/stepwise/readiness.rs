//! When a replica is ready: it says so itself, its health check does, or the port shows it.

use std::time::Duration;

use serde_json::Map;

use super::launcher::{Health, Launcher};
use super::port::{ExpectedListeners, Port, PortView};
use super::tracked_replica::{TrackedReplica, locked};
use crate::model::clock::Moment;
use crate::model::lifecycle::{LifecycleKind, Source};
use crate::rollout::error::RolloutError;
use crate::scenario::{Readiness, Scenario};

/// Tells when replicas are ready. Has to hear of every start and stop: what the port shows depends on them.
#[derive(Debug)]
pub(super) struct ReadinessProbe {
    readiness: Readiness,
    port: Port,
}

impl ReadinessProbe {
    pub(super) fn of(scenario: &Scenario) -> Self {
        let headers = scenario.cohorts.first().map(|plan| plan.headers.clone()).unwrap_or_default();
        Self { readiness: scenario.readiness.clone(), port: Port::of(&scenario.target, headers) }
    }

    /// The text that says that a replica is ready, if one does.
    pub(super) fn text(&self) -> Option<String> {
        match &self.readiness {
            Readiness::Log(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// A replica is about to start beside so many others.
    pub(super) fn before_start(&self, replica: &TrackedReplica, others: usize) {
        *locked(&replica.expected_listeners) = self.port.expected_after_start(others);
    }

    /// A replica is about to stop.
    pub(super) fn before_stop(&self) {
        self.port.note_before_stop();
    }

    /// Those that start from now on come in addition: what the port showed before the last stop says nothing of them.
    pub(super) fn forget_stop(&self) {
        self.port.forget_stop();
    }

    /// Waits until a replica beside `others` is ready.
    pub(super) async fn wait_until_ready(
        &self,
        replica: &TrackedReplica,
        launcher: &dyn Launcher,
        others: impl Fn() -> usize + Send + Sync,
        patience: Duration,
    ) -> Result<Moment, RolloutError> {
        let ready = self.ready(replica, launcher, others);
        tokio::select! {
            biased;
            ready = ready => ready,
            died = replica.death() => Err(died),
            () = tokio::time::sleep(patience) => Err(RolloutError::NotReady {
                replica: replica.replica().name,
                patience,
                reason: self.waited_for(replica),
            }),
        }
    }

    fn waited_for(&self, replica: &TrackedReplica) -> String {
        let last_words = locked(&replica.tail).last_words();
        match &self.readiness {
            Readiness::Auto | Readiness::Tcp | Readiness::Http(_) => {
                let lacks = self.port.lacks(*locked(&replica.expected_listeners));
                format!("waited for {}{lacks}{last_words}", self.readiness)
            }
            Readiness::Log(_) | Readiness::Health => format!("waited for {}{last_words}", self.readiness),
        }
    }

    async fn ready(
        &self,
        replica: &TrackedReplica,
        launcher: &dyn Launcher,
        others: impl Fn() -> usize + Send + Sync,
    ) -> Result<Moment, RolloutError> {
        let at = match &self.readiness {
            Readiness::Log(_) => replica.said_ready().await,
            Readiness::Health => healthy(replica, launcher).await?,
            Readiness::Auto if launcher.health(replica).await?.is_some() => tokio::select! {
                at = replica.said_ready() => at,
                at = healthy(replica, launcher) => at?,
            },
            Readiness::Auto | Readiness::Tcp if launcher.listens_by_itself(replica).await?.is_some() => {
                until_it_listens(replica, launcher).await?
            }
            Readiness::Auto | Readiness::Tcp => {
                self.shown(replica, launcher, others).await?;
                self.port.until_connected().await
            }
            Readiness::Http(path) if launcher.listens_by_itself(replica).await?.is_some() => {
                // Whoever answers at the target's port, the replica has to be able to.
                until_it_listens(replica, launcher).await?;
                self.port.until_answered(path, ExpectedListeners::Alone).await
            }
            Readiness::Http(path) => {
                let expected = self.shown(replica, launcher, others).await?;
                self.port.until_answered(path, expected).await
            }
        };
        let is_known = replica.life.borrow().ready == Some(at);
        if !is_known {
            replica.tell(at, LifecycleKind::Ready, Source::Harness, Map::new());
        }
        Ok(at)
    }

    /// The port shows the replica's listener beside those of the others; nobody can answer for one that is alone.
    async fn shown(
        &self,
        replica: &TrackedReplica,
        launcher: &dyn Launcher,
        others: impl Fn() -> usize + Send + Sync,
    ) -> Result<ExpectedListeners, RolloutError> {
        let expected = *locked(&replica.expected_listeners);
        let why = match expected {
            ExpectedListeners::Opaque => "others answered on its port while it was down",
            _ => match self.port.until_shown(expected).await {
                PortView::Shown => return Ok(expected),
                PortView::Blind if others() == 0 => return Ok(ExpectedListeners::Alone),
                PortView::Blind => {
                    "the listeners of its port cannot be seen from here, and others answer there"
                }
            },
        };
        let reason = format!("{why}, so the port cannot tell; {}", launcher.instead_of_the_port());
        Err(RolloutError::UnknownReadiness { replica: replica.replica().name, reason })
    }
}

/// Waits until the replica listens in its own network namespace: a proxy's answer, or that of the engine's port, is not its
/// own.
async fn until_it_listens(replica: &TrackedReplica, launcher: &dyn Launcher) -> Result<Moment, RolloutError> {
    const LOOK_EVERY: Duration = Duration::from_millis(10);
    while launcher.listens_by_itself(replica).await? == Some(false) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(Moment::now())
}

/// The replica's health check says that it is healthy. An engine's events of that may be late or missing, so it is asked,
/// and asking costs it little.
async fn healthy(replica: &TrackedReplica, launcher: &dyn Launcher) -> Result<Moment, RolloutError> {
    const ASK_EVERY: Duration = Duration::from_millis(50);
    loop {
        match launcher.health(replica).await? {
            Some(Health::Healthy) => return Ok(Moment::now()),
            Some(Health::NotHealthy) => tokio::time::sleep(ASK_EVERY).await,
            None => {
                return Err(replica.failed(
                    "check the health of",
                    "its image has no health check; use --ready tcp, http:/PATH or log:TEXT",
                ));
            }
        }
    }
}
