//! What goes wrong, and when: the modes of the saboteur, and the decision for each request.
//!
//! Data and arithmetic only; [`crate::server`] carries it out.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

/// The one way in which a saboteur misbehaves.
///
/// Parsed from, and shown as, `mode` or `mode:parameter=value`, which is what the environment variable `SABOTEUR`
/// holds: `half-body:every=100`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// `none`: behaves. The control of the controls.
    None,
    /// `never-ready`: lives, logs that it started, and never listens.
    NeverReady,
    /// `listens-late:by=DURATION`: behaves, but is not there for that long after its start.
    ListensLate {
        /// How long after its start it listens.
        by: Duration,
    },
    /// `ignores-sigterm`: logs the signal and goes on serving, until it is killed.
    IgnoresSigterm,
    /// `dies:requests=N` or `dies:after=DURATION`: exits 1 on its own.
    Dies(Death),
    /// `exits-one`: leaves like an honest server, but with exit code 1.
    ExitsOne,
    /// `drops-after-reading:every=N`: reads the request and closes the connection without an answer.
    DropsAfterReading(Every),
    /// `closes-idle`: closes the connection after each answer without having said so.
    ClosesIdle,
    /// `half-body:every=N`: promises a length, sends half of it, closes.
    HalfBody(Every),
    /// `cuts-undeclared:every=N`: declares no length, so that each answer ends with its connection, and sends half of one.
    CutsUndeclared(Every),
    /// `wrong-body:every=N`: a whole answer of the right length, meant for somebody else.
    WrongBody(Every),
    /// `swaps-answers:every=N`: an answer that is right in every byte but for what it calls its request: it is the answer
    /// to the one before.
    SwapsAnswers(Every),
    /// `unavailable-while-draining`: answers 503 from the signal to the end.
    UnavailableWhileDraining,
    /// `never-answers:every=N`: accepts, reads, and holds the connection open in silence.
    NeverAnswers(Every),
    /// `drops-at-sigterm:within=DURATION`: drops the requests that arrive that soon after the signal, and no others.
    DropsAtSigterm {
        /// How long after the signal a request is lost.
        within: Duration,
    },
    /// `answers-twice:every=N`: one request, two answers.
    AnswersTwice(Every),
}

/// One request in so many, by the order in which requests were read: the `n`th, the `2n`th, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every(NonZeroU64);

impl Every {
    /// Whether the request with this number, counted from 1, is one of them.
    #[must_use]
    pub fn hits(self, ordinal: u64) -> bool {
        ordinal.is_multiple_of(self.0.get())
    }
}

/// When a saboteur that [`Dies`](Sabotage::Dies) does so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// On reading the request with this number, before it is answered.
    AtRequest(NonZeroU64),
    /// So long after it read its first request.
    AfterFirstRequest(Duration),
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It is answered.
    Answer,
    /// It is answered, and then the connection is closed without notice.
    AnswerAndClose,
    /// The connection is closed without an answer.
    Drop,
    /// Half of the answer is sent, then the connection is closed.
    HalfAnswer,
    /// It is answered without a length, and the connection is closed.
    AnswerUndeclared,
    /// The same, with half of the body.
    HalfUndeclared,
    /// Somebody else's answer is sent.
    WrongAnswer,
    /// The answer to the request before is sent.
    AnswerOfAnother,
    /// 503 is sent.
    Unavailable,
    /// Nothing is sent, and nothing is closed.
    Silence,
    /// The answer is sent, and sent again.
    AnswerTwice,
    /// The whole process ends here, with exit code 1.
    Die,
}

/// What a saboteur does about a signal to terminate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// It stays.
    Stay,
    /// It drains and leaves with this exit code.
    Leave {
        /// The exit code of the process.
        exit_code: u8,
    },
}

