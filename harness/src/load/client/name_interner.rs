//! The replicas' names seen so far.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

/// More names than this are not told apart: a run of thousands of replacements makes as many, a server that makes up names
/// for its answers makes any number.
const MOST: usize = 4096;
const LONGEST: usize = 64;

/// Keeps each name once, so that an answer costs no allocation. Bounded: a server that makes up names gets the first
/// ones counted and the rest unnamed.
#[derive(Debug, Default)]
pub(super) struct NameInterner(RwLock<HashSet<Arc<str>>>);

impl NameInterner {
    pub(super) fn name(&self, header: Option<&http::HeaderValue>) -> Option<Arc<str>> {
        let name = std::str::from_utf8(header?.as_bytes()).ok().filter(|name| name.len() <= LONGEST)?;
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = known.get(name) {
            return Some(Arc::clone(name));
        }
        drop(known);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST && !known.contains(name) {
            return None;
        }
        let name: Arc<str> = name.into();
        Some(known.get(&name).cloned().unwrap_or_else(|| {
            known.insert(Arc::clone(&name));
            name
        }))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn names_are_kept_once_and_bounded() {
        let names = NameInterner::default();
        let name = |text: &str| names.name(Some(&HeaderValue::from_str(text).unwrap()));
        let first = name("server-a").unwrap();
        assert!(Arc::ptr_eq(&first, &name("server-a").unwrap()));
        for generation in 0..1000 {
            assert!(name(&format!("server-a.{generation}")).is_some(), "each of a thousand replacements");
        }
        for made_up in 0..MOST {
            name(&format!("name-{made_up}"));
        }
        assert!(name("yet-another").is_none());
        assert!(name("server-a").is_some());
        assert!(name(&"x".repeat(65)).is_none());
        assert!(names.name(None).is_none());
    }
}
