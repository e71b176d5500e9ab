//! Where the requests go. Asks no resolver: the host is an address.

use std::net::IpAddr;

use super::ScenarioError;
use crate::options::{Options, redacted_url};

/// Where the requests go. Always plain HTTP to a loopback or local address: TLS ends before what is tested here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The whole URL.
    pub url: String,
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
        normal.set_ip_host(host).map_err(|()| bad("it cannot hold an address"))?;
        Ok(Self { url: normal.to_string(), host, port })
    }
}
