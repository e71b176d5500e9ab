//! Asks the target's port whether a replica is there. Where replicas share the port, any of them may answer: how many
//! listeners it has says whether the one in question can be among them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::HOST;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::host::listeners::Listeners;
use crate::model::clock::Moment;
use crate::rollout::error::RolloutError;
use crate::scenario::Target;

const ASK_EVERY: Duration = Duration::from_millis(20);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const ONE_PROBE: Duration = Duration::from_secs(2);
/// The kernel gives a new connection to any of a port's listeners. So many in a row, for each listener, miss one of them
/// once in a million times: `(1 - 1/n)^(14 n)` is below `e^-14`.
const PROBES_PER_LISTENER: u64 = 14;
const MOST_PROBES: u64 = 256;

/// What the port has to show before a probe of it says anything about one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpectedListeners {
    /// Nothing: the replica has the port alone, or runs already.
    Alone,
    /// So many listeners.
    Listeners(u64),
    /// Nothing that it could show would say so: it looked the same while the replica was down.
    Opaque,
}

/// What the port shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortView {
    /// As many listeners as expected.
    Shown,
    /// Somebody accepts connections, and no listener is to be seen: the port belongs to another network namespace.
    Blind,
}

/// The target's port, and what is known of its listeners.
#[derive(Debug)]
pub(super) struct Port {
    target: Target,
    /// None where the kernel does not tell.
    listeners: Mutex<Option<Listeners>>,
    /// How many listeners there were before the last stop.
    before_stop: Mutex<Option<u64>>,
    /// What requests carry.
    headers: HeaderMap,
    /// What became of the last request that asked for readiness.
    last_answer: Mutex<Option<String>>,
}

impl Port {
    pub(super) fn of(target: &Target, headers: HeaderMap) -> Self {
        Self {
            target: target.clone(),
            headers,
            last_answer: Mutex::default(),
            listeners: Mutex::new(Listeners::of(target.port).ok()),
            before_stop: Mutex::default(),
        }
    }

    /// Notes what the port looks like with every replica up: one is about to be stopped.
    pub(super) fn note_before_stop(&self) {
        *self.before_stop.lock().unwrap_or_else(PoisonError::into_inner) = self.count();
    }

    /// The one that was stopped does not come back.
    pub(super) fn forget_stop(&self) {
        self.take_before_stop();
    }

    /// What the port has to show once a replica that is about to start beside `siblings` others is there: what it showed
    /// before it was stopped, or one listener more than now. A listener of a port whose only replica is down belongs to
    /// something else, a proxy or a process that survived the stop, and that would answer in the replica's place.
    pub(super) fn expected_after_start(&self, siblings: usize) -> ExpectedListeners {
        match (self.count(), self.take_before_stop()) {
            (Some(1..), _) if siblings == 0 => ExpectedListeners::Opaque,
            (Some(now), Some(before)) if now < before => ExpectedListeners::Listeners(before),
            (Some(now), None) => ExpectedListeners::Listeners(now + 1),
            _ if siblings == 0 => ExpectedListeners::Alone,
            _ => ExpectedListeners::Opaque,
        }
    }

