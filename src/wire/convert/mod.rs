//! Conversions between messages and the registry's types, one file per area.
//!
//! Inwards every field is checked and every violation kept, so that a caller hears all of them at once; outwards nothing
//! can fail. Enumerations that stay open for newer versions (causes, reasons, event kinds) are words in UPPER_SNAKE.
//!
//! Invariants
//! * What comes inwards has passed every rule that needs no state; what needs state is a refusal of `apply`.

pub mod agent;
pub mod event;
pub mod lease;
pub mod plan;
pub mod pool;
pub mod request;
pub mod returns;
pub mod worker;

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use prost_types::{Duration, Timestamp};
use remuda_registry::selector::Labels;
use remuda_registry::{Millis, SecretHash};
use sha2::{Digest as _, Sha256};

use crate::selector;

/// Bounds of what a message may hold.
pub mod limits {
    /// Who asks, in characters.
    pub const ACTOR_MAX: usize = 64;
    /// Why, in characters.
    pub const REASON_MAX: usize = 256;
    /// A pool's description, in characters.
    pub const DESCRIPTION_MAX: usize = 256;
    /// Labels of a worker or job, and annotations: they travel in every answer.
    pub const LABELS_MAX: usize = 64;
    /// An annotation's value, in bytes.
    pub const ANNOTATION_BYTES_MAX: usize = 1_024;
    /// Bytes of a secret or key that is presented: ours have 32.
    pub const SECRET_BYTES_MAX: usize = 256;
    /// Machine id, boot id, version, endpoint and capability names, in bytes.
    pub const TEXT_BYTES_MAX: usize = 256;
    /// Capabilities of a host.
    pub const CAPABILITIES_MAX: usize = 64;
    /// Renewals in one call: one library's leases.
    pub const RENEWALS_MAX: usize = 1_000;
    /// Workers of one session.
    pub const SESSION_WORKERS_MAX: usize = 1_000;
    /// Further folders of a pool.
    pub const FOLDERS_MAX: usize = 64;
    /// Arguments of a command, and bytes of each.
    pub const ARGUMENTS_MAX: usize = 64;
    /// Pages: at most this many rows, whatever is asked.
    pub const PAGE_MAX: i32 = 1_000;
    /// Rows of a page that names no size.
    pub const PAGE_DEFAULT: i32 = 100;
    /// Longest duration in a message: a day more than any setting permits would be a slip.
    pub const DURATION_DAYS_MAX: i64 = 3_651;
}

/// One field with a value that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's path in the request.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

/// Violations found so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations(pub Vec<FieldViolation>);

