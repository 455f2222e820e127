//! Label selectors as text: the Kubernetes grammar, parsed to the registry's syntax tree.
//!
//! ```text
//!   selector    = [ requirement *( "," requirement ) ]
//!   requirement = "!" key | key [ ("=" / "==" / "!=") value | ("in" / "notin") "(" value *( "," value ) ")" ]
//!   key         = [ dns-subdomain "/" ] word        value = [ word ]        word = 1*63 alnum, '-', '_', '.'
//! ```
//!
//! As in Kubernetes an empty selector takes everything, a value may be empty, and the words `in` and `notin` are
//! operators wherever an operator or a key may stand and plain values inside parentheses. Other than there `in ()` is
//! read as the one empty value, which is how the registry prints it.
//!
//! Invariants
//! * What the registry prints of a parsed selector parses to the same selector.
//!
//! Never here: what a selector means; that is `registry::selector`.

use std::collections::BTreeSet;
use std::sync::Arc;

use remuda_registry::limits::SELECTOR_REQUIREMENTS_MAX;
use remuda_registry::selector::{Condition, Requirement, Selector};
use winnow::Parser as _;
use winnow::ascii::multispace0;
use winnow::combinator::{alt, cut_err, delimited, eof, opt, preceded, separated, terminated};
use winnow::error::{ContextError, ErrMode, StrContext, StrContextValue};
use winnow::token::take_while;

/// Bounds of selectors and labels.
pub mod limits {
    /// Longest selector text: it is stored with each waiter.
    pub const TEXT_BYTES_MAX: usize = 4_096;
    /// Values in one `in (...)`: each is compared with each class once.
    pub const VALUES_MAX: usize = 64;
    /// Longest name part of a label key, and longest label value, as in Kubernetes.
    pub const WORD_BYTES_MAX: usize = 63;
    /// Longest prefix of a label key: a DNS subdomain.
    pub const PREFIX_BYTES_MAX: usize = 253;
}

/// Why a selector is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It does not follow the grammar.
    #[error("at byte {at}: {problem}")]
    Malformed {
        /// Where, in bytes from the start.
        at: usize,
        /// What was expected or is wrong.
        problem: String,
    },
    /// It follows the grammar and is too big.
    #[error("{what}: {found}, at most {max}")]
    TooBig {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much there may be.
        max: usize,
    },
}

type Parsed<T> = Result<T, ErrMode<ContextError>>;

/// Parses a selector.
///
/// # Errors
/// Where the text is malformed or too big; the error names the place.
pub fn parse(text: &str) -> Result<Selector, SelectorError> {
    if text.len() > limits::TEXT_BYTES_MAX {
        let (found, max) = (text.len(), limits::TEXT_BYTES_MAX);
        return Err(SelectorError::TooBig { what: "bytes", found, max });
    }
    let requirements = selector.parse(text).map_err(|refused| SelectorError::Malformed {
        at: refused.offset(),
        problem: problem(refused.inner(), &text[refused.offset()..]),
    })?;
    if requirements.len() > SELECTOR_REQUIREMENTS_MAX {
        let (found, max) = (requirements.len(), SELECTOR_REQUIREMENTS_MAX);
        return Err(SelectorError::TooBig { what: "requirements", found, max });
    }
    let most = |r: &Requirement| match &r.condition {
        Condition::In(values) | Condition::NotIn(values) => values.len(),
        Condition::Exists | Condition::DoesNotExist => 0,
    };
    let found = requirements.iter().map(most).max().unwrap_or(0);
    if found > limits::VALUES_MAX {
        return Err(SelectorError::TooBig { what: "values of one key", found, max: limits::VALUES_MAX });
    }
    Ok(Selector::new(requirements))
}

/// Whether `key` may be a label's key.
pub fn is_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    is_word(name) && prefix.is_none_or(is_subdomain)
}

/// Whether `value` may be a label's value; it may be empty.
pub fn is_value(value: &str) -> bool {
    value.is_empty() || is_word(value)
}

