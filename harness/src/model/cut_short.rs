//! Why a run ended before its rollout did.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a run ended before its rollout did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum CutShort {
    /// A failure was found, and the run was to look for one.
    FailureFound,
    /// Ctrl-C, SIGTERM or SIGHUP.
    Interrupted,
    /// A replica ended although nobody asked it to.
    ReplicaDied {
        /// The replica.
        replica: Arc<str>,
        /// Its exit code, if it is known.
        code: Option<i64>,
        /// The last lines of its output.
        last_words: String,
        /// How many processes that it had started were still running.
        #[serde(default, skip_serializing_if = "is_zero")]
        left_running: usize,
    },
    /// The rollout could not go on.
    RolloutFailed {
        /// Why.
        error: String,
    },
    /// The harness was killed, and this is what its events say.
    Killed,
    /// What an earlier version of hitless wrote: the sentence alone.
    #[serde(untagged)]
    Told(String),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// "replica a ended on its own with exit code 3; it last said: out of memory". A program whose first process ends well and
/// leaves others has gone to the background.
pub(crate) fn death(replica: &str, code: Option<i64>, last_words: &str, left_running: usize) -> String {
    if left_running > 0 && code == Some(0) {
        return format!(
            "replica {replica} went to the background: its first process ended with exit code 0 and left {left_running} \
             running, which hitless killed; run the program in the foreground (nginx: `daemon off;`){last_words}"
        );
    }
    let code = code.map_or_else(String::new, |code| format!(" with exit code {code}"));
    // What servers of every language print of EADDRINUSE (bind(2)).
    let is_in_use = ["EADDRINUSE", "ddress already in use", "ddress in use"];
    let hint = if is_in_use.iter().any(|text| last_words.contains(text)) {
        "; its port is taken: a server without SO_REUSEPORT cannot share it, so use --replicas 1"
    } else {
        ""
    };
    format!("replica {replica} ended on its own{code}{last_words}{hint}")
}

impl fmt::Display for CutShort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ROLLOUT_FAILED: &str = "the rollout could not go on: ";
        match self {
            Self::FailureFound => out.write_str("the first failure ended the run, as asked"),
            Self::Interrupted => out.write_str("the run was interrupted"),
            Self::ReplicaDied { replica, code, last_words, left_running } => {
                write!(out, "{ROLLOUT_FAILED}{}", death(replica, *code, last_words, *left_running))
            }
            Self::RolloutFailed { error } => write!(out, "{ROLLOUT_FAILED}{error}"),
            Self::Killed => out.write_str("the run was killed; this is what its events.jsonl says"),
            Self::Told(sentence) => out.write_str(sentence),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_that_is_taken_is_told_with_what_to_do() {
        let told = death("b", Some(1), "; it last said: bind: Address already in use (os error 98)", 0);
        assert!(told.contains("--replicas 1") && told.contains("SO_REUSEPORT"), "{told}");
        assert!(!death("b", Some(1), "; it last said: no", 0).contains("--replicas"));
    }

    #[test]
    fn reason_comes_back_from_json_and_an_old_sentence_stays_one() {
        let died = CutShort::ReplicaDied {
            replica: "a".into(),
            code: Some(3),
            last_words: "; it last said: no".into(),
            left_running: 0,
        };
        for reason in [CutShort::Interrupted, CutShort::Killed, died] {
            let json = serde_json::to_string(&reason).unwrap();
            assert_eq!(serde_json::from_str::<CutShort>(&json).unwrap(), reason, "{json}");
        }
        let old: CutShort = serde_json::from_str("\"the run was interrupted\"").unwrap();
        assert_eq!(old.to_string(), CutShort::Interrupted.to_string());
    }
}
