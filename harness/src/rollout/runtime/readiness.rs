//! When a replica is ready: it says so itself, its health check does, or the port shows it.

use std::time::Duration;

use serde_json::Map;

use super::RuntimeError;
use super::probe::{Crowd, Port, Sight};
use super::watched::{Watched, locked};
use crate::model::clock::Moment;
use crate::model::lifecycle::{LifecycleKind, Source};
use crate::scenario::{Readiness, Scenario};

/// A check of one replica's health by whoever runs it.
pub(super) trait HealthCheck: Sync {
    /// What a replica should have if its port cannot tell.
    const INSTEAD_OF_THE_PORT: &'static str;

    /// What the check says now; none if there is no check.
    fn health(&self) -> impl Future<Output = Result<Option<Health>, RuntimeError>> + Send;

    /// Whether the replica listens in a network namespace of its own, where the target's port belongs to a proxy or to the
    /// engine; none if it has the harness's namespace.
    fn listens_by_itself(&self) -> impl Future<Output = Result<Option<bool>, RuntimeError>> + Send;
}

/// What the check of its health says of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Healthy,
    /// It is not healthy, or not yet.
    NotHealthy,
}

/// Tells when replicas are ready. Has to hear of every start and stop: what the port shows depends on them.
#[derive(Debug)]
pub(super) struct Gate {
    readiness: Readiness,
    port: Port,
}

impl Gate {
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
    pub(super) fn before_start(&self, watched: &Watched, others: usize) {
        *locked(&watched.crowd) = self.port.crowd_of_start(others);
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
        watched: &Watched,
        check: &impl HealthCheck,
        others: impl Fn() -> usize + Send + Sync,
        patience: Duration,
    ) -> Result<Moment, RuntimeError> {
        let ready = self.ready(watched, check, others);
        tokio::select! {
            biased;
            ready = ready => ready,
            died = watched.death() => Err(died),
            () = tokio::time::sleep(patience) => Err(RuntimeError::NotReady {
                replica: watched.replica().name,
                patience,
                reason: self.waited_for(watched),
            }),
        }
    }

    fn waited_for(&self, watched: &Watched) -> String {
        let last_words = locked(&watched.tail).last_words();
        match &self.readiness {
            Readiness::Auto | Readiness::Tcp | Readiness::Http(_) => {
                let lacks = self.port.lacks(*locked(&watched.crowd));
                format!("waited for {}{lacks}{last_words}", self.readiness)
            }
            Readiness::Log(_) | Readiness::Health => format!("waited for {}{last_words}", self.readiness),
        }
    }

    async fn ready<C: HealthCheck>(
        &self,
        watched: &Watched,
        check: &C,
        others: impl Fn() -> usize + Send + Sync,
    ) -> Result<Moment, RuntimeError> {
        let at = match &self.readiness {
            Readiness::Log(_) => watched.said_ready().await,
            Readiness::Health => healthy(watched, check).await?,
            Readiness::Auto if check.health().await?.is_some() => tokio::select! {
                at = watched.said_ready() => at,
                at = healthy(watched, check) => at?,
            },
            Readiness::Auto | Readiness::Tcp if check.listens_by_itself().await?.is_some() => {
                until_it_listens(check).await?
            }
            Readiness::Auto | Readiness::Tcp => {
                self.crowded::<C>(watched, others).await?;
                self.port.until_connected().await
            }
            Readiness::Http(path) if check.listens_by_itself().await?.is_some() => {
                // Whoever answers at the target's port, the replica has to be able to.
                until_it_listens(check).await?;
                self.port.until_answered(path, Crowd::Alone).await
            }
            Readiness::Http(path) => {
                let crowd = self.crowded::<C>(watched, others).await?;
                self.port.until_answered(path, crowd).await
            }
        };
        let is_known = watched.life.borrow().ready == Some(at);
        if !is_known {
            watched.tell(at, LifecycleKind::Ready, Source::Harness, Map::new());
        }
        Ok(at)
    }

    /// The port shows the replica's listener beside those of the others; nobody can answer for one that is alone.
    async fn crowded<C: HealthCheck>(
        &self,
        watched: &Watched,
        others: impl Fn() -> usize + Send + Sync,
    ) -> Result<Crowd, RuntimeError> {
        let crowd = *locked(&watched.crowd);
        let why = match crowd {
            Crowd::Opaque => "others answered on its port while it was down",
            _ => match self.port.until_shown(crowd).await {
                Sight::Shown => return Ok(crowd),
                Sight::Blind if others() == 0 => return Ok(Crowd::Alone),
                Sight::Blind => "the listeners of its port cannot be seen from here, and others answer there",
            },
        };
        let reason = format!("{why}, so the port cannot tell; {}", C::INSTEAD_OF_THE_PORT);
        Err(watched.failed("tell the readiness of", reason))
    }
}

/// Waits until the replica listens in its own network namespace: a proxy's answer, or that of the engine's port, is not its
/// own.
async fn until_it_listens(check: &impl HealthCheck) -> Result<Moment, RuntimeError> {
    const LOOK_EVERY: Duration = Duration::from_millis(10);
    while check.listens_by_itself().await? == Some(false) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(Moment::now())
}

/// The replica's health check says that it is healthy. An engine's events of that may be late or missing, so it is asked,
/// and asking costs it little.
async fn healthy(watched: &Watched, check: &impl HealthCheck) -> Result<Moment, RuntimeError> {
    const ASK_EVERY: Duration = Duration::from_millis(50);
    loop {
        match check.health().await? {
            Some(Health::Healthy) => return Ok(Moment::now()),
            Some(Health::NotHealthy) => tokio::time::sleep(ASK_EVERY).await,
            None => {
                return Err(watched.failed(
                    "check the health of",
                    "its image has no health check; use --ready tcp, http:/PATH or log:TEXT",
                ));
            }
        }
    }
}
