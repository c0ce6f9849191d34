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

    /// The class of an error that says of itself where it comes from: the name of the first [`io::ErrorKind`] among it and
    /// its sources, such as `ConnectionReset`.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut vague = None;
        let mut next = Some(error);
        for _ in 0..SOURCES_MAX {
            let error = next?;
            next = error.source();
            if let Some(error) = error.downcast_ref::<io::Error>() {
                if error.kind() != io::ErrorKind::Other {
                    return Some(Self::kind(error.kind()));
                }
                // "Other" says little; an error that it wraps may say more, and is not among the sources of the wrapper.
                vague = vague.or(Some(Self::kind(error.kind())));
                next = error.get_ref().map(|inner| inner as _);
            }
            if next.is_none() {
                return vague;
            }
        }
        vague
    }

    fn kind(kind: io::ErrorKind) -> Self {
        let mut name = Letters::new();
        match write!(name, "{kind:?}") {
            Ok(()) => Self(Name::Kind(name)),
            Err(fmt::Error) => Self::named("Other"),
        }
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
