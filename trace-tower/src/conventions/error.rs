//! The class of an error.

use std::error::Error;
use std::fmt::{self, Write};
use std::io;
use std::ops::Deref;

use super::text::Letters;

/// How many errors of a chain are looked at: chains are short, and one that is not may be a loop.
const SOURCES_MAX: usize = 16;

/// A value of `error.type`: a word of which there are few, and never an error's text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ErrorType(Name);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Given(&'static str),
    /// The longest `io::ErrorKind` has 22 letters.
    Kind(Letters<32>),
}

impl ErrorType {
    /// This word.
    pub const fn named(name: &'static str) -> Self {
        Self(Name::Given(name))
    }

    /// The class of an error that says of itself where it comes from: the first [`io::ErrorKind`] among it and its
    /// sources that says anything, such as `connection_reset`.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        for _ in 0..SOURCES_MAX {
            let error = next?;
            next = error.source();
            if let Some(error) = error.downcast_ref::<io::Error>() {
                if let Some(kind) = Self::kind(error.kind()) {
                    return Some(kind);
                }
                // What an `io::Error` wraps may say more, and is not among its sources.
                next = error.get_ref().map(|inner| inner as _);
            }
        }
        None
    }

    /// The name of the kind, as words.
    fn kind(kind: io::ErrorKind) -> Option<Self> {
        if kind == io::ErrorKind::Other {
            return None;
        }
        let mut name = Letters::<32>::new();
        write!(name, "{kind:?}").ok()?;
        if name.as_str() == "Uncategorized" {
            return None;
        }
        let mut words = Letters::new();
        for (i, letter) in name.as_str().char_indices() {
            if letter.is_ascii_uppercase() && i > 0 {
                words.write_char('_').ok()?;
            }
            words.write_char(letter.to_ascii_lowercase()).ok()?;
        }
        Some(Self(Name::Kind(words)))
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Name::Given(name) => name,
            Name::Kind(name) => name.as_str(),
        }
    }
}

impl Deref for ErrorType {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for ErrorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}
