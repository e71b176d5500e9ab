//! Where the requests go. Asks no resolver: the host is an address.

use std::net::IpAddr;

use super::{Options, ScenarioError};

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

impl Target {
    pub(super) fn from_options(options: &Options) -> Result<Self, ScenarioError> {
        let url = options.url.as_deref().unwrap_or("http://127.0.0.1:8080/");
        let bad = |remedy: &str| ScenarioError::new("--url", url, remedy);
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
        let mut normal = parsed.clone();
        normal.set_ip_host(host).map_err(|()| bad("it cannot hold an address"))?;
        Ok(Self { url: normal.to_string(), host, port })
    }
}