impl Sabotage {
    /// What happens to the request with this number (counted from 1, over all connections), which was read
    /// `since_signal` after the signal to terminate, if there was one yet.
    #[must_use]
    pub fn treatment(self, ordinal: u64, since_signal: Option<Duration>) -> Treatment {
        let if_hit = |every: Every, then| if every.hits(ordinal) { then } else { Treatment::Answer };
        let is_draining = since_signal.is_some();
        match self {
            Self::Dies(Death::AtRequest(last)) if ordinal >= last.get() => Treatment::Die,
            Self::DropsAfterReading(every) => if_hit(every, Treatment::Drop),
            Self::ClosesIdle => Treatment::AnswerAndClose,
            Self::HalfBody(every) => if_hit(every, Treatment::HalfAnswer),
            Self::CutsUndeclared(every) if every.hits(ordinal) => Treatment::HalfUndeclared,
            Self::CutsUndeclared(_) => Treatment::AnswerUndeclared,
            Self::WrongBody(every) => if_hit(every, Treatment::WrongAnswer),
            Self::SwapsAnswers(every) => if_hit(every, Treatment::AnswerOfAnother),
            Self::UnavailableWhileDraining if is_draining => Treatment::Unavailable,
            Self::NeverAnswers(every) => if_hit(every, Treatment::Silence),
            Self::DropsAtSigterm { within } if since_signal.is_some_and(|since| since < within) => {
                Treatment::Drop
            }
            Self::AnswersTwice(every) => if_hit(every, Treatment::AnswerTwice),
            Self::None
            | Self::NeverReady
            | Self::ListensLate { .. }
            | Self::IgnoresSigterm
            | Self::Dies(_)
            | Self::ExitsOne
            | Self::UnavailableWhileDraining
            | Self::DropsAtSigterm { .. } => Treatment::Answer,
        }
    }

    /// What a signal to terminate leads to.
    #[must_use]
    pub fn farewell(self) -> Farewell {
        match self {
            Self::IgnoresSigterm => Farewell::Stay,
            Self::ExitsOne => Farewell::Leave { exit_code: 1 },
            _ => Farewell::Leave { exit_code: 0 },
        }
    }

    /// The mode alone, as it stands in the account.
    #[must_use]
    pub fn mode(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NeverReady => "never-ready",
            Self::ListensLate { .. } => "listens-late",
            Self::IgnoresSigterm => "ignores-sigterm",
            Self::Dies(_) => "dies",
            Self::ExitsOne => "exits-one",
            Self::DropsAfterReading(_) => "drops-after-reading",
            Self::ClosesIdle => "closes-idle",
            Self::HalfBody(_) => "half-body",
            Self::CutsUndeclared(_) => "cuts-undeclared",
            Self::WrongBody(_) => "wrong-body",
            Self::SwapsAnswers(_) => "swaps-answers",
            Self::UnavailableWhileDraining => "unavailable-while-draining",
            Self::NeverAnswers(_) => "never-answers",
            Self::DropsAtSigterm { .. } => "drops-at-sigterm",
            Self::AnswersTwice(_) => "answers-twice",
        }
    }
}

impl fmt::Display for Sabotage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mode())?;
        match self {
            Self::Dies(Death::AtRequest(last)) => write!(f, ":requests={last}"),
            Self::Dies(Death::AfterFirstRequest(after)) => write!(f, ":after={}ms", after.as_millis()),
            Self::DropsAtSigterm { within } => write!(f, ":within={}ms", within.as_millis()),
            Self::ListensLate { by } => write!(f, ":by={}ms", by.as_millis()),
            Self::DropsAfterReading(Every(n))
            | Self::HalfBody(Every(n))
            | Self::CutsUndeclared(Every(n))
            | Self::WrongBody(Every(n))
            | Self::SwapsAnswers(Every(n))
            | Self::NeverAnswers(Every(n))
            | Self::AnswersTwice(Every(n)) => write!(f, ":every={n}"),
            Self::None
            | Self::NeverReady
            | Self::IgnoresSigterm
            | Self::ExitsOne
            | Self::ClosesIdle
            | Self::UnavailableWhileDraining => Ok(()),
        }
    }
}

/// Why a text is not a [`Sabotage`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No mode has this name, or it does not take such a parameter.
    #[error("`{0}` names no mode of the saboteur")]
    Unknown(String),
    /// The parameter's value is not of its kind.
    #[error("`{0}` is not a positive whole number")]
    Count(String),
    /// The parameter's value is not a duration.
    #[error("`{0}` is not a duration such as 250ms or 3s")]
    Duration(String),
}

