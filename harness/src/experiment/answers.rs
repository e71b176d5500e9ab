//! When a replica has answered: what the recorder sees of it, and the fresh connections that bring it requests.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::model::clock::Moment;
use crate::model::fresh_connections::FreshConnectionRequests;
use crate::model::sink::Sink;
use crate::record::recorder::Recorder;
use crate::rollout::AnswerWatch;

/// How long a replica that is ready may go without a request before clients are asked to open new connections.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Follows the answers that a recorder sees.
#[derive(Debug)]
pub(super) struct RecordedAnswers<'a> {
    pub(super) recorder: &'a Recorder,
    pub(super) fresh_connections: &'a FreshConnectionRequests,
}

impl AnswerWatch for RecordedAnswers<'_> {
    /// Clients that keep their connections are asked to open new ones meanwhile.
    fn wait_until_answered<'a>(
        &'a self,
        replica: &'a Arc<str>,
        since: Moment,
        patience: Duration,
    ) -> BoxFuture<'a, bool> {
        self.wait(replica, since, patience).boxed()
    }
}

impl RecordedAnswers<'_> {
    async fn wait(&self, replica: &str, since: Moment, patience: Duration) -> bool {
        let _short_interval = self.recorder.shorten_interval();
        let since = since.relative_to(self.recorder.zero());
        let mut live = self.recorder.live();
        let ask = async {
            loop {
                tokio::time::sleep(ASK_EVERY).await;
                self.fresh_connections.ask();
            }
        };
        let has_answered = tokio::select! {
            biased;
            answered = live.wait_for(|live| live.has_answered(replica, since)) => answered.is_ok(),
            () = tokio::time::sleep(patience) => false,
            () = ask => unreachable!("it asks without an end"),
        };
        self.fresh_connections.enough();
        has_answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cohort::{CohortKind, CohortPlan};
    use crate::model::observation::{Observation, Outcome};
    use crate::model::sink::Sink;
    use crate::record::events::EventLog;

    #[tokio::test]
    async fn new_connections_are_asked_for_only_while_a_replica_waits_for_its_first_request() {
        let recorder = Recorder::start(&[CohortPlan::of(CohortKind::Pooled)], EventLog::discarding());
        let fresh_connections = FreshConnectionRequests::default();
        let answers = RecordedAnswers { recorder: &recorder, fresh_connections: &fresh_connections };
        let since = Moment::now();
        assert!(!fresh_connections.is_wanted());
        let waiting = answers.wait("a", since, Duration::from_secs(30));
        let client = async {
            while !fresh_connections.is_wanted() {
                tokio::task::yield_now().await;
            }
            recorder.observe(Observation {
                replica: Some("a".into()),
                ..Observation::at(since.relative_to(recorder.zero()), Outcome::Answered)
            });
        };
        let (has_answered, ()) = tokio::join!(waiting, client);
        assert!(has_answered);
        assert!(!fresh_connections.is_wanted(), "that was enough");
    }
}