fn is_word(word: &str) -> bool {
    let bytes = word.as_bytes();
    (1..=limits::WORD_BYTES_MAX).contains(&bytes.len())
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_subdomain(prefix: &str) -> bool {
    let label = |part: &str| {
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|b| word(*b))
            && bytes.last().is_some_and(|b| word(*b))
            && bytes.iter().all(|b| word(*b) || *b == b'-')
    };
    prefix.len() <= limits::PREFIX_BYTES_MAX && prefix.split('.').all(label)
}

fn problem(context: &ContextError, rest: &str) -> String {
    let expected = context.context().find_map(|part| match part {
        StrContext::Expected(StrContextValue::Description(text)) => Some(*text),
        _ => None,
    });
    let found = rest.chars().next().map_or_else(|| "the end".to_owned(), |c| format!("`{}`", c.escape_default()));
    format!("expected {}, found {found}", expected.unwrap_or("a selector of the Kubernetes grammar"))
}

fn expected(what: &'static str) -> StrContext {
    StrContext::Expected(StrContextValue::Description(what))
}

fn selector(input: &mut &str) -> Parsed<Vec<Requirement>> {
    let nothing = (multispace0, eof).map(|_| Vec::new());
    let list = terminated(separated(1.., requirement, ','), eof.context(expected("`,` or the end")));
    alt((nothing, cut_err(list))).parse_next(input)
}

fn requirement(input: &mut &str) -> Parsed<Requirement> {
    delimited(multispace0, cut_err(alt((absent, present))), multispace0).parse_next(input)
}

fn absent(input: &mut &str) -> Parsed<Requirement> {
    let key = preceded(('!', multispace0), cut_err(key)).parse_next(input)?;
    Ok(Requirement { key, condition: Condition::DoesNotExist })
}

fn present(input: &mut &str) -> Parsed<Requirement> {
    let key = terminated(key, multispace0).parse_next(input)?;
    let condition = opt(alt((compared, listed))).parse_next(input)?.unwrap_or(Condition::Exists);
    Ok(Requirement { key, condition })
}

fn compared(input: &mut &str) -> Parsed<Condition> {
    let equal = alt(("==".value(true), "!=".value(false), "=".value(true))).parse_next(input)?;
    let value = preceded(multispace0, cut_err(value)).parse_next(input)?;
    Ok(condition(equal, BTreeSet::from([value])))
}

fn listed(input: &mut &str) -> Parsed<Condition> {
    let within = terminated(alt(("notin".value(false), "in".value(true))), multispace0).parse_next(input)?;
    let open = '('.context(expected("`(` and a list of values"));
    let item = delimited(multispace0, value, multispace0);
    let close = ')'.context(expected("`,` or `)`"));
    let values: Vec<Arc<str>> = cut_err(delimited(open, separated(1.., item, ','), close)).parse_next(input)?;
    Ok(condition(within, values.into_iter().collect()))
}

fn condition(positive: bool, values: BTreeSet<Arc<str>>) -> Condition {
    if positive { Condition::In(values) } else { Condition::NotIn(values) }
}

fn text<'s>(input: &mut &'s str) -> Parsed<&'s str> {
    take_while(0.., |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/')).parse_next(input)
}

fn key(input: &mut &str) -> Parsed<Arc<str>> {
    text.verify(|key: &str| is_key(key) && key != "in" && key != "notin")
        .map(Arc::from)
        .context(expected("a label key of the form [prefix/]name"))
        .parse_next(input)
}

