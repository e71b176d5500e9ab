//! Hostile texts that come over the wire: in a header, a status line and a body, through the real load, recorder and
//! event log, to every file. The replicas are this process; nothing of it needs an engine.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, pending, ready};
use hitless::experiment;
use hitless::model::clock::Moment;
use hitless::model::lifecycle::LifecycleKind;
use hitless::model::restart::{RestartId, RestartStep};
use hitless::model::scenario_info::ScenarioInfo;
use hitless::model::sink::Sink;
use hitless::options::Options;
use hitless::record::events::EventLog;
use hitless::record::recorder::Recorder;
use hitless::rollout::error::RolloutError;
use hitless::rollout::{AnswerWatch, Rollout};
use hitless::scenario::Scenario;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::hostile::{
    Rendered, blocks, controls, elements, harmless as harmless_report, rendered, rendered_in, tags,
};
use crate::metrics;
use crate::runs::Run;

/// What a server says beside a plain answer.
#[derive(Debug, Clone, Copy)]
struct Texts {
    name: &'static str,
    reason: &'static str,
    body: &'static str,
}

const HOSTILE: Texts = Texts {
    name: "<script>alert(7)</script>\" onmouseover=\"alert(1)",
    reason: "<img src=x onerror=alert(1)>",
    body: "</script><script>alert(8)</script>\u{1b}[31m\u{7}\0 ]]>\n::error::stolen\n| a | b |\n```\n\u{202e}",
};
const HARMLESS: Texts = Texts { name: "word", reason: "words", body: "another word\nand one more" };

/// Replicas that never stop, and say what they are told to.
struct Impostors {
    sink: Arc<dyn Sink>,
}

impl Impostors {
    async fn restart(&self) -> Result<(), RolloutError> {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let replica: Arc<str> = "server-a".into();
        let began = RestartStep::Began { replica: Arc::clone(&replica), round: 1 };
        self.sink.restart(RestartId(0), Moment::now(), began);
        for kind in [
            LifecycleKind::TerminateRequested,
            LifecycleKind::Exited,
            LifecycleKind::StartRequested,
            LifecycleKind::Started,
            LifecycleKind::Ready,
        ] {
            self.sink.record_now(&replica, kind);
        }
        self.sink.restart(RestartId(0), Moment::now(), RestartStep::Answered);
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(())
    }
}

impl Rollout for Impostors {
    fn assemble(&self) -> BoxFuture<'_, Result<usize, RolloutError>> {
        ready(Ok(1)).boxed()
    }

    fn perform<'a>(&'a self, _: &'a dyn AnswerWatch) -> BoxFuture<'a, Result<(), RolloutError>> {
        self.restart().boxed()
    }

    fn unexpected_end(&self) -> BoxFuture<'_, RolloutError> {
        pending().boxed()
    }

    fn retire(&self) -> BoxFuture<'_, Result<(), RolloutError>> {
        ready(Ok(())).boxed()
    }

    fn dismantle(&self) -> BoxFuture<'_, Result<(), RolloutError>> {
        ready(Ok(())).boxed()
    }
}

/// Answers in turn as expected, with another body, with another status, and with a head that is none.
async fn serve(listener: TcpListener, texts: Texts) {
    let turn = Arc::new(AtomicUsize::new(0));
    while let Ok((stream, _)) = listener.accept().await {
        let turn = turn.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(answer(stream, turn, texts));
    }
}

async fn answer(stream: TcpStream, turn: usize, texts: Texts) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let (status, more, body) = match turn % 4 {
        0 => ("200 OK".to_owned(), String::new(), "hello"),
        1 => ("200 OK".to_owned(), String::new(), texts.body),
        2 => (format!("500 {}", texts.reason), String::new(), "hello"),
        _ => ("200 OK".to_owned(), format!("x-bad: {}\u{1b}[31m\u{7}\r\n", texts.name), "hello"),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nx-replica: {}\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n",
        texts.name,
        body.len()
    );
    stream.get_mut().write_all(head.as_bytes()).await?;
    stream.get_mut().write_all(body.as_bytes()).await
}

