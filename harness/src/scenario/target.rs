//! Where the requests go. Asks no resolver: the host is an address.

use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use percent_encoding::percent_decode_str;

use super::ScenarioError;
use crate::options::{Options, redacted_url};

/// Where the requests go. Always plain HTTP to a loopback or local address: TLS ends before what is tested here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The whole URL, with the address in it and without user and password.
    pub url: String,
    /// The host as the URL says it, with the port if it is not that of http: what a Host header holds (RFC 9110, section
    /// 7.2).
    pub authority: String,
    /// The Authorization header (RFC 7617) of a URL with a user; marked as sensitive.
    pub authorization: Option<HeaderValue>,
    /// The address behind it.
    pub host: IpAddr,
    /// The port behind it.
    pub port: u16,
}

/// Whether an address is this machine's, or of a private network (RFC 1918, RFC 4193, RFC 3927, RFC 4291).
const fn is_near(host: IpAddr) -> bool {
    match host {
        IpAddr::V4(host) => {
            host.is_loopback() || host.is_private() || host.is_link_local() || host.is_unspecified()
        }
        IpAddr::V6(host) => {
            host.is_loopback()
                || host.is_unique_local()
                || host.is_unicast_link_local()
                || host.is_unspecified()
        }
    }
}

/// What the user and the password of a URL mean to a server.
fn authorization(url: &url::Url) -> Option<HeaderValue> {
    let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let password = url.password().map(decoded);
    if url.username().is_empty() && password.is_none() {
        return None;
    }
    let pair = [decoded(url.username()), password.unwrap_or_default()].join(&b':');
    let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Target {
    pub(super) fn from_options(options: &Options) -> Result<Self, ScenarioError> {
        let url = options.url.as_deref().unwrap_or("http://127.0.0.1:8080/");
        let bad = |remedy: &str| ScenarioError::new("--url", redacted_url(url), remedy);
        let parsed =
            url::Url::parse(url).map_err(|error| bad(&format!("{error}; write http://127.0.0.1:8080/")))?;
        if parsed.scheme() != "http" {
            return Err(bad("only http:// can be tested: TLS ends before the server that restarts"));
        }
        let host = match parsed.host_str() {
            Some("localhost") => IpAddr::from([127, 0, 0, 1]),
            Some(host) => host.trim_matches(['[', ']']).parse().map_err(|_| {
                bad("the host must be an address or localhost, so that no resolver is tested")
            })?,
            None => return Err(bad("it has no host")),
        };
        let port = parsed.port_or_known_default().ok_or_else(|| bad("it has no port"))?;
        if port == 0 {
            return Err(bad("nothing can be reached at port 0; name the port that the server listens on"));
        }
        if !is_near(host) && options.allow_remote != Some(true) {
            return Err(bad(
                "load goes to this machine and to private addresses only; --allow-remote if the server is yours",
            ));
        }
        let mut normal = parsed.clone();
        normal
            .set_ip_host(host)
            .and_then(|()| normal.set_username(""))
            .and_then(|()| normal.set_password(None))
            .map_err(|()| bad("it cannot hold an address"))?;
        let authority = parsed[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
        Ok(Self { url: normal.to_string(), authority, authorization: authorization(&parsed), host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::from_options(&Options { url: Some(url.to_owned()), ..Options::default() }).unwrap()
    }

    #[test]
    fn host_is_what_the_url_says_and_the_port_of_http_is_left_out() {
        for (url, authority) in [
            ("http://localhost/", "localhost"),
            ("http://localhost:8080/a", "localhost:8080"),
            ("http://127.0.0.1:80/", "127.0.0.1"),
            ("http://[::1]:8080/?q", "[::1]:8080"),
            ("http://shop:secret@localhost:81/", "localhost:81"),
        ] {
            assert_eq!(target(url).authority, authority, "{url}");
        }
    }

    #[test]
    fn user_and_password_become_a_header_and_leave_the_url() {
        let with_user = target("http://shop:p%40ss@localhost:8080/a");
        assert_eq!(with_user.url, "http://127.0.0.1:8080/a");
        let value = with_user.authorization.unwrap();
        assert_eq!(value, format!("Basic {}", BASE64_STANDARD.encode("shop:p@ss")));
        assert!(value.is_sensitive() && !format!("{value:?}").contains("Basic"));
        assert_eq!(target("http://localhost/").authorization, None);
    }
}
