//! What HTTP asks a server to refuse and hyper lets pass: a request for no host, and a transfer coding that nobody decodes.

use std::str;

use axum::http::header::{CONNECTION, EXPECT, HOST, TRANSFER_ENCODING};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Version};

/// Why an HTTP/1 request must not be served, if it must not: the status and a line for its reader.
pub(crate) fn refusal(head: &Parts) -> Option<(StatusCode, &'static str)> {
    if let Some(refusal) = refusal_of_host(head) {
        return Some((StatusCode::BAD_REQUEST, refusal));
    }
    if head.headers.contains_key(TRANSFER_ENCODING) {
        return refusal_of_coding(&head.headers);
    }
    None
}

/// RFC 9112, section 3.2: 400 without a Host in HTTP/1.1, with more than one, or with one that is none.
fn refusal_of_host(head: &Parts) -> Option<&'static str> {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if head.version == Version::HTTP_11 => Some("the request has no Host\n"),
        (Some(_), Some(_)) => Some("the request has more than one Host\n"),
        (Some(host), None) if !is_host(host.as_bytes()) => Some("the request's Host is invalid\n"),
        _ => None,
    }
}

/// Whether it may be a host with a port, or nothing (RFC 9110, section 7.2; RFC 3986, section 3.2.2). User information is no
/// part of it.
fn is_host(value: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte);
    if !value.iter().all(is_part) {
        return false;
    }
    let port = match value.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
            match &rest[end + 1..] {
                b"" => return true,
                [b':', port @ ..] => port,
                _ => return false,
            }
        }
        None => match value.iter().position(|&byte| byte == b':') {
            Some(colon) => &value[colon + 1..],
            None => return !value.iter().any(|byte| b"[]".contains(byte)),
        },
    };
    port.is_empty()
        || str::from_utf8(port).is_ok_and(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'))
}

/// RFC 9112, section 6.1: 501 for a coding that the server does not understand; `chunked` comes once, and last.
fn refusal_of_coding(headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let is_chunked = |coding: &str| coding.eq_ignore_ascii_case("chunked");
    let mut chunked = 0;
    for value in headers.get_all(TRANSFER_ENCODING) {
        let Ok(value) = value.to_str() else {
            return Some((StatusCode::BAD_REQUEST, "the request's Transfer-Encoding is invalid\n"));
        };
        for coding in value.split(',').map(str::trim).filter(|coding| !coding.is_empty()) {
            if !is_chunked(coding) {
                return Some((
                    StatusCode::NOT_IMPLEMENTED,
                    "only the transfer coding chunked is understood\n",
                ));
            }
            chunked += 1;
        }
    }
    (chunked != 1).then_some((StatusCode::BAD_REQUEST, "the request is not chunked once\n"))
}

/// Whether the client asks nothing more on this connection (RFC 9112, section 9.3).
pub(crate) fn is_last(head: &Parts) -> bool {
    let has = |token| has_token(&head.headers, token);
    if head.version == Version::HTTP_11 { has("close") } else { !has("keep-alive") || has("close") }
}

/// Whether a `Connection` header says so.
pub(crate) fn has_token(headers: &HeaderMap, token: &str) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        let tokens = value.to_str().unwrap_or_default().split(',');
        tokens.into_iter().any(|said| said.trim().eq_ignore_ascii_case(token))
    })
}

/// Whether the client may wait for `100 Continue` before it sends the body (RFC 9110, section 10.1.1).
pub(crate) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn head(version: Version, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn status(headers: &[(&str, &str)]) -> u16 {
        refusal(&head(Version::HTTP_11, headers)).map_or(200, |(status, _)| status.as_u16())
    }

    #[test]
    fn http_1_1_has_one_host() {
        assert_eq!(status(&[]), 400);
        assert_eq!(status(&[("host", "a"), ("host", "a")]), 400);
        assert!(refusal(&head(Version::HTTP_10, &[])).is_none());
        assert!(refusal(&head(Version::HTTP_10, &[("host", "a"), ("host", "b")])).is_some());
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for host in ["", "a", "a.b-c:80", "a:", "127.0.0.1:8080", "[::1]", "[::1]:80", "xn--e1afmkfd.example"]
        {
            assert_eq!(status(&[("host", host)]), 200, "{host}");
        }
        for host in
            ["a b", "a@b", "a/b", "a:b", "a:+1", "a:99999", "::1", "[::1", "[::1]a", "a]", "a\tb", "a?b"]
        {
            assert_eq!(status(&[("host", host)]), 400, "{host}");
        }
    }

    #[test]
    fn only_chunked_once_and_last_is_a_transfer_coding() {
        for (coding, expected) in [
            ("chunked", 200),
            ("Chunked", 200),
            (" , chunked", 200),
            ("gzip, chunked", 501),
            ("identity, chunked", 501),
            ("chunked, gzip", 501),
            ("chunked, chunked", 400),
            ("", 400),
        ] {
            assert_eq!(status(&[("host", "a"), ("transfer-encoding", coding)]), expected, "{coding}");
        }
    }

    #[test]
    fn a_client_says_when_its_request_is_the_last() {
        let is_last = |version, value| is_last(&head(version, &[("connection", value)]));
        assert!(is_last(Version::HTTP_11, "Close") && is_last(Version::HTTP_11, "upgrade, close"));
        assert!(!is_last(Version::HTTP_11, "keep-alive"));
        assert!(is_last(Version::HTTP_10, "x") && !is_last(Version::HTTP_10, "Keep-Alive"));
    }
}
