//! The replicas' names seen so far.

use std::sync::{Arc, OnceLock};

/// Keeps each name once, so that an answer costs no allocation. Bounded: a server that makes up names gets the first
/// ones counted and the rest unnamed.
#[derive(Debug, Default)]
pub(super) struct Names([OnceLock<Arc<str>>; 32]);

impl Names {
    pub(super) fn name(&self, header: Option<&http::HeaderValue>) -> Option<Arc<str>> {
        let name = std::str::from_utf8(header?.as_bytes()).ok().filter(|name| name.len() <= 64)?;
        self.0
            .iter()
            .map(|slot| slot.get_or_init(|| Arc::from(name)))
            .find(|known| &***known == name)
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn names_are_kept_once_and_bounded() {
        let names = Names::default();
        let name = |text: &str| names.name(Some(&HeaderValue::from_str(text).unwrap()));
        let first = name("server-a").unwrap();
        assert!(Arc::ptr_eq(&first, &name("server-a").unwrap()));
        for made_up in 0..100 {
            name(&format!("name-{made_up}"));
        }
        assert!(name("yet-another").is_none());
        assert!(name("server-a").is_some());
        assert!(name(&"x".repeat(65)).is_none());
        assert!(names.name(None).is_none());
    }
}