    /// Waits until the port shows what it has to, or it is clear that nothing of it can be seen from here.
    pub(super) async fn until_shown(&self, expected: ExpectedListeners) -> PortView {
        let ExpectedListeners::Listeners(least) = expected else { return PortView::Shown };
        loop {
            match self.count() {
                Some(now) if now >= least => return PortView::Shown,
                // A listener that came in between would be seen the second time.
                Some(0) if self.is_connected().await && self.count() == Some(0) => return PortView::Blind,
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Waits until the port accepts a connection.
    pub(super) async fn until_connected(&self) -> Moment {
        while !self.is_connected().await {
            tokio::time::sleep(ASK_EVERY).await;
        }
        Moment::now()
    }

    async fn is_connected(&self) -> bool {
        let connecting = TcpStream::connect((self.target.host, self.target.port));
        matches!(tokio::time::timeout(ONE_PROBE, connecting).await, Ok(Ok(_)))
    }

    /// Waits until a GET of `path` is answered with a good status, whichever listener of them gets it.
    pub(super) async fn until_answered(
        &self,
        path: &str,
        good: RangeInclusive<u16>,
        expected: ExpectedListeners,
    ) -> Moment {
        let wanted = match expected {
            ExpectedListeners::Listeners(listeners) if listeners > 1 => {
                (PROBES_PER_LISTENER * listeners).min(MOST_PROBES)
            }
            _ => 1,
        };
        let mut in_a_row = 0;
        loop {
            let asked = tokio::time::timeout(ONE_PROBE, status_of(&self.target, &self.headers, path)).await;
            let is_good = matches!(asked, Ok(Ok(status)) if good.contains(&status));
            *self.last_answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(match asked {
                Ok(Ok(status)) => format!("the last answer had status {status}"),
                Ok(Err(error)) => format!("the last request failed: {error}"),
                Err(_) => "the last request got no answer".to_owned(),
            });
            if is_good {
                in_a_row += 1;
                if in_a_row >= wanted {
                    return Moment::now();
                }
            } else {
                in_a_row = 0;
                tokio::time::sleep(ASK_EVERY).await;
            }
        }
    }

    /// What the port lacks: fewer listeners than are waited for, or a good answer.
    pub(super) fn lacks(&self, expected: ExpectedListeners) -> String {
        match (expected, self.count()) {
            (ExpectedListeners::Listeners(least), Some(now)) if now < least => {
                let listeners = if now == 1 { "listener" } else { "listeners" };
                format!(": the port has {now} {listeners}, and {least} are needed")
            }
            _ => {
                let last = self.last_answer.lock().unwrap_or_else(PoisonError::into_inner);
                last.as_ref().map_or_else(String::new, |last| format!(": {last}"))
            }
        }
    }

    /// Whether the kernel shows a listener of the port to this process.
    pub(super) fn has_listener(&self) -> bool {
        self.count().is_some_and(|listeners| listeners > 0)
    }

    fn count(&self) -> Option<u64> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        Some(listeners.as_mut()?.look().ok()?.len() as u64)
    }

    fn take_before_stop(&self) -> Option<u64> {
        self.before_stop.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Checks that nobody listens on the target's port. A bind that shares nothing fails if anybody does, sharing or not.
///
/// # Errors
/// [`RolloutError::PortTaken`].
pub fn check_port(target: &Target) -> Result<(), RolloutError> {
    let any = if target.host.is_ipv6() {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    match TcpListener::bind((any, target.port)) {
        Ok(_) => Ok(()),
        Err(error) => Err(RolloutError::PortTaken(format!(
            "port {} cannot be used: {error}; stop the process that is listening on it (`hitless clean` if it is an interrupted run), or \
             choose another with --url http://127.0.0.1:PORT/",
            target.port
        ))),
    }
}

/// The status of the answer to a GET.
async fn status_of(target: &Target, headers: &HeaderMap, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect((target.host, target.port)).await?;
    let mut request = format!("GET {path} HTTP/1.1\r\nconnection: close\r\n").into_bytes();
    if !headers.contains_key(HOST) {
        let host = std::net::SocketAddr::from((target.host, target.port));
        request.extend_from_slice(format!("host: {host}\r\n").as_bytes());
    }
    for (name, value) in headers {
        let line = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"];
        request.extend_from_slice(&line.concat());
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    // "HTTP/1.1 200": the status begins with byte 9 (RFC 9112, section 4).
    let mut beginning = [0; 12];
    stream.read_exact(&mut beginning).await?;
    let status = beginning.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..));
    let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.trim().parse().ok());
    status.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "no answer of HTTP/1"))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Arc;

    use tokio::net::{TcpListener, TcpSocket};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    /// A listener of a shared port; dropped, it is closed.
    fn listener(port: u16) -> TcpListener {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseport(true).unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
        socket.listen(64).unwrap()
    }

    fn target(host: IpAddr, port: u16) -> Target {
        let authority = format!("127.0.0.1:{port}");
        Target { url: format!("http://{authority}/"), authority, authorization: None, host, port }
    }

    fn port_of(listener: &TcpListener) -> Port {
        let port = listener.local_addr().unwrap().port();
        let host = Ipv4Addr::LOCALHOST.into();
        Port::of(&target(host, port), HeaderMap::new())
    }

    /// Answers every connection with this status until it is dropped.
    fn answering(listener: TcpListener, status: u16) -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(format!("HTTP/1.1 {status} x\r\n\r\n").as_bytes()).await;
            }
        }))
    }

    #[tokio::test]
    async fn restarted_replica_is_not_there_before_its_listener_is_back() {
        let sibling = listener(0);
        let port = port_of(&sibling);
        let number = sibling.local_addr().unwrap().port();
        let replica = listener(number);
        port.note_before_stop();
        drop(replica);
        let expected = port.expected_after_start(1);
        assert_eq!(expected, ExpectedListeners::Listeners(2));
        let mut shown = std::pin::pin!(port.until_shown(expected));
        assert!(futures_util::poll!(&mut shown).is_pending(), "the sibling alone shows nothing");
        let _replica = listener(number);
        tokio::time::timeout(Duration::from_secs(30), shown).await.unwrap();
    }

    #[tokio::test]
    async fn port_of_another_namespace_is_not_waited_for_in_vain() {
        let far = listener(0);
        // Looks elsewhere, as it does in another network namespace.
        let nobodys = Listeners::of(1).ok();
        let port = Port { listeners: Mutex::new(nobodys), ..port_of(&far) };
        let expected = port.expected_after_start(0);
        let sight = tokio::time::timeout(Duration::from_secs(30), port.until_shown(expected)).await.unwrap();
        assert_eq!(sight, PortView::Blind);
    }

    #[tokio::test]
    async fn successor_is_there_with_one_listener_more() {
        let old = listener(0);
        let port = port_of(&old);
        assert_eq!(port.expected_after_start(1), ExpectedListeners::Listeners(2));
        port.note_before_stop();
        port.forget_stop();
        assert_eq!(
            port.expected_after_start(1),
            ExpectedListeners::Listeners(2),
            "the old one is gone for good"
        );
    }

    #[tokio::test]
    async fn port_that_looked_the_same_while_the_replica_was_down_says_nothing_of_it() {
        let proxy = listener(0);
        let port = port_of(&proxy);
        port.note_before_stop();
        assert_eq!(port.expected_after_start(1), ExpectedListeners::Opaque);
        port.note_before_stop();
        assert_eq!(port.expected_after_start(0), ExpectedListeners::Opaque, "the proxy answers in its place");
        drop(proxy);
        assert_eq!(port.expected_after_start(0), ExpectedListeners::Listeners(1));
        port.note_before_stop();
        assert_eq!(port.expected_after_start(0), ExpectedListeners::Alone, "nothing else can answer for it");
    }

    #[tokio::test]
    async fn answers_of_a_sibling_are_not_those_of_a_replica_that_is_not_healthy_yet() {
        let sibling = listener(0);
        let port = Arc::new(port_of(&sibling));
        let number = sibling.local_addr().unwrap().port();
        let sick = answering(listener(number), 503);
        let _sibling = answering(sibling, 200);
        let mut answered =
            std::pin::pin!(port.until_answered("/health", 200..=299, ExpectedListeners::Listeners(2)));
        // Both have been asked by now, the sibling again and again.
        let is_answered = tokio::time::timeout(Duration::from_millis(300), &mut answered).await;
        assert!(is_answered.is_err(), "one of the two answers 503");
        drop(sick);
        tokio::time::timeout(Duration::from_secs(30), answered).await.unwrap();
    }

    #[tokio::test]
    async fn readiness_is_asked_with_the_headers_of_the_load_in_http_1_1() {
        let listener = listener(0);
        let port = listener.local_addr().unwrap().port();
        let serving = async {
            let mut heads = Vec::new();
            for status in ["426 Upgrade Required", "200 OK"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    head.push(char::from(stream.read_u8().await.unwrap()));
                }
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                heads.push(head);
            }
            heads
        };
        let mut headers = HeaderMap::new();
        headers.insert("x-tenant", "shop".parse().unwrap());
        let host = Ipv4Addr::LOCALHOST.into();
        let port = Port::of(&target(host, port), headers);
        let (heads, _) =
            tokio::join!(serving, port.until_answered("/health", 200..=299, ExpectedListeners::Alone));
        for head in heads {
            assert!(head.starts_with("GET /health HTTP/1.1\r\n"), "{head}");
            assert!(
                head.contains("\r\nx-tenant: shop\r\n") && head.contains("\r\nhost: 127.0.0.1:"),
                "{head}"
            );
        }
        assert_eq!(port.lacks(ExpectedListeners::Alone), ": the last answer had status 200");
    }
}