/// A run against such a server, up to its events.jsonl.
async fn recorded(texts: Texts) -> TempDir {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("it has one"));
    let server = tokio::spawn(serve(listener, texts));
    let scenario = Scenario::from_options(&Options {
        image: Some("impostor".to_owned()),
        url: Some(url),
        cohort: vec!["fresh".to_owned(), "strict".to_owned()],
        rate: Some(100.0),
        rounds: Some(1),
        expect_body: Some("hello".to_owned()),
        lead: Some("200ms".to_owned()),
        settle: Some("10ms".to_owned()),
        ..Options::default()
    })
    .expect("a scenario");
    let directory = tempfile::tempdir().expect("a directory for the run");
    let mut head = Run::clean().head();
    head.scenario = ScenarioInfo::of(&scenario);
    let log = EventLog::create(directory.path(), head).expect("an events.jsonl");
    let recorder = Recorder::start(&scenario.cohorts, log);
    let rollout = Impostors { sink: Arc::new(recorder.clone()) };
    experiment::run(&scenario, &rollout, recorder, &CancellationToken::new()).await.expect("a run");
    server.abort();
    directory
}

fn report(directory: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(directory.join("report.json")).expect("a report");
    serde_json::from_str(&text).expect("it is JSON")
}

/// Counts differ from run to run.
fn without_digits(part: &str) -> String {
    part.chars().filter(|letter| !letter.is_ascii_digit() && *letter != ',').collect()
}

#[tokio::test]
async fn what_a_server_says_is_text_in_every_file() {
    let (hostile, harmless) = (recorded(HOSTILE).await, recorded(HARMLESS).await);
    let (bad, good): (Rendered, Rendered) = (rendered_in(hostile.path()), rendered_in(harmless.path()));
    for run in [&hostile, &harmless] {
        let by_class = report(run.path())["totals"]["by_class"].clone();
        for class in ["wrong_body", "http_error"] {
            assert!(by_class[class].as_u64() > Some(0), "{class}: {by_class}");
        }
    }
    // Whatever a report can be built of: two runs do not have the same parts, since a busy machine adds some.
    let known = rendered(&harmless_report());
    let strange = |of: fn(&Rendered) -> Vec<String>| {
        let known: BTreeSet<String> =
            of(&good).into_iter().chain(of(&known)).map(|part| without_digits(&part)).collect();
        of(&bad)
            .into_iter()
            .map(|part| without_digits(&part))
            .filter(|part| !known.contains(part))
            .collect::<Vec<_>>()
    };
    assert_eq!(strange(|of| tags(&of.html)), [""; 0], "report.html");
    assert_eq!(tags(&bad.html).iter().filter(|tag| tag.starts_with("StartTag script")).count(), 2);
    assert_eq!(strange(|of| elements(&of.junit)), [""; 0], "junit.xml");
    assert_eq!(strange(|of| blocks(&of.markdown)), [""; 0], "summary.md");
    let names = |of: &Rendered| metrics::parse(&of.metrics).into_iter().map(|sample| sample.name).collect();
    assert_eq!(strange(names), [""; 0], "metrics.txt");
    for text in [&bad.html, &bad.junit, &bad.markdown, &bad.metrics, &bad.terminal] {
        assert_eq!(controls(text), "");
    }
    // And it is there: nothing above passes because the text never came this far.
    assert!(
        bad.html.contains("&lt;script&gt;alert(7)&lt;/script&gt;"),
        "the header's text is not in the page"
    );
    assert!(bad.html.contains("&lt;/script&gt;&lt;script&gt;alert(8)"), "the body's text is not in the page");
    assert!(bad.html.contains("[31m"), "the body's control characters are not in the page");
}
