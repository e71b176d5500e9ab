//! The failed requests of a run: those that are kept with all they say, and how many are not.

use std::collections::HashMap;

use crate::model::failed_request::FailedRequest;
use crate::model::failure::FailureClass;

/// The failures that are kept with all they say: some of each restart and class, so that a run whose first restart loses
/// thousands still shows what the later ones lost. The rest is counted.
#[derive(Debug, Default)]
pub struct KeptFailures {
    kept: Vec<FailedRequest>,
    counts: HashMap<(Option<usize>, FailureClass), usize>,
    /// How often the share of each restart and class was halved.
    halvings: u32,
    cut: u64,
}

impl KeptFailures {
    /// How many are kept at most.
    pub const MOST: usize = 1000;
    /// How many of a restart and class, unless there are too many of these.
    const SHARE: usize = 64;
    /// How many times as many of those that belong to no restart.
    const STEADY: usize = 8;

    /// Keeps a failure, or counts it.
    pub fn add(&mut self, failure: FailedRequest) {
        let share = self.share(failure.restart);
        let count = self.counts.entry((failure.restart, failure.class)).or_default();
        if *count >= share {
            self.cut += 1;
            return;
        }
        if self.kept.len() == Self::MOST && !self.make_room() {
            self.cut += 1;
            return;
        }
        // Room may have been made by halving the shares.
        let share = self.share(failure.restart);
        let count = self.counts.entry((failure.restart, failure.class)).or_default();
        if *count >= share {
            self.cut += 1;
        } else {
            *count += 1;
            self.kept.push(failure);
        }
    }

    /// Those that are kept, in the order in which they were added.
    #[must_use]
    pub fn kept(&self) -> &[FailedRequest] {
        &self.kept
    }

    /// How many were added and are not kept.
    #[must_use]
    pub const fn cut(&self) -> u64 {
        self.cut
    }

    /// Counts failures of which nothing else is known.
    pub(crate) fn set_cut(&mut self, cut: u64) {
        self.cut = cut;
    }

    fn share(&self, restart: Option<usize>) -> usize {
        let times = if restart.is_some() { 1 } else { Self::STEADY };
        ((Self::SHARE >> self.halvings.min(6)) * times).max(1)
    }

    /// Halves the shares until there is room; false if each has one already.
    fn make_room(&mut self) -> bool {
        while self.kept.len() >= Self::MOST && self.halvings < 9 {
            self.halvings += 1;
            self.counts.clear();
            let mut kept = std::mem::take(&mut self.kept);
            let before = kept.len();
            kept.retain(|failure| {
                let share = self.share(failure.restart);
                let count = self.counts.entry((failure.restart, failure.class)).or_default();
                *count += 1;
                if *count > share {
                    *count = share;
                    return false;
                }
                true
            });
            self.cut += (before - kept.len()) as u64;
            self.kept = kept;
        }
        self.kept.len() < Self::MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::RunTime;
    use crate::model::cohort::CohortKind;
    use crate::model::phase::Phase;

    fn failure(restart: Option<usize>, number: u64, class: FailureClass) -> FailedRequest {
        FailedRequest {
            t: RunTime::from_nanoseconds(i64::try_from(number).unwrap()),
            cohort: CohortKind::Fresh,
            number,
            class,
            curl_exit: None,
            phase: Phase::Gap,
            restart,
            offset_ms: None,
            event: None,
            replica: None,
            answered_by: None,
            cause: None,
            after_ms: 0.0,
            blame: String::new(),
            connection_request: None,
            on_kept_connection: None,
            bytes: None,
            hidden_by_retries: false,
            detail: String::new(),
        }
    }

    #[test]
    fn every_restart_and_class_keeps_failures_however_many_there_are_before() {
        let mut failures = KeptFailures::default();
        for number in 0..5_000 {
            failures.add(failure(Some(0), number, FailureClass::Refused));
        }
        assert_eq!(
            (failures.kept().len(), failures.cut()),
            (64, 4_936),
            "a restart takes its share and no more"
        );
        for restart in 1..900 {
            for number in 0..100 {
                failures.add(failure(Some(restart), number, FailureClass::Refused));
            }
        }
        failures.add(failure(Some(900), 7, FailureClass::EmptyReply));
        assert!(failures.kept().len() <= KeptFailures::MOST);
        assert_eq!(failures.kept().len() as u64 + failures.cut(), 5_000 + 899 * 100 + 1, "none is forgotten");
        for restart in 0..=900 {
            assert!(
                failures.kept().iter().any(|failure| failure.restart == Some(restart)),
                "restart {restart}"
            );
        }
        let numbers: Vec<u64> = failures.kept().iter().take(1).map(|failure| failure.number).collect();
        assert_eq!(numbers, [0], "the first ones are kept");
    }

    #[test]
    fn failures_of_no_restart_are_kept_in_greater_number() {
        let mut failures = KeptFailures::default();
        for number in 0..600 {
            failures.add(failure(None, number, FailureClass::EmptyReply));
        }
        assert_eq!((failures.kept().len(), failures.cut()), (512, 88));
    }
}
