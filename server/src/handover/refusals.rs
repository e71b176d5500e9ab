//! How often a replica complains about others: whoever shares the network namespace can make it complain, and must not be
//! able to flood its log.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many complaints in each [`PERIOD`]; the rest is counted.
const TOLD: u32 = 8;

const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Period {
    since: Instant,
    told: u32,
    unreported: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Refusals(Mutex<Period>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Mutex::new(Period { since: Instant::now(), told: 0, unreported: 0 }))
    }
}

impl Refusals {
    /// Whether one more, now, is told, and if so, how many before it were not.
    pub(crate) fn due(&self, now: Instant) -> Option<u64> {
        let mut period = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(period.since) >= PERIOD {
            period.since = now;
            period.told = 0;
        }
        if period.told == TOLD {
            period.unreported += 1;
            return None;
        }
        period.told += 1;
        Some(std::mem::take(&mut period.unreported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_in_part_and_counted_whole() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let told = (0..1000).filter_map(|_| refusals.due(now)).count();
        assert_eq!(told, 8);
        assert_eq!(refusals.due(now + PERIOD / 2), None);
        assert_eq!(refusals.due(now + PERIOD), Some(993));
        assert_eq!(refusals.due(now + PERIOD), Some(0));
    }
}
