//! A report in one sentence, and what to do about it. Every sink that speaks to people begins with these.

use crate::analysis::report::{Report, RestartSummary};
use crate::analysis::verdict::{BudgetResult, Verdict};
use crate::model::failed_request::FailedRequest;
use crate::model::failure::{self, FailureClass};
use crate::model::phase::Phase;
use crate::report::digest::{classes, seen};
use crate::report::text::{clipped, count, counted, rounded};

/// The verdict in one sentence.
#[must_use]
pub fn sentence(report: &Report) -> String {
    let done = report.restarts.iter().filter(|restart| restart.is_complete).count() as u64;
    let requests = counted(report.totals.requests, "request");
    let over = format!(
        "over {} of {}",
        counted(done, "restart"),
        counted(report.scenario.replicas as u64, "replica")
    );
    match (report.verdict, report.totals.failed) {
        (Verdict::Pass, 0) => format!("No user saw it: {requests}, all answered, {over}."),
        (Verdict::Pass, failed) => {
            format!("Within budget: {} of {requests} failed {over} ({}).", count(failed), lost(report))
        }
        (Verdict::Fail, failed) if is_seen_by_users(report) => format!(
            "Users see it: {} of {requests} failed {over} ({}), which breaks {}.",
            count(failed),
            lost(report),
            broken(report)
        ),
        (Verdict::Fail, 0) => {
            format!("{} is broken, although all of {requests} were answered {over}.", broken(report))
        }
        (Verdict::Fail, failed) => format!(
            "{} is broken. {} of {requests} failed {over} ({}), which the budgets allow.",
            broken(report),
            count(failed),
            lost(report)
        ),
        (Verdict::Inconclusive, _) => format!(
            "This run cannot tell: {}.",
            report.reasons.first().map_or_else(|| "no reason is given".to_owned(), |why| clipped(why, 200))
        ),
    }
}

/// Whether a broken budget is one of failures.
fn is_seen_by_users(report: &Report) -> bool {
    report.budgets.iter().any(|result| result.is_broken() && result.budget.metric.is_of_failures())
}

/// "3 refused, 1 reset before response": what `failed` counts.
fn lost(report: &Report) -> String {
    let of_servers = report.totals.by_class.iter().filter(|(class, _)| class.is_servers());
    classes(&of_servers.map(|(class, failed)| (*class, *failed)).collect())
}

/// "failed==0 and p(99)<5ms (12 ms)".
fn broken(report: &Report) -> String {
    let broken = report.budgets.iter().filter(|result| result.is_broken()).map(|result| {
        let budget = clipped(&result.budget.to_string(), 60);
        if result.budget.metric.is_of_failures() { budget } else { format!("{budget} ({})", seen(result)) }
    });
    and(&broken.collect::<Vec<_>>())
}

/// "one, two and three".
fn and(parts: &[String]) -> String {
    match parts.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
    }
}

/// What a failure points to; each has its remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Remedy {
    Killed,
    KilledWithoutLoss,
    DiedOfSignal,
    KilledByOthers,
    NobodyListened,
    QueueReset,
    Reset,
    IdleClosed,
    CutInFlight,
    TooSlow,
    NotReady,
    WrongAnswer,
    Harness,
    Unknown,
}

impl Remedy {
    fn of(failure: &FailedRequest) -> Self {
        let is_reused =
            failure.connection_request.map_or_else(|| failure.cohort.reuses_connections(), |nth| nth > 1);
        let is_long = failure.cohort.is_long();
        match failure.class {
            FailureClass::EmptyReply | FailureClass::ResetBeforeResponse if is_reused => Self::IdleClosed,
            FailureClass::ResetBeforeResponse if failure.cause == Some(failure::Cause::AcceptQueue) => {
                Self::QueueReset
            }
            FailureClass::ResetBeforeResponse if is_long => Self::CutInFlight,
            class => Self::of_class(class),
        }
    }

