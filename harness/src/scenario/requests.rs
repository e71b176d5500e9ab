//! What the load asks for: the options of the cohorts, their requests and the expected answers -> [`CohortPlan`]s.

use std::num::NonZeroU64;
use std::time::Duration;

use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{ScenarioError, ServerKind, Target};
use crate::model::cohort::{CohortKind, CohortPlan, Payload};
use crate::model::expectation::{Expectation, ExpectedBody, upload_receipt};
use crate::options::{Options, redacted_header};

const MAX_RATE: f64 = 1_000_000.0;
/// What our server's long answers and uploads are made of.
const LONG_BYTES: u64 = 64 * 1024;
/// What our own server repeats in its answers.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How many long requests a second a cohort begins, unless it says so itself.
const LONG_RATE: f64 = 4.0;

pub(super) fn cohorts(
    options: &Options,
    server: ServerKind,
    target: &Target,
) -> Result<Vec<CohortPlan>, ScenarioError> {
    let rate = checked_rate("--rate", options.rate.unwrap_or(300.0))?;
    let concurrency = options.concurrency.unwrap_or(256);
    if concurrency == 0 {
        return Err(ScenarioError::new("--concurrency", concurrency, "at least 1 request must be in flight"));
    }
    let requests = Requests::from_options(options, server, target)?;
    let mut plans: Vec<CohortPlan> = Vec::new();
    for (kind, own_rate) in kinds(&options.cohort, requests.slow_path.is_some())? {
        if plans.iter().any(|plan| plan.kind == kind) {
            return Err(ScenarioError::new("--cohort", kind.name(), "it is named twice"));
        }
        let rate = own_rate.unwrap_or(if kind.is_long() { LONG_RATE.min(rate) } else { rate });
        plans.push(requests.plan(kind, rate, concurrency)?);
    }
    Ok(plans)
}

fn checked_rate(field: &'static str, rate: f64) -> Result<f64, ScenarioError> {
    if rate > 0.0 && rate <= MAX_RATE {
        Ok(rate)
    } else {
        Err(ScenarioError::new(field, rate, format!("requests per second, above 0 and at most {MAX_RATE}")))
    }
}

/// The cohorts that are asked for, each with its own rate if it has one.
fn kinds(lists: &[String], has_slow: bool) -> Result<Vec<(CohortKind, Option<f64>)>, ScenarioError> {
    if lists.is_empty() {
        let mut kinds = vec![(CohortKind::Fresh, None), (CohortKind::Pooled, None)];
        if has_slow {
            kinds.push((CohortKind::Slow, None));
        }
        return Ok(kinds);
    }
    let texts = lists.iter().flat_map(|list| list.split(',')).map(str::trim);
    texts
        .map(|text| {
            let (name, rate) = match text.split_once('=') {
                None => (text, None),
                Some((name, number)) => {
                    let number = number.parse().map_err(|_| {
                        ScenarioError::new("--cohort", text, "after = comes a rate, requests per second")
                    })?;
                    (name, Some(checked_rate("--cohort", number)?))
                }
            };
            let kind = CohortKind::named(name).ok_or_else(|| {
                let known = CohortKind::ALL.map(CohortKind::name).join(", ");
                ScenarioError::new("--cohort", name, format!("it is one of {known}"))
            })?;
            Ok((kind, rate))
        })
        .collect()
}

/// What requests of each kind ask for, and what has to come back.
struct Requests<'a> {
    target: &'a Target,
    is_ours: bool,
    status: u16,
    body: ExpectedBody,
    per_connection: Option<NonZeroU64>,
    headers: HeaderMap,
    echo: Option<HeaderName>,
    long: Duration,
    slow_path: Option<String>,
    upload_path: Option<String>,
    stream_path: Option<String>,
}