impl Violations {
    /// Notes a violation.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(FieldViolation { field: field.into(), description: description.into() });
    }

    /// Notes a violation where `holds` is false.
    pub fn require(&mut self, holds: bool, field: &str, description: &str) {
        if !holds {
            self.add(field, description);
        }
    }

    /// The value, or `None` and a violation.
    pub fn take<T, E: Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(field, error.to_string())).ok()
    }

    /// Adds those of a part, below `field`.
    pub fn below(&mut self, field: &str, part: Violations) {
        self.0.extend(part.0.into_iter().map(|v| FieldViolation { field: format!("{field}.{}", v.field), ..v }));
    }

    /// `value` where nothing was violated.
    ///
    /// # Errors
    /// All violations, where there is one.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Violations> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            Some(_) | None => {
                debug_assert!(!self.0.is_empty(), "a missing value without a violation");
                Err(self)
            }
        }
    }

    /// A text of at most `max` characters without control characters.
    pub fn text(&mut self, field: &str, text: &str, max: usize) -> Arc<str> {
        self.require(text.chars().count() <= max, field, &format!("must have at most {max} characters"));
        self.require(!text.chars().any(char::is_control), field, "must not hold control characters");
        Arc::from(text)
    }

    /// A text of at least one character.
    pub fn needed_text(&mut self, field: &str, text: &str, max: usize) -> Arc<str> {
        self.require(!text.is_empty(), field, "must be set");
        self.text(field, text, max)
    }

    /// A duration in milliseconds, rounded up; `None` where it is unset.
    pub fn duration(&mut self, field: &str, duration: Option<&Duration>) -> Option<Millis> {
        let duration = duration?;
        let days = limits::DURATION_DAYS_MAX;
        let well_formed = (0..=999_999_999).contains(&duration.nanos) && (0..days * 86_400).contains(&duration.seconds);
        if !well_formed {
            self.add(field, format!("must be a duration from 0 to {days} days"));
            return None;
        }
        let (seconds, nanos) = (duration.seconds.unsigned_abs(), u64::from(duration.nanos.unsigned_abs()));
        Some(Millis(seconds * 1_000 + nanos.div_ceil(1_000_000)))
    }

    /// Labels: keys and values of the Kubernetes form.
    pub fn labels(&mut self, field: &str, labels: &HashMap<String, String>) -> Labels {
        self.require(labels.len() <= limits::LABELS_MAX, field, "must have at most 64 entries");
        for (key, value) in labels {
            self.require(selector::is_key(key), field, &format!("key {key:?} must have the form [prefix/]name"));
            let why = format!("value {value:?} of {key:?} must be empty or at most 63 letters, digits, `-`, `_`, `.`");
            self.require(selector::is_value(value), field, &why);
        }
        labels.iter().map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str()))).collect()
    }

    /// Annotations: keys as labels have them, values of any text.
    pub fn annotations(&mut self, field: &str, map: &HashMap<String, String>) -> Labels {
        self.require(map.len() <= limits::LABELS_MAX, field, "must have at most 64 entries");
        for (key, value) in map {
            self.require(selector::is_key(key), field, &format!("key {key:?} must have the form [prefix/]name"));
            let fits = value.len() <= limits::ANNOTATION_BYTES_MAX;
            self.require(fits, field, &format!("value of {key:?} must have at most 1024 bytes"));
        }
        map.iter().map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str()))).collect()
    }

    /// The hash of a secret that is presented.
    pub fn secret(&mut self, field: &str, secret: &[u8]) -> SecretHash {
        let fits = (1..=limits::SECRET_BYTES_MAX).contains(&secret.len());
        self.require(fits, field, "must have 1 to 256 bytes");
        SecretHash(Sha256::digest(secret).into())
    }

    /// The size of a page.
    pub fn page_size(&mut self, field: &str, size: i32) -> usize {
        self.require(size >= 0, field, "must not be negative");
        let size = if size == 0 { limits::PAGE_DEFAULT } else { size.clamp(0, limits::PAGE_MAX) };
        usize::try_from(size).unwrap_or(0)
    }

    /// An etag; `None` where it is empty.
    pub fn etag(&mut self, field: &str, etag: &str) -> Option<u64> {
        if etag.is_empty() {
            return None;
        }
        self.take(field, etag.parse::<u64>().map_err(|_| "must be an etag that a read gave"))
    }
}

/// A duration as a message has it.
pub fn duration(millis: Millis) -> Duration {
    let nanos = i32::try_from(millis.0 % 1_000 * 1_000_000).unwrap_or(0);
    Duration { seconds: i64::try_from(millis.0 / 1_000).unwrap_or(i64::MAX), nanos }
}

/// A point of wall time as a message has it; `None` where it is not known.
pub fn timestamp(wall_ms: u64) -> Option<Timestamp> {
    let nanos = i32::try_from(wall_ms % 1_000 * 1_000_000).unwrap_or(0);
    let seconds = i64::try_from(wall_ms / 1_000).unwrap_or(i64::MAX);
    (wall_ms > 0).then_some(Timestamp { seconds, nanos })
}

/// The word of a name in CamelCase: `LeaseExpired` is `LEASE_EXPIRED`.
pub fn word(name: &str) -> String {
    let mut word = String::with_capacity(name.len() + 4);
    for (position, letter) in name.chars().enumerate() {
        if letter.is_ascii_uppercase() && position > 0 {
            word.push('_');
        }
        word.push(letter.to_ascii_uppercase());
    }
    word
}

/// Labels as a message has them.
pub fn map_of(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

#[cfg(test)]
mod tests;