impl FromStr for Sabotage {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (mode, parameter) = match text.split_once(':') {
            None => (text, None),
            Some((mode, parameter)) => (mode, parameter.split_once('=')),
        };
        let every = |value| count(value).map(Every);
        Ok(match (mode, parameter) {
            ("none", None) if text == mode => Self::None,
            ("never-ready", None) if text == mode => Self::NeverReady,
            ("ignores-sigterm", None) if text == mode => Self::IgnoresSigterm,
            ("exits-one", None) if text == mode => Self::ExitsOne,
            ("closes-idle", None) if text == mode => Self::ClosesIdle,
            ("unavailable-while-draining", None) if text == mode => Self::UnavailableWhileDraining,
            ("dies", Some(("requests", value))) => Self::Dies(Death::AtRequest(count(value)?)),
            ("dies", Some(("after", value))) => Self::Dies(Death::AfterFirstRequest(duration(value)?)),
            ("drops-at-sigterm", Some(("within", value))) => {
                Self::DropsAtSigterm { within: duration(value)? }
            }
            ("listens-late", Some(("by", value))) => Self::ListensLate { by: duration(value)? },
            ("drops-after-reading", Some(("every", value))) => Self::DropsAfterReading(every(value)?),
            ("half-body", Some(("every", value))) => Self::HalfBody(every(value)?),
            ("cuts-undeclared", Some(("every", value))) => Self::CutsUndeclared(every(value)?),
            ("wrong-body", Some(("every", value))) => Self::WrongBody(every(value)?),
            ("swaps-answers", Some(("every", value))) => Self::SwapsAnswers(every(value)?),
            ("never-answers", Some(("every", value))) => Self::NeverAnswers(every(value)?),
            ("answers-twice", Some(("every", value))) => Self::AnswersTwice(every(value)?),
            _ => return Err(ParseError::Unknown(text.to_owned())),
        })
    }
}

/// A positive whole number.
fn count(text: &str) -> Result<NonZeroU64, ParseError> {
    text.parse().map_err(|_| ParseError::Count(text.to_owned()))
}

/// A duration in whole milliseconds or seconds: `250ms`, `3s`.
///
/// # Errors
///
/// [`ParseError::Duration`] for anything else.
pub fn duration(text: &str) -> Result<Duration, ParseError> {
    let parse = |digits: &str, unit: fn(u64) -> Duration| digits.parse().ok().map(unit);
    match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => parse(digits, Duration::from_millis),
        (None, Some(digits)) => parse(digits, Duration::from_secs),
        (None, None) => None,
    }
    .ok_or_else(|| ParseError::Duration(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Sabotage {
        text.parse().unwrap()
    }

    #[test]
    fn every_mode_is_shown_as_it_is_written() {
        for text in [
            "none",
            "never-ready",
            "listens-late:by=1500ms",
            "ignores-sigterm",
            "dies:requests=50",
            "dies:after=300ms",
            "exits-one",
            "drops-after-reading:every=1000",
            "closes-idle",
            "half-body:every=3",
            "cuts-undeclared:every=3",
            "wrong-body:every=7",
            "swaps-answers:every=7",
            "unavailable-while-draining",
            "never-answers:every=100",
            "drops-at-sigterm:within=5ms",
            "answers-twice:every=2",
        ] {
            assert_eq!(parsed(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_mode_is_refused_with_its_text() {
        for text in ["", "dies", "none:", "none:every=3", "half-body", "half-body:within=5ms", "exits-one:x"]
        {
            assert_eq!(text.parse::<Sabotage>(), Err(ParseError::Unknown(text.to_owned())), "{text}");
        }
        assert_eq!("half-body:every=0".parse::<Sabotage>(), Err(ParseError::Count("0".into())));
        assert_eq!("dies:after=soon".parse::<Sabotage>(), Err(ParseError::Duration("soon".into())));
    }

    #[test]
    fn one_in_n_is_exactly_the_nth_of_each_n() {
        let sabotage = parsed("half-body:every=4");
        let hit: Vec<u64> =
            (1..=12).filter(|&n| sabotage.treatment(n, None) == Treatment::HalfAnswer).collect();
        assert_eq!(hit, [4, 8, 12]);
    }

    #[test]
    fn only_the_requests_of_the_window_after_the_signal_are_lost() {
        let sabotage = parsed("drops-at-sigterm:within=5ms");
        let at = |ms| sabotage.treatment(1, Some(Duration::from_millis(ms)));
        assert_eq!(sabotage.treatment(1, None), Treatment::Answer);
        assert_eq!((at(0), at(4), at(5)), (Treatment::Drop, Treatment::Drop, Treatment::Answer));
    }

    #[test]
    fn only_the_mode_that_ignores_the_signal_stays() {
        assert_eq!(parsed("ignores-sigterm").farewell(), Farewell::Stay);
        assert_eq!(parsed("exits-one").farewell(), Farewell::Leave { exit_code: 1 });
        assert_eq!(parsed("half-body:every=1").farewell(), Farewell::Leave { exit_code: 0 });
    }
}