impl<'a> Requests<'a> {
    fn from_options(
        options: &Options,
        server: ServerKind,
        target: &'a Target,
    ) -> Result<Self, ScenarioError> {
        let is_ours = server == ServerKind::Testbed;
        let long = match &options.slow_delay {
            None => Duration::from_secs(3),
            Some(text) => humantime::parse_duration(text).map_err(|error| {
                ScenarioError::new("--slow-delay", text, format!("{error}; write for example 3s"))
            })?,
        };
        let path = |field, said: &Option<String>, ours: String| match said {
            Some(path) if path.starts_with('/') => Ok(Some(path.clone())),
            Some(path) => Err(ScenarioError::new(field, path, "it begins with /")),
            None => Ok(is_ours.then_some(ours)),
        };
        let ms = long.as_millis();
        let mut headers = headers(&options.header)?;
        add_from_environment(&mut headers, &options.header_env)?;
        Ok(Self {
            target,
            is_ours,
            status: status(options.expect_status.unwrap_or(200))?,
            body: match (&options.expect_body, is_ours) {
                (Some(text), _) => ExpectedBody::Text(text.clone()),
                (None, true) => ExpectedBody::Text("hello world".to_owned()),
                (None, false) => ExpectedBody::Any,
            },
            per_connection: options.requests_per_connection.map(per_connection).transpose()?,
            echo: echo(options.echo_header.as_deref(), is_ours, &headers)?,
            headers,
            long,
            slow_path: path("--slow-path", &options.slow_path, format!("/?delay={ms}ms"))?,
            upload_path: path("--upload-path", &options.upload_path, "/upload".to_owned())?,
            stream_path: path(
                "--stream-path",
                &options.stream_path,
                format!("/stream?bytes={LONG_BYTES}&over={ms}ms"),
            )?,
        })
    }

    /// What its requests carry. HTTP/2 has the host in `:authority`, and a Host header must not differ (RFC 9113, section
    /// 8.3.1).
    fn headers_of(&self, kind: CohortKind) -> HeaderMap {
        let mut headers = self.headers.clone();
        if let Some(authorization) = &self.target.authorization {
            headers.entry(AUTHORIZATION).or_insert_with(|| authorization.clone());
        }
        if kind != CohortKind::H2
            && let Ok(host) = HeaderValue::from_str(&self.target.authority)
        {
            headers.entry(HOST).or_insert(host);
        }
        headers
    }

    fn plan(&self, kind: CohortKind, rate: f64, concurrency: usize) -> Result<CohortPlan, ScenarioError> {
        let need = |field: &'static str, path: &Option<String>, what: &str| {
            let missing =
                || ScenarioError::new("--cohort", kind.name(), format!("your server needs {field}, {what}"));
            joined(field, &self.target.url, path.as_deref().ok_or_else(missing)?)
        };
        // Only our own server is known to answer with a receipt or the pattern.
        let ours = |body: ExpectedBody| if self.is_ours { body } else { ExpectedBody::Any };
        let (url, body, payload) = match kind {
            CohortKind::Fresh | CohortKind::Pooled | CohortKind::Strict | CohortKind::H2 => {
                (self.target.url.clone(), self.body.clone(), Payload::None)
            }
            CohortKind::Slow => {
                let url = need("--slow-path", &self.slow_path, "a path that answers slowly")?;
                (url, self.body.clone(), Payload::None)
            }
            CohortKind::Upload => {
                let url = need("--upload-path", &self.upload_path, "a path that takes a POST")?;
                let receipt = ours(ExpectedBody::Text(upload_receipt(LONG_BYTES)));
                (url, receipt, Payload::Body { bytes: LONG_BYTES, over: self.long })
            }
            CohortKind::Stream => {
                let url = need("--stream-path", &self.stream_path, "a path whose answer takes long")?;
                (url, ours(ExpectedBody::Pattern(LONG_BYTES)), Payload::None)
            }
        };
        Ok(CohortPlan {
            kind,
            rate,
            concurrency,
            requests_per_connection: self.per_connection,
            url,
            headers: self.headers_of(kind),
            echo: self.echo.clone(),
            delay: if kind.is_long() { self.long } else { Duration::ZERO },
            payload,
            expectation: Expectation { status: self.status, body },
        })
    }
}

