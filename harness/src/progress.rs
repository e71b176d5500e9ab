//! What a person sees while a run goes on: on a terminal one line that changes, elsewhere a line for each restart.
//! Reads the recorder's live view; nobody waits for it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::console;
use crate::record::recorder::Live;
use crate::report::text::visible;

const REDRAW_EVERY: Duration = Duration::from_millis(200);

/// Where progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Display {
    /// On a terminal.
    Terminal,
    /// In a log.
    Lines,
    /// Not at all.
    Quiet,
}

/// Shows progress until it is dropped.
#[derive(Debug)]
pub struct Progress {
    task: JoinHandle<()>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Shows a run of so many restarts, if it is known how many there will be.
    #[must_use]
    pub fn show(display: Display, live: watch::Receiver<Live>, restarts: Option<usize>) -> Self {
        match display {
            Display::Terminal => {
                let length = restarts.map(|restarts| restarts as u64);
                let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
                bar.set_style(bar_style(restarts));
                Self { task: tokio::spawn(draw(bar.clone(), live)), bar: Some(bar) }
            }
            Display::Lines => {
                let print = |line: String| console::note(&line);
                Self { task: tokio::spawn(tell_lines(live, restarts, print)), bar: None }
            }
            Display::Quiet => Self { task: tokio::spawn(async {}), bar: None },
        }
    }
}

fn bar_style(restarts: Option<usize>) -> ProgressStyle {
    let template = match restarts {
        Some(_) => "{spinner} [{elapsed_precise}] {bar:20} {pos}/{len} {msg}",
        None => "{spinner} [{elapsed_precise}] {pos} restarts {msg}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

async fn draw(bar: ProgressBar, live: watch::Receiver<Live>) {
    let mut ticks = tokio::time::interval(REDRAW_EVERY);
    let mut before = (tokio::time::Instant::now(), 0);
    loop {
        let now = ticks.tick().await;
        let seen = live.borrow().clone();
        let seconds = now.duration_since(before.0).as_secs_f64().max(REDRAW_EVERY.as_secs_f64());
        let rate = (seen.requests - before.1) as f64 / seconds;
        before = (now, seen.requests);
        bar.set_position(seen.ended as u64);
        bar.set_message(message(&seen, rate));
        bar.tick();
    }
}

/// "draining server-a | 600 req/s | 3 failed".
fn message(seen: &Live, rate: f64) -> String {
    format!("{} | {rate:.0} req/s | {} failed", phase_of(seen), seen.failed)
}

/// A line for each restart that came to its end, with what was lost until then.
async fn tell_lines(mut live: watch::Receiver<Live>, restarts: Option<usize>, tell: impl Fn(String)) {
    let mut told = 0;
    while live.wait_for(|seen| seen.ended > told).await.is_ok() {
        let seen = live.borrow_and_update().clone();
        told = seen.ended;
        let of = restarts.map_or_else(String::new, |restarts| format!("/{restarts}"));
        let who = seen.restarting.as_deref().unwrap_or_default();
        tell(format!(
            "restart {told}{of}: {} is back, {} requests so far, {} failed",
            visible(who),
            seen.requests,
            seen.failed
        ));
    }
}

fn phase_of(seen: &Live) -> String {
    match &seen.phase {
        None if seen.requests == 0 => "starting the replicas".to_owned(),
        None => "steady".to_owned(),
        Some((phase, replica)) if phase.is_restart() => format!("{phase} {}", visible(replica)),
        Some((phase, _)) => phase.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::model::phase::Phase;

    fn live(phase: Option<Phase>, requests: u64, failed: u64, ended: usize) -> Live {
        let mut live = Live::default();
        live.phase = phase.map(|phase| (phase, "server-a".into()));
        live.restarting = phase.map(|_| "server-a".into());
        (live.requests, live.failed, live.restarts, live.ended) = (requests, failed, ended + 1, ended);
        live
    }

    #[test]
    fn terminal_shows_phase_rate_and_failures() {
        let shown = |phase, requests| message(&live(phase, requests, 3, 0), 599.7);
        assert_eq!(shown(None, 0), "starting the replicas | 600 req/s | 3 failed");
        assert_eq!(shown(None, 9), "steady | 600 req/s | 3 failed");
        assert_eq!(shown(Some(Phase::Steady), 9), "steady | 600 req/s | 3 failed");
        assert_eq!(shown(Some(Phase::Draining), 9), "draining server-a | 600 req/s | 3 failed");
    }

    /// What a log shows of these moments, one after the other.
    async fn lines(restarts: Option<usize>, moments: Vec<Live>) -> Vec<String> {
        let (publish, seen) = watch::channel(Live::default());
        let (tell, told) = mpsc::channel();
        let task = tokio::spawn(tell_lines(seen, restarts, move |line| tell.send(line).unwrap()));
        for moment in moments {
            publish.send_replace(moment);
            // On a runtime of one thread the task has read it when this one goes on.
            tokio::task::yield_now().await;
        }
        drop(publish);
        task.await.unwrap();
        told.into_iter().collect()
    }

    #[tokio::test]
    async fn log_has_a_line_for_each_restart_that_ended_with_what_it_lost() {
        let draining = |requests, failed, ended| live(Some(Phase::Draining), requests, failed, ended);
        let moments = vec![
            draining(100, 0, 0),
            draining(200, 7, 0),
            draining(300, 9, 1),
            draining(400, 9, 1),
            draining(500, 12, 2),
        ];
        assert_eq!(
            lines(Some(2), moments.clone()).await,
            [
                "restart 1/2: server-a is back, 300 requests so far, 9 failed",
                "restart 2/2: server-a is back, 500 requests so far, 12 failed",
            ]
        );
        assert_eq!(
            lines(None, moments).await[1],
            "restart 2: server-a is back, 500 requests so far, 12 failed"
        );
    }

    #[tokio::test]
    async fn quiet_waits_for_nothing_and_shows_no_bar() {
        let (_publish, seen) = watch::channel(Live::default());
        let mut progress = Progress::show(Display::Quiet, seen, Some(2));
        assert!(progress.bar.is_none());
        (&mut progress.task).await.unwrap();
    }
}
