//! What a person sees while a run goes on: on a terminal one line that changes, elsewhere a line for each restart.
//! Reads the recorder's live view; nobody waits for it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::recorder::Live;

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
    /// Shows a run of `restarts` restarts.
    #[must_use]
    pub fn show(display: Display, live: watch::Receiver<Live>, restarts: usize) -> Self {
        match display {
            Display::Terminal => {
                let bar = ProgressBar::with_draw_target(Some(restarts as u64), ProgressDrawTarget::stderr());
                let style =
                    ProgressStyle::with_template("{spinner} [{elapsed_precise}] {bar:20} {pos}/{len} {msg}")
                        .unwrap_or_else(|_| ProgressStyle::default_bar());
                bar.set_style(style);
                Self { task: tokio::spawn(draw(bar.clone(), live)), bar: Some(bar) }
            }
            Display::Lines => Self { task: tokio::spawn(print_lines(live, restarts)), bar: None },
            Display::Quiet => Self { task: tokio::spawn(async {}), bar: None },
        }
    }
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
        bar.set_position(seen.restarts as u64);
        bar.set_message(format!("{} | {rate:.0} req/s | {} failed", phase_of(&seen), seen.failed));
        bar.tick();
    }
}

async fn print_lines(mut live: watch::Receiver<Live>, restarts: usize) {
    let mut told = 0;
    while live.wait_for(|seen| seen.restarts > told).await.is_ok() {
        let seen = live.borrow_and_update().clone();
        told = seen.restarts;
        let who = seen.restarting.as_deref().unwrap_or_default();
        eprintln!(
            "restart {told}/{restarts}: {who}, {} requests so far, {} failed",
            seen.requests, seen.failed
        );
    }
}

fn phase_of(seen: &Live) -> String {
    match &seen.phase {
        None if seen.requests == 0 => "starting the replicas".to_owned(),
        None => "steady".to_owned(),
        Some((phase, replica)) if phase.is_restart() => format!("{phase} {replica}"),
        Some((phase, _)) => phase.to_string(),
    }
}