/// The final status of an answer (RFC 9110, section 15): no client sees another as one.
fn status(status: u16) -> Result<u16, ScenarioError> {
    if (200..=599).contains(&status) {
        Ok(status)
    } else {
        Err(ScenarioError::new("--expect-status", status, "the status of an answer is from 200 to 599"))
    }
}

/// Headers whose values stand in the environment. An error names the variable, never its value.
fn add_from_environment(headers: &mut HeaderMap, pairs: &[String]) -> Result<(), ScenarioError> {
    for pair in pairs {
        let bad = |remedy: String| ScenarioError::new("--header-env", pair, remedy);
        let (name, variable) = pair.split_once('=').ok_or_else(|| bad("write NAME=VARIABLE".to_owned()))?;
        let name: HeaderName = name.trim().parse().map_err(|error| bad(format!("{error}")))?;
        if FRAMING.contains(&name) {
            return Err(bad("the harness sets this itself; leave it out".to_owned()));
        }
        let value = std::env::var(variable)
            .map_err(|error| bad(format!("{variable}: {error}; set it for hitless")))?;
        let value = HeaderValue::from_str(value.trim())
            .map_err(|_| bad(format!("the value of {variable} cannot stand in a header")))?;
        headers.append(name, value);
    }
    Ok(())
}

fn joined(field: &'static str, url: &str, path: &str) -> Result<String, ScenarioError> {
    url::Url::parse(url)
        .and_then(|base| base.join(path))
        .map(|url| url.to_string())
        .map_err(|error| ScenarioError::new(field, path, error))
}

fn per_connection(requests: u64) -> Result<NonZeroU64, ScenarioError> {
    NonZeroU64::new(requests).ok_or_else(|| {
        ScenarioError::new("--requests-per-connection", requests, "at least 1, or leave it out")
    })
}

/// What the transfer itself consists of; a request that says otherwise would be broken on purpose.
const FRAMING: [HeaderName; 4] = [
    http::header::CONNECTION,
    http::header::CONTENT_LENGTH,
    http::header::TRANSFER_ENCODING,
    http::header::UPGRADE,
];

/// The header that our own server repeats, unless the user gives it a value of their own.
fn echo(named: Option<&str>, is_ours: bool, sent: &HeaderMap) -> Result<Option<HeaderName>, ScenarioError> {
    let Some(text) = named else {
        return Ok(is_ours.then_some(REQUEST_ID).filter(|name| !sent.contains_key(name)));
    };
    let bad = |remedy: String| ScenarioError::new("--echo-header", text, remedy);
    let name: HeaderName = text.trim().parse().map_err(|error| bad(format!("{error}")))?;
    if FRAMING.contains(&name) || name == HOST {
        return Err(bad("it belongs to the transfer itself; name one such as x-request-id".to_owned()));
    }
    if sent.contains_key(&name) {
        return Err(bad("--header gives it a value already; leave one of them out".to_owned()));
    }
    Ok(Some(name))
}

fn headers(lines: &[String]) -> Result<HeaderMap, ScenarioError> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let bad = |remedy: String| ScenarioError::new("--header", redacted_header(line), remedy);
        let (name, value) = line.split_once(':').ok_or_else(|| bad("write 'Name: value'".to_owned()))?;
        let name: HeaderName = name.trim().parse().map_err(|error| bad(format!("{error}")))?;
        if FRAMING.contains(&name) {
            return Err(bad("the harness sets this itself; leave it out".to_owned()));
        }
        let value = HeaderValue::from_str(value.trim()).map_err(|error| bad(format!("{error}")))?;
        headers.append(name, value);
    }
    Ok(headers)
}
