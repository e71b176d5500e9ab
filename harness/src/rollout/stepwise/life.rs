//! The lives of a replica's process: which one is now, whether it was asked to end, how the last one ended. Pure.

use crate::model::clock::Moment;

/// What is known of a replica's lives. Since the harness starts no life before it has seen the end of the last, the end
/// that comes next is always that of the life that is now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Life {
    /// Whether there is a process, as far as is known.
    pub(super) is_running: bool,
    /// How many lives have ended.
    ended: u64,
    /// The last life, counted from 1, that was asked to end.
    asked_to_end: u64,
    /// The first that was heard of this life's process.
    pub(super) first_sign: Option<Moment>,
    /// When it said that it was ready.
    pub(super) ready: Option<Moment>,
    /// Whether it was sent SIGKILL.
    pub(super) was_killed: bool,
    /// How many processes that it had started were still running when it ended.
    pub(super) left_running: usize,
    /// How the last life ended.
    pub(super) end: Option<End>,
}

/// How a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// When the process was gone.
    pub(super) at: Moment,
    /// Its exit code, if one is known.
    pub(super) code: Option<i64>,
    /// Whether it was asked for.
    pub(super) is_expected: bool,
    /// Whether somebody else has started the replica again.
    pub(super) runs_again: bool,
}

/// Whose word it was that a life should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndAsked {
    /// This one's: the life with this number was not asked to before.
    Now(u64),
    /// An earlier one's, which was given up.
    Before(u64),
}

impl EndAsked {
    /// The number of the life that is to end.
    pub(super) const fn number(self) -> u64 {
        match self {
            Self::Now(number) | Self::Before(number) => number,
        }
    }
}

impl Life {
    /// A replica that runs, or does not, and of which nothing else is known.
    pub(super) fn found(is_running: bool) -> Self {
        Self { is_running, ..Self::default() }
    }

    /// The next life is about to begin.
    pub(super) fn begin(&mut self) {
        *self =
            Self { is_running: true, ended: self.ended, asked_to_end: self.asked_to_end, ..Self::default() };
    }

    /// The life that is now is to end. Told once per life: a second signal could cut what the first one drains.
    pub(super) fn ask_to_end(&mut self) -> EndAsked {
        let number = self.ended + 1;
        if self.asked_to_end >= number {
            return EndAsked::Before(number);
        }
        self.asked_to_end = number;
        EndAsked::Now(number)
    }

    /// Whether the life that is now was asked to end.
    pub(super) const fn is_asked_to_end(&self) -> bool {
        self.asked_to_end > self.ended
    }

    /// The end of the life with this number, when it has come.
    pub(super) fn end_of(&self, number: u64) -> Option<End> {
        self.end.filter(|_| self.ended >= number)
    }

    /// The life that is now has ended.
    pub(super) fn take_end(&mut self, at: Moment, code: Option<i64>, runs_again: bool) -> End {
        let end = End { at, code, is_expected: self.is_asked_to_end(), runs_again };
        self.ended += 1;
        self.is_running = runs_again;
        self.end = Some(end);
        end
    }

    /// Whether the last life ended although nobody asked it to.
    pub(super) fn has_died(&self) -> bool {
        self.end.is_some_and(|end| !end.is_expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanoseconds: u64) -> Moment {
        Moment::from_nanoseconds(nanoseconds)
    }

    #[test]
    fn end_that_was_asked_for_is_expected_and_the_next_one_is_not() {
        let mut life = Life::default();
        life.begin();
        assert_eq!(life.ask_to_end(), EndAsked::Now(1));
        assert!(life.take_end(at(5), Some(0), false).is_expected);
        assert!(!life.is_running && !life.has_died());
        life.begin();
        assert!(life.end.is_none(), "the next life has not ended");
        assert!(!life.take_end(at(9), Some(1), false).is_expected);
        assert!(life.has_died());
    }

    #[test]
    fn life_is_asked_to_end_once() {
        let mut life = Life::found(true);
        assert_eq!(life.ask_to_end(), EndAsked::Now(1));
        assert_eq!(life.ask_to_end(), EndAsked::Before(1));
        assert_eq!(life.end_of(1), None);
        let end = life.take_end(at(5), Some(0), false);
        assert_eq!(life.end_of(1), Some(end));
        life.begin();
        assert_eq!(life.ask_to_end(), EndAsked::Now(2));
        assert_eq!(life.end_of(2), None, "the end of the life before is not this one's");
    }

    #[test]
    fn kill_and_readiness_belong_to_one_life() {
        let mut life = Life::found(true);
        (life.was_killed, life.ready, life.first_sign) = (true, Some(at(1)), Some(at(1)));
        life.ask_to_end();
        life.take_end(at(5), Some(137), false);
        life.begin();
        assert!(!life.was_killed);
        assert_eq!((life.ready, life.first_sign), (None, None));
    }
}