    const fn of_class(class: FailureClass) -> Self {
        match class {
            FailureClass::Refused => Self::NobodyListened,
            FailureClass::ResetBeforeResponse => Self::Reset,
            FailureClass::EmptyReply | FailureClass::ResetMidResponse | FailureClass::Truncated => {
                Self::CutInFlight
            }
            FailureClass::Timeout | FailureClass::ConnectTimeout => Self::TooSlow,
            FailureClass::HttpError => Self::NotReady,
            FailureClass::WrongBody => Self::WrongAnswer,
            FailureClass::HarnessResource => Self::Harness,
            FailureClass::Other => Self::Unknown,
        }
    }

    const fn remedy(self, replicas: usize) -> &'static str {
        match self {
            Self::Killed => {
                "A replica did not end within its stop timeout and was killed, and requests were lost. Either it ignores \
                 SIGTERM: handle it, and if a shell starts the server, start it with `exec`, so that the signal reaches it. \
                 Or its drain takes longer: make the stop timeout longer than the slowest request."
            }
            Self::KilledWithoutLoss => {
                "A replica did not end within its stop timeout and was killed; no request was lost by it. Under load that it \
                 has not finished, one would be: handle SIGTERM, or make the stop timeout longer."
            }
            Self::DiedOfSignal => {
                "A replica ended with exit code 143: SIGTERM ended it, and it did not handle the signal. Handle SIGTERM: stop \
                 accepting, finish what is in flight, then exit."
            }
            Self::KilledByOthers => {
                "A replica ended with exit code 137, and hitless did not kill it: it was killed by the kernel, for example for \
                 want of memory, or by its engine after the container's own stop timeout."
            }
            Self::NobodyListened if replicas < 2 => {
                "Nobody listened while the only replica was away. Run at least two on the port (SO_REUSEPORT, or a \
                 proxy in front), and restart one at a time."
            }
            Self::NobodyListened => {
                "Connections were refused although a sibling was up: a listener closed before the traffic had moved \
                 away. Take the replica out of rotation first, or keep its listener open until a sibling has it."
            }
            Self::QueueReset => {
                "Connections that the kernel had accepted and the server had not were reset when its listener closed. \
                 Hand the listening socket to a sibling, or accept until the queue is empty and then close; \
                 net.ipv4.tcp_migrate_req=1 on the host moves most of them."
            }
            Self::Reset => {
                "Connections were reset before an answer, and nothing tells whether the server had accepted them. If its process \
                 ended at that moment, it must finish what is in flight and close its listener only then; a process that ends \
                 with unread requests resets them."
            }
            Self::IdleClosed => {
                "Kept connections were closed while a client was sending its next request on them. While draining, \
                 keep them open and answer with \"Connection: close\" (HTTP/2: GOAWAY) for a while before closing. \
                 Clients that repeat requests hide this; others show it to their users."
            }
            Self::CutInFlight => {
                "Requests that were being answered were cut off. The process must end when its drain ends, not when \
                 its listener closes: wait for what is in flight."
            }
            Self::TooSlow => {
                "Requests got no answer in time. Look at the latencies around the restarts: too few replicas for the \
                 load while one is away, or an accept queue that overflows."
            }
            Self::NotReady => {
                "Requests were answered with an unexpected status: traffic reaches a replica that is not ready, or \
                 no longer. Its readiness must say no before it stops and yes only when it can answer."
            }
            Self::WrongAnswer => {
                "Answers had another body than the expected one: look at the failures' texts."
            }
            Self::Harness => {
                "The machine that sends the load ran out of ports, descriptors or memory: lower --rate, or raise what \
                 `hitless doctor` names."
            }
            Self::Unknown => "Some failures fit no class: their texts are in the list of failures.",
        }
    }
}

type IsIt = fn(&RestartSummary) -> bool;