fn value(input: &mut &str) -> Parsed<Arc<str>> {
    text.verify(is_value)
        .map(Arc::from)
        .context(expected("a label value: at most 63 letters, digits, `-`, `_`, `.`, ends alphanumeric"))
        .parse_next(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(text: &str) -> String {
        let parsed = parse(text).unwrap_or_else(|refused| panic!("{text:?}: {refused}"));
        let shown = parsed.to_string();
        assert_eq!(parse(&shown).as_ref(), Ok(&parsed), "{text:?} shows as {shown:?}");
        shown
    }

    #[test]
    fn the_grammar_is_read() {
        for (text, shown) in [
            ("", ""),
            ("  ", ""),
            ("os", "os"),
            ("!gpu", "!gpu"),
            ("! gpu", "!gpu"),
            ("os=linux", "os in (linux)"),
            ("os==linux", "os in (linux)"),
            ("os != linux", "os notin (linux)"),
            ("os=", "os in ()"),
            ("arch in (x86,arm)", "arch in (arm,x86)"),
            ("arch in( x86 , arm )", "arch in (arm,x86)"),
            ("arch notin (x86)", "arch notin (x86)"),
            ("arch in (in,notin)", "arch in (in,notin)"),
            ("inner", "inner"),
            ("inner=in", "inner in (in)"),
            ("notinner in (a)", "notinner in (a)"),
            ("example.com/zone=a.b_c-d", "example.com/zone in (a.b_c-d)"),
            (" b , a=1 , b ", "a in (1),b"),
        ] {
            assert_eq!(round(text), shown, "{text:?}");
        }
    }

    #[test]
    fn every_malformed_form_is_refused_with_its_place() {
        for (text, at) in [
            (",", 0),
            ("a,", 2),
            (",a", 0),
            ("a,,b", 2),
            ("a b", 2),
            ("=a", 0),
            ("!", 1),
            ("!!a", 1),
            ("!a=b", 2),
            ("a===b", 3),
            ("a=b=c", 3),
            ("a!b", 1),
            ("a>1", 1),
            ("a<1", 1),
            ("a in", 4),
            ("a in b", 5),
            ("a in (b", 7),
            ("a in b)", 5),
            ("a in (b c)", 8),
            ("a in ((b))", 6),
            ("a in (b))", 8),
            ("a (b)", 2),
            ("in (b)", 0),
            ("in", 0),
            ("notin", 0),
            ("-a", 0),
            ("a-", 0),
            ("a=-b", 2),
            ("a=b-", 2),
            ("a=b/c", 2),
            ("/a", 0),
            ("a/", 0),
            ("A.com/b", 0),
            ("a..b/c", 0),
            ("a/b/c", 0),
            ("a=\"b\"", 2),
            ("ä", 0),
            ("a=ä", 2),
            ("a\0", 1),
        ] {
            match parse(text) {
                Err(SelectorError::Malformed { at: found, problem }) => {
                    assert_eq!(found, at, "{text:?}: {problem}");
                    assert!(problem.starts_with("expected "), "{text:?}: {problem}");
                }
                other => panic!("{text:?} gave {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_too_big_is_refused() {
        let word = "a".repeat(limits::WORD_BYTES_MAX);
        assert!(parse(&word).is_ok());
        assert!(parse(&format!("{word}a")).is_err());
        assert!(parse(&format!("a={word}")).is_ok());
        assert!(parse(&format!("a={word}a")).is_err());
        let many = |count: usize, join: &str| (0..count).map(|i| format!("k{i}")).collect::<Vec<_>>().join(join);
        assert!(parse(&many(SELECTOR_REQUIREMENTS_MAX, ",")).is_ok());
        assert!(matches!(parse(&many(SELECTOR_REQUIREMENTS_MAX + 1, ",")), Err(SelectorError::TooBig { .. })));
        assert!(parse(&format!("a in ({})", many(limits::VALUES_MAX, ","))).is_ok());
        let refused = parse(&format!("a in ({})", many(limits::VALUES_MAX + 1, ",")));
        assert!(matches!(refused, Err(SelectorError::TooBig { .. })));
        let refused = parse(&" ".repeat(limits::TEXT_BYTES_MAX + 1));
        assert!(matches!(refused, Err(SelectorError::TooBig { what: "bytes", .. })));
    }

    /// No text makes the parser panic, and what it accepts it also prints readably.
    #[test]
    fn random_texts_never_panic() {
        const PIECES: [&str; 16] =
            ["a", "b", "in", "notin", "(", ")", ",", "=", "!", " ", "x/y", ".", "-", "ä", "\0", "0"];
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut draw = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % 16).expect("below 16")
        };
        let mut accepted = 0;
        for _ in 0..20_000 {
            let length = draw();
            let text: String = (0..length).map(|_| PIECES[draw()]).collect();
            if let Ok(parsed) = parse(&text) {
                accepted += 1;
                assert_eq!(parse(&parsed.to_string()), Ok(parsed), "{text:?}");
            }
        }
        assert!(accepted > 100, "only {accepted} accepted: the test tries nothing");
    }
}
