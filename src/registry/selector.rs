//! Label selectors: the syntax tree of the Kubernetes grammar and its evaluation.
//!
//! Parsing is in `wire`. Evaluation follows Kubernetes: `NotIn` and `DoesNotExist` hold where the key is absent.
//!
//! Invariants
//! * [`Selector::new`] sorts and removes doubles, so that equal questions are equal keys of the class cache.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Labels of a worker: what classes are made of and selectors ask about.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// All requirements must hold; none means every worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Selector {
    /// Sorted and distinct.
    pub requirements: Vec<Requirement>,
}

/// One term of a selector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// The label's key.
    pub key: Arc<str>,
    /// What must hold of it.
    pub condition: Condition,
}

/// What a requirement asks of its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Condition {
    /// Present, with one of these values (`=`, `==`, `in`).
    In(BTreeSet<Arc<str>>),
    /// Absent, or with none of these values (`!=`, `notin`).
    NotIn(BTreeSet<Arc<str>>),
    /// Present with any value (`key`).
    Exists,
    /// Absent (`!key`).
    DoesNotExist,
}

impl Selector {
    /// A selector of these requirements in canonical order.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort();
        requirements.dedup();
        Self { requirements }
    }

    /// Whether all requirements hold of `labels`.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    /// Whether this requirement holds of `labels`.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.condition {
            Condition::In(values) => value.is_some_and(|value| values.contains(value)),
            Condition::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Condition::Exists => value.is_some(),
            Condition::DoesNotExist => value.is_none(),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, requirement) in self.requirements.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |values: &BTreeSet<Arc<str>>| values.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(",");
        match &self.condition {
            Condition::In(values) => write!(f, "{} in ({})", self.key, join(values)),
            Condition::NotIn(values) => write!(f, "{} notin ({})", self.key, join(values)),
            Condition::Exists => write!(f, "{}", self.key),
            Condition::DoesNotExist => write!(f, "!{}", self.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(key: &str, condition: Condition) -> Requirement {
        Requirement { key: key.into(), condition }
    }

    #[test]
    fn absent_keys_satisfy_only_negations() {
        let labels = Labels::new();
        let values: BTreeSet<Arc<str>> = ["x".into()].into();
        assert!(!requirement("a", Condition::In(values.clone())).matches(&labels));
        assert!(requirement("a", Condition::NotIn(values)).matches(&labels));
        assert!(!requirement("a", Condition::Exists).matches(&labels));
        assert!(requirement("a", Condition::DoesNotExist).matches(&labels));
    }

    #[test]
    fn equal_questions_are_equal_keys() {
        let exists = requirement("b", Condition::Exists);
        let absent = requirement("a", Condition::DoesNotExist);
        let one = Selector::new(vec![exists.clone(), absent.clone(), exists.clone()]);
        assert_eq!(one, Selector::new(vec![absent, exists]));
    }
}