/// What the ends of the replicas show by themselves.
const REMEDIES_OF_ENDS: [(Remedy, IsIt); 4] = [
    (Remedy::Killed, |one| one.restart.killed && one.counts.failed > 0),
    (Remedy::KilledWithoutLoss, |one| one.restart.killed && one.counts.failed == 0),
    (Remedy::DiedOfSignal, |one| one.restart.exit_code == Some(143) && one.counts.failed > 0),
    (Remedy::KilledByOthers, |one| one.restart.exit_code == Some(137) && !one.restart.killed),
];

/// What to do next, the most frequent cause first; one sentence or two each.
#[must_use]
pub fn advice(report: &Report) -> Vec<String> {
    let replicas = report.scenario.replicas;
    let mut causes: Vec<(Remedy, f64)> = Vec::new();
    let mut blame = |cause, times| match causes.iter_mut().find(|(known, _)| *known == cause) {
        Some((_, count)) => *count += times,
        None => causes.push((cause, times)),
    };
    let ends = REMEDIES_OF_ENDS.iter().filter(|(_, is_it)| report.restarts.iter().any(is_it));
    let ends: Vec<Remedy> = ends.map(|(cause, _)| *cause).collect();
    for cause in &ends {
        if *cause != Remedy::KilledWithoutLoss || !ends.contains(&Remedy::Killed) {
            blame(*cause, f64::INFINITY);
        }
    }
    for (class, failed) in &report.totals.by_class {
        // Only the first failures are kept: they stand for all of their class.
        let kept: Vec<&FailedRequest> =
            report.failures.iter().filter(|failure| failure.class == *class).collect();
        if kept.is_empty() {
            blame(Remedy::of_class(*class), *failed as f64);
        }
        for failure in &kept {
            blame(Remedy::of(failure), *failed as f64 / kept.len() as f64);
        }
    }
    causes.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
    let mut advice: Vec<String> =
        causes.into_iter().map(|(cause, _)| cause.remedy(replicas).to_owned()).collect();
    let is_slow = |result: &&BudgetResult| {
        result.is_broken() && result.budget.metric.is_latency() && result.seen.is_some()
    };
    if let Some(slow) = report.budgets.iter().find(is_slow) {
        advice.insert(
            0,
            format!(
                "Answers took longer than {} allows: look at the latencies around the restarts. Too few replicas for \
                 the load while one is away, a cold start, or a limit that this machine cannot keep.",
                clipped(&slow.budget.to_string(), 60)
            ),
        );
    }
    let outside = report.phases.iter().find(|phase| phase.phase == Phase::Steady);
    if let Some(steady) = outside.filter(|steady| steady.counts.failed > 0) {
        advice.insert(
            0,
            format!(
                "{} failed outside any restart: look at the server itself, or at what it needs after it is ready, before the \
                 restarts.",
                counted(steady.counts.failed, "request")
            ),
        );
    }
    match report.verdict {
        Verdict::Pass if advice.is_empty() => advice.push(format!(
            "Nothing to do. In such a rollout, with 95 % confidence, fewer than {} requests of a million fail{}; more \
             --rounds make it surer.",
            bounds(report),
            lossy_restarts(report)
        )),
        Verdict::Inconclusive => advice.insert(0, "Run it again without what is named above.".to_owned()),
        Verdict::Pass | Verdict::Fail => {}
    }
    advice
}

/// What holds even though failures come in bursts: one restart loses many requests or none.
fn lossy_restarts(report: &Report) -> String {
    report.lossy_restarts.upper_bound.map_or_else(String::new, |bound| {
        format!(", and at most {} % of restarts lose any", (bound * 100.0).ceil())
    })
}

/// "580 fresh, 580 pooled and 42,488 slow".
fn bounds(report: &Report) -> String {
    let bounds: Vec<String> = report
        .cohorts
        .iter()
        .filter_map(|cohort| {
            let bound = cohort.upper_bound_per_million?;
            Some(format!("{} {}", rounded(bound.ceil()), clipped(&cohort.name, 40)))
        })
        .collect();
    if bounds.is_empty() { "a million".to_owned() } else { and(&bounds) }
}
