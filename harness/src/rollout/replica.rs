//! One replica, as a rollout knows it.

use std::sync::Arc;

use crate::scenario::Order;

/// One replica: a name, under which it also answers if it says who it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    /// Unique in the run.
    pub name: Arc<str>,
}

impl Replica {
    /// A replica of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.into() }
    }

    /// The replicas that a run begins with: `server-a`, `server-b`, …
    pub(super) fn first(count: usize) -> impl Iterator<Item = Self> {
        ('a'..='z').take(count).map(|letter| Self { name: format!("server-{letter}").into() })
    }

    /// The replica that takes its place. It has the name of one that is gone, or a number beside one that runs: `server-a.2`
    /// after `server-a`, then `server-a.3`.
    pub(super) fn successor(&self, order: Order) -> Self {
        let name = &*self.name;
        let numbered =
            name.rsplit_once('.').and_then(|(stem, number)| Some((stem, number.parse::<u32>().ok()?)));
        match (order, numbered) {
            (Order::StopFirst, _) => self.clone(),
            (Order::StartFirst, Some((stem, number))) => {
                Self { name: format!("{stem}.{}", number + 1).into() }
            }
            (Order::StartFirst, None) => Self { name: format!("{name}.2").into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successor_has_the_name_of_one_that_is_gone_or_the_next_number_beside_one_that_runs() {
        let first = Replica::first(2).next().unwrap();
        assert_eq!(first.successor(Order::StopFirst), first);
        let second = first.successor(Order::StartFirst);
        assert_eq!((&*first.name, &*second.name), ("server-a", "server-a.2"));
        assert_eq!(&*second.successor(Order::StartFirst).name, "server-a.3");
        assert_eq!(second.successor(Order::StopFirst), second);
    }
}
