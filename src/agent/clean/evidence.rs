//! What a step saw, in few bytes.
//!
//! Invariants
//! * At most 1 KiB, sorted by word, cut at a character with the count of what was left out.
//!
//! Never here: judging it.

use std::collections::BTreeMap;

/// Bytes of one step's evidence in the receipt.
pub(crate) const BYTES: usize = 1024;

mod limits {
    /// Examples kept per word; the count goes on.
    pub(super) const EXAMPLES: usize = 6;
    /// Bytes of one example.
    pub(super) const EXAMPLE: usize = 120;
}

/// Words with counts and examples.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    words: BTreeMap<String, Seen>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    count: u64,
    examples: Vec<String>,
}

impl Evidence {
    /// Counts a word; zero leaves no trace.
    pub(crate) fn count(&mut self, word: &str, count: u64) {
        if count > 0 {
            self.words.entry(word.to_owned()).or_default().count += count;
        }
    }

    /// Counts a word once, with an example.
    pub(crate) fn note(&mut self, word: &str, example: impl Into<String>) {
        let seen = self.words.entry(word.to_owned()).or_default();
        seen.count += 1;
        let example = cut(&example.into(), limits::EXAMPLE).to_owned();
        if seen.examples.len() < limits::EXAMPLES && !seen.examples.contains(&example) {
            seen.examples.push(example);
        }
    }

    /// Adds what another saw.
    pub(crate) fn merge(&mut self, other: Evidence) {
        for (word, seen) in other.words {
            let mine = self.words.entry(word).or_default();
            mine.count += seen.count;
            let room = limits::EXAMPLES.saturating_sub(mine.examples.len());
            mine.examples.extend(seen.examples.into_iter().take(room));
        }
    }

    /// `word=count [example, example]; ...`
    pub(crate) fn text(&self) -> String {
        let words = self.words.iter().map(|(word, seen)| match seen.examples.as_slice() {
            [] => format!("{word}={}", seen.count),
            examples => format!("{word}={} [{}]", seen.count, examples.join(", ")),
        });
        let text = words.collect::<Vec<_>>().join("; ");
        if text.len() <= BYTES {
            return text;
        }
        let mark = " ...";
        format!("{}{mark}", cut(&text, BYTES - mark.len()))
    }
}

/// What a step did so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// What was seen.
    pub(crate) evidence: Evidence,
    /// Things that were removed: processes, mounts, files.
    pub(crate) removed: u64,
    /// Things that are left.
    pub(crate) left: u64,
}

/// The longest beginning of `text` that has at most `bytes` bytes.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_sorted_counted_and_bounded() {
        let mut evidence = Evidence::default();
        evidence.count("removed", 3);
        evidence.count("nothing", 0);
        evidence.note("left", "a");
        evidence.note("left", "b");
        assert_eq!(evidence.text(), "left=2 [a, b]; removed=3");
        for number in 0..100 {
            evidence.note(&format!("word-{number}"), "\u{e4}".repeat(200));
        }
        let text = evidence.text();
        assert!(text.len() <= 1024 && text.ends_with(" ..."), "{}", text.len());
    }
}
