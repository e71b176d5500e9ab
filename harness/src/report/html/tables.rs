//! The page's tables: budgets, cohorts, phases, restarts, failures and the machine.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{number, told};
use crate::analysis::report::{Report, RestartSummary};
use crate::analysis::summary::Latency;
use crate::model::failed_request::FailedRequest;
use crate::model::failure::ByClass;
use crate::model::failure::FailureClass;
use crate::model::listener::Listener;
use crate::model::phase::Phase;
use crate::report::digest::{self, behind_schedule, bound, seen};
use crate::report::text::{clipped, count, counted, short_ms};

const NAME_LENGTH: usize = 40;
/// More replicas than this, as replacements make them, are summed up.
const MOST_REPLICAS: usize = 32;
/// More listeners than this are summed up.
const MOST_LISTENERS: usize = 8;
const LATENCIES: [&str; 5] = ["p50", "p90", "p99", "p99.9", "slowest"];

pub(super) fn budgets(report: &Report) -> Markup {
    html! {
        table {
            thead { tr { th { "budget" } th.n { "seen" } th { "" } } }
            tbody {
                @for (index, result) in report.budgets.iter().take(100).enumerate() {
                    tr.broken[result.is_broken()] {
                        td { code { (clipped(&result.budget.to_string(), 100)) } }
                        td.n { (told(&format!("/budgets/{index}/seen"), &seen(result))) }
                        td {
                            @if result.holds { "holds" }
                            @else if let Some(why) = &result.excuse { "broken; but " (clipped(why, 300)) }
                            @else { strong { "broken" } }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn cohorts(report: &Report) -> Markup {
    html! {
        div.wide { table.cards {
            thead { tr {
                th { "cohort" } th.n { "requests" } th.n { "failed" } th { "by class" }
                (latency_heads())
                th.n title="Connections that were established." { "connections" }
                th.n title="Requests that the client's pool repeated on its own, and so hid." { "replayed" }
                th.n title="Requests that were never written, since their kept connection was found closed; they went to another one." { "unsent" }
                th.n title="Connections that the server closed while they were idle." { "closed idle" }
                th.n title="How late the generator was, 99th percentile." { "lateness" }
                th.n title="With 95 % confidence, fewer requests of a million fail." { "95 % bound" }
            } }
            tbody {
                @for (index, cohort) in report.cohorts.iter().enumerate() {
                    tr.broken[cohort.counts.failed > 0] data-of=(format!("/cohorts/{index}/")) {
                        th { (clipped(&cohort.name, NAME_LENGTH)) }
                        td.n data-name="requests" { (number("requests", cohort.counts.requests)) }
                        td.n.bad[cohort.counts.failed > 0] data-name="failed" { (number("failed", cohort.counts.failed)) }
                        td { (by_class(&cohort.counts.by_class)) }
                        (latency(&cohort.latency))
                        td.n data-name="connections" { (number("connections_opened", cohort.connections_opened)) }
                        td.n data-name="replayed" { (known("replayed", cohort.replayed)) }
                        td.n data-name="unsent" { (known("unsent", cohort.unsent)) }
                        td.n data-name="closed idle" { (known("closed_idle", cohort.closed_idle)) }
                        td.n data-name="lateness" { (told("lateness_p99_ms", &short_ms(cohort.lateness_p99_ms))) }
                        td.n data-name="95 % bound" { (told("upper_bound_per_million", &bound(cohort.upper_bound_per_million))) }
                    }
                }
            }
        } }
        @for cohort in behind_schedule(report) {
            p.note { (cohort) }
        }
    }
}

pub(super) fn phases(report: &Report) -> Markup {
    html! {
        div.wide { table.cards {
            thead { tr {
                th { "phase" } th.n { "requests" } th.n { "failed" } th { "by class" } (latency_heads())
                th.n { "95 % bound" }
            } }
            tbody {
                @for (index, phase) in report.phases.iter().enumerate() {
                    tr data-of=(format!("/phases/{index}/")) {
                        th { (phase.phase) }
                        td.n data-name="requests" { (number("requests", phase.counts.requests)) }
                        td.n.bad[phase.counts.failed > 0] data-name="failed" { (number("failed", phase.counts.failed)) }
                        td { (by_class(&phase.counts.by_class)) }
                        (latency(&phase.latency))
                        td.n data-name="95 % bound" { (told("upper_bound_per_million", &bound(phase.upper_bound_per_million))) }
                    }
                }
            }
        } }
    }
}

pub(super) fn replicas(report: &Report) -> Markup {
    if report.replicas.is_empty() {
        return html! {};
    }
    let rest: u64 = report.replicas.iter().skip(MOST_REPLICAS).map(|replica| replica.answered).sum();
    html! {
        div.wide { table {
            thead { tr { th { "replica" } th.n { "answered" } th.n { "share" } } }
            tbody {
                @for (index, replica) in report.replicas.iter().take(MOST_REPLICAS).enumerate() {
                    tr {
                        th { (clipped(&replica.name, 80)) }
                        td.n { (number(&format!("/replicas/{index}/answered"), replica.answered)) }
                        td.n { (told(&format!("/replicas/{index}/share"), &format!("{:.1} %", replica.share * 100.0))) }
                    }
                }
                @if rest > 0 { tr { th { "all others" } td.n { (count(rest)) } td {} } }
            }
        } }
    }
}

/// With more restarts than this, those without failures are folded.
const UNFOLDED: usize = 40;

/// Every restart if they are not too many, otherwise those with failures first; the rest is counted.
pub(super) fn restarts(report: &Report, most: usize) -> Markup {
    if report.restarts.is_empty() {
        return html! {};
    }
    let (shown, left_out) = digest::restarts(report, most);
    let (open, folded): (Vec<_>, Vec<_>) = shown
        .iter()
        .partition(|(_, restart)| report.restarts.len() <= UNFOLDED || digest::is_notable(restart));
    let is_replacing = report.restarts.iter().any(|restart| restart.restart.successor.other().is_some());
    html! {
        @if !open.is_empty() { (restart_table(&open, is_replacing)) }
        @if !folded.is_empty() {
            details {
                summary { (counted(folded.len() as u64, "restart")) " without failures" }
                (restart_table(&folded, is_replacing))
            }
        }
        @if left_out > 0 {
            @let is_all_told = report.restarts.iter().filter(|one| digest::is_notable(one)).count() <= most;
            p.note { (count(left_out)) " more restarts" @if is_all_told { ", without failures," } " are in report.json." }
        }
    }
}

/// Where each column of [`restart_row`] stands in a restart of report.json. A thousand rows say it once.
const CELLS: &str = "- - round t phases/draining phases/gap phases/starting requests failed by_class latency/p99 latency/max -";
/// The same with the successor and the overlap.
const CELLS_OF_REPLACEMENTS: &str = "- - - round t phases/draining phases/gap phases/starting phases/overlap requests \
                                     failed by_class latency/p99 latency/max -";

fn restart_table(shown: &[(usize, &RestartSummary)], is_replacing: bool) -> Markup {
    let cells = if is_replacing { CELLS_OF_REPLACEMENTS } else { CELLS };
    html! {
        div.wide { table data-cells=(cells) {
            thead { tr {
                th.n { "#" } th { "replica" } @if is_replacing { th { "then" } } th.n.extra { "round" } th.n { "at" }
                th.n { "draining" } th.n.extra { "gap" } th.n.extra { "starting" } @if is_replacing { th.n.extra { "overlap" } }
                th.n.extra { "requests" } th.n { "failed" } th { "by class" } th.n.extra { "p99" } th.n.extra { "slowest" }
                th.extra { "ended" }
            } }
            tbody { @for (index, restart) in shown { (restart_row(*index, restart, is_replacing)) } }
        } }
    }
}

fn restart_row(index: usize, restart: &RestartSummary, is_replacing: bool) -> Markup {
    let phase = |phase: Phase| restart.phases.get(&phase).map_or_else(|| "–".to_owned(), |ms| short_ms(*ms));
    html! {
        tr.broken[restart.counts.failed > 0] id=(format!("restart-{}", index + 1))
            data-of=(format!("/restarts/{index}/")) {
            td.n { a href="#picture" data-zoom=(index + 1) { (index + 1) } }
            td { (clipped(&restart.restart.replica, NAME_LENGTH)) }
            @if is_replacing { td { @if let Some(name) = restart.restart.successor.other() { (clipped(name, NAME_LENGTH)) } } }
            td.n.extra { (restart.restart.round) }
            td.n { (format!("{:.2} s", restart.restart.began.ms() / 1e3)) }
            td.n { (phase(Phase::Draining)) }
            td.n.extra { (phase(Phase::Gap)) }
            td.n.extra { (phase(Phase::Starting)) }
            @if is_replacing { td.n.extra { (phase(Phase::Overlap)) } }
            td.n.extra { (count(restart.counts.requests)) }
            td.n.bad[restart.counts.failed > 0] { (count(restart.counts.failed)) }
            td {
                @for (class, failed) in &restart.counts.by_class {
                    span.key { i.class.(class.name()) {} (class.label()) " " (count(*failed)) }
                }
            }
            td.n.extra { (answered_in(restart.latency.p99)) }
            td.n.extra { (answered_in(restart.latency.max)) }
            td.extra { (end_of(restart)) }
        }
    }
}

fn end_of(restart: &RestartSummary) -> String {
    let end = match (restart.restart.killed, restart.restart.exit_code) {
        (true, _) => "killed".to_owned(),
        (false, Some(code)) => format!("exit {code}"),
        (false, None) => String::new(),
    };
    let back = if restart.is_complete { "" } else { "not back" };
    [end.as_str(), back].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// The first failures of each class, up to `most` altogether, in the order of time.
pub(super) fn failures(report: &Report, most: usize, detail: usize) -> Markup {
    if report.totals.by_class.is_empty() {
        return html! {};
    }
    let shown = spread(&report.failures, most);
    let total: u64 = report.totals.by_class.values().sum();
    html! {
        p.filter id="classes" {
            @for (class, failed) in &report.totals.by_class {
                span.key data-class=(class.name()) title=(class.meaning()) {
                    i.class.(class.name()) {} (class.label()) " "
                    (number(&format!("/totals/by_class/{}", class.name()), *failed))
                }
            }
        }
        ol.failures {
            @for failure in &shown { (failure_item(failure, detail)) }
        }
        @if total > shown.len() as u64 {
            p.note {
                (count(shown.len() as u64)) " of " (count(total)) " failures are shown; "
                (count(report.failures.len() as u64)) " are in report.json, and up to 100,000 in events.jsonl."
            }
        }
    }
}

fn failure_item(failure: &FailedRequest, detail: usize) -> Markup {
    html! {
        li data-class=(failure.class.name()) {
            span.t { (format!("{:.3} s", failure.t.ms() / 1e3)) }
            span.what {
                i.class.(failure.class.name()) {} (failure.class.label())
                @if let Some(code) = failure.curl_exit { small { " curl " (code) } }
            }
            span.who { (clipped(failure.cohort.name(), NAME_LENGTH)) small { " #" (failure.number) } }
            span.blame {
                (clipped(&failure.blame, 400))
                @if failure.hidden_by_retries { small { " (a client that repeats requests would hide it)" } }
                details { summary { "the chain of errors" } code { (clipped(&failure.detail, detail)) } }
            }
        }
    }
}

/// Up to `most` failures: the earliest of every class, each class as many as the others where it has them.
fn spread(failures: &[FailedRequest], most: usize) -> Vec<&FailedRequest> {
    let mut seen: BTreeMap<FailureClass, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, usize)> = failures
        .iter()
        .enumerate()
        .map(|(index, failure)| {
            let nth = seen.entry(failure.class).or_default();
            *nth += 1;
            (*nth, index)
        })
        .collect();
    ranked.sort_unstable();
    ranked.truncate(most);
    let mut chosen: Vec<&FailedRequest> = ranked.into_iter().map(|(_, index)| &failures[index]).collect();
    chosen.sort_by_key(|failure| failure.t);
    chosen
}

/// What the kernel and the servers say of the same run.
pub(super) fn evidence(report: &Report) -> Markup {
    let evidence = &report.evidence;
    html! {
        @if let Some(reconciled) = &evidence.reconciliation {
            @let at = |field: &str| format!("/evidence/reconciliation/{field}");
            p {
                "The servers say that they answered " (number(&at("answered"), reconciled.answered))
                " of " (number(&at("begun"), reconciled.begun)) " requests and cut "
                (number(&at("cut"), reconciled.cut)) "; the clients saw " (number(&at("seen"), reconciled.seen))
                " whole answers. "
                @match reconciled.difference {
                    0 => "The two agree.",
                    more @ 1.. => { (counted(more.unsigned_abs(), "answer")) " reached no client." }
                    fewer => { "That is " (counted(fewer.unsigned_abs(), "answer")) " more than the servers account for." }
                }
                @if let (Some(accepted), Some(difference)) = (reconciled.accepted, reconciled.connection_difference()) {
                    " They accepted " (number(&at("accepted"), accepted)) " connections; the clients established "
                    (number(&at("opened"), reconciled.opened)) ". "
                    @match difference {
                        0 => "The two agree.",
                        more @ 1.. => { (counted(more.unsigned_abs(), "connection")) " came from somebody else." }
                        fewer => { (counted(fewer.unsigned_abs(), "connection")) " no server accounts for: established, and never accepted." }
                    }
                }
                @if reconciled.accounts < reconciled.lives {
                    " Only " (reconciled.accounts) " of " (reconciled.lives) " processes left an account."
                }
            }
        }
        dl.pairs {
            dt { "most connections seen waiting to be accepted" }
            dd {
                @match evidence.accept_queue_max {
                    None => "not measured",
                    Some(most) => { (number("/evidence/accept_queue_max", most)) }
                }
            }
            @if !evidence.listeners.is_empty() {
                dt { "listeners, and the most that waited for each" }
                dd { (listeners(&evidence.listeners)) }
            }
            @for (counter, growth) in evidence.kernel.iter().take(50) {
                dt { (clipped(counter, 60)) }
                dd { "+" (number(&format!("/evidence/kernel/{counter}"), *growth)) }
            }
        }
        @if !evidence.kernel.is_empty() {
            p.note {
                "The kernel counts everything in this network namespace, not this run alone. The names are those of "
                "/proc/net/netstat and /proc/net/snmp."
            }
        }
    }
}

/// The listeners with the deepest accept queues, and how many more there were.
fn listeners(all: &[Listener]) -> Markup {
    let mut deepest: Vec<(usize, &Listener)> = all.iter().enumerate().collect();
    deepest.sort_by_key(|(_, listener)| std::cmp::Reverse(listener.waiting_max));
    let shown = &deepest[..deepest.len().min(MOST_LISTENERS)];
    html! {
        ul.plain {
            @for (index, listener) in shown {
                li {
                    (number(&format!("/evidence/listeners/{index}/waiting_max"), listener.waiting_max.into()))
                    " of at most " (listener.backlog) ", seen from " (short_ms(listener.first.ms())) " to "
                    (short_ms(listener.last.ms()))
                }
            }
            @if deepest.len() > shown.len() {
                li { "and " (counted((deepest.len() - shown.len()) as u64, "listener")) " more, none deeper" }
            }
        }
    }
}

pub(super) fn environment(report: &Report) -> Markup {
    let machine = &report.environment;
    let migrate = match machine.tcp_migrate_req {
        None => "the kernel does not have it",
        Some(true) => "on",
        Some(false) => "off",
    };
    html! {
        dl.pairs {
            dt { "kernel" } dd { (clipped(&machine.kernel, 200)) }
            dt { "net.ipv4.tcp_migrate_req" } dd { (migrate) }
            dt { "engine" } dd { (clipped(&machine.engine, 200)) }
            dt { "CPUs" } dd { (machine.cpus) }
            @if let Some(image) = &report.scenario.image { dt { "image" } dd { (clipped(image, 200)) } }
            dt { "target" } dd { code { (clipped(&report.scenario.url, 200)) } }
            dt { "hitless" } dd { (clipped(&report.run.hitless, 40)) ", schema " (report.schema_version) }
        }
    }
}

fn by_class(by_class: &ByClass) -> Markup {
    html! {
        @for (class, failed) in by_class {
            span.key title=(class.meaning()) { i.class.(class.name()) {} (class.label()) " " (number(&format!("by_class/{class}"), *failed)) }
        }
    }
}

fn latency_heads() -> Markup {
    html! { @for name in LATENCIES { th.n { (name) } } }
}

fn latency(latency: &Latency) -> Markup {
    let fields = ["p50", "p90", "p99", "p999", "max"];
    let shown = [latency.p50, latency.p90, latency.p99, latency.p999, latency.max].map(answered_in);
    html! {
        @for ((name, field), ms) in LATENCIES.iter().zip(fields).zip(&shown) {
            td.n data-name=(name) { (told(&format!("latency/{field}"), ms)) }
        }
    }
}

/// A latency; where nothing was answered there is none.
fn answered_in(ms: f64) -> String {
    if ms > 0.0 { short_ms(ms) } else { "–".to_owned() }
}

fn known(pointer: &str, number: Option<u64>) -> Markup {
    told(pointer, &number.map_or_else(|| "–".to_owned(), count))
}
