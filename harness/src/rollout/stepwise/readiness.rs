//! When a replica is ready: it says so itself, its health check does, or the port shows it.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Map;

use super::launcher::{Health, Launcher};
use super::port::{ExpectedListeners, Port, PortView};
use super::tracked_replica::{TrackedReplica, locked};
use crate::model::clock::Moment;
use crate::model::cohort::{CohortKind, Payload};
use crate::model::lifecycle::{LifecycleKind, Source};
use crate::rollout::error::RolloutError;
use crate::scenario::{Readiness, Scenario};

/// What an answer of readiness has to be.
const GOOD: RangeInclusive<u16> = 200..=299;

/// Tells when replicas are ready. Has to hear of every start and stop: what the port shows depends on them.
#[derive(Debug)]
pub(super) struct ReadinessProbe {
    readiness: Readiness,
    port: Port,
    /// The load's first request, and the status that answers it.
    first_request: Option<(String, u16)>,
}

impl ReadinessProbe {
    pub(super) fn of(scenario: &Scenario) -> Self {
        let headers = scenario.cohorts.first().map(|plan| plan.headers.clone()).unwrap_or_default();
        // Readiness is asked in HTTP/1.1, with a GET.
        let mut plans = scenario.cohorts.iter();
        let plan = plans.find(|plan| plan.kind != CohortKind::H2 && plan.payload == Payload::None);
        // Our own server serves when it says so, and its account has no request that the load did not send.
        let plan = plan.filter(|_| scenario.preset().is_none());
        Self {
            readiness: scenario.readiness.clone(),
            port: Port::of(&scenario.target, headers),
            first_request: plan.map(|plan| (path_of(&plan.url), plan.expectation.status)),
        }
    }

    /// Waits, for `patience` at most, until the target gives the first good answer: a text in a log or a health check may
    /// come before it, and what is lost until then belongs to no restart. The load shows an answer that never comes.
    pub(super) async fn wait_until_first_answer(&self, patience: Duration) {
        if let (Readiness::Log(_) | Readiness::Health, Some((path, status))) =
            (&self.readiness, &self.first_request)
        {
            let answered = self.port.until_answered(path, *status..=*status, ExpectedListeners::Alone);
            let _ = tokio::time::timeout(patience, answered).await;
        }
    }

    /// Checks that something can tell when a replica that was found running will be ready after its restart. Behind a proxy
    /// of the same network, the port cannot.
    pub(super) async fn check_found(
        &self,
        replica: &TrackedReplica,
        launcher: &dyn Launcher,
    ) -> Result<(), RolloutError> {
        let is_asked = match &self.readiness {
            Readiness::Log(_) | Readiness::Health => false,
            Readiness::Auto => launcher.health(replica).await?.is_none(),
            Readiness::Tcp | Readiness::Http(_) => true,
        };
        if !is_asked || !self.port.has_listener() || launcher.holds_the_port(replica).await? != Some(false) {
            return Ok(());
        }
        let reason = format!(
            "something else listens on the target's port and would answer in its place; {}",
            launcher.instead_of_the_port()
        );
        Err(RolloutError::UnknownReadiness { replica: replica.replica().name, reason })
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
                self.port.until_answered(path, GOOD, ExpectedListeners::Alone).await
            }
            Readiness::Http(path) => {
                let expected = self.shown(replica, launcher, others).await?;
                self.port.until_answered(path, GOOD, expected).await
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
            ExpectedListeners::Opaque => "something else answered on its port while it was down",
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

/// The path and query of a URL.
fn path_of(url: &str) -> String {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = after_scheme.find('/').map_or("/", |at| &after_scheme[at..]);
    path.split('#').next().unwrap_or(path).to_owned()
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::options::Options;

    #[tokio::test]
    async fn load_begins_with_the_first_good_answer_and_not_with_a_line_in_the_log() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = Options {
            image: Some("any".into()),
            url: Some(format!("http://{}/shop?q=1", listener.local_addr().unwrap())),
            cohort: vec!["h2,fresh".into()],
            ready: Some("log:listening".into()),
            ..Options::default()
        };
        let probe = ReadinessProbe::of(&Scenario::from_options(&options).unwrap());
        let serving = async {
            for status in [503, 404, 200] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let length = stream.read(&mut head).await.unwrap();
                assert!(head[..length].starts_with(b"GET /shop?q=1 HTTP/1.1\r\n"));
                let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        tokio::join!(serving, probe.wait_until_first_answer(Duration::from_secs(30)));
        probe.wait_until_first_answer(Duration::ZERO).await;
    }

    #[test]
    fn path_of_a_url_keeps_its_query() {
        assert_eq!(path_of("http://127.0.0.1:80"), "/");
        assert_eq!(path_of("http://[::1]:80/a/b?c=/d#e"), "/a/b?c=/d");
    }
}
