//! How a replica of our own server is told what to be.

use crate::scenario::{Preset, Target};

/// The environment of the replica `name` of a run under a preset.
pub(super) fn environment(
    preset: Preset,
    run: &str,
    name: &str,
    target: &Target,
) -> [(&'static str, String); 4] {
    let any = if target.host.is_ipv6() { "[::]" } else { "0.0.0.0" };
    [
        ("HITLESS_PRESET", preset.to_string()),
        ("HITLESS_NAME", name.to_owned()),
        ("HITLESS_LISTEN", format!("{any}:{}", target.port)),
        // Replicas share the host's abstract sockets: the run's id keeps runs apart.
        ("HITLESS_ADMIN", format!("unix:@hitless-server.{run}.{name}.admin")),
    ]
}
