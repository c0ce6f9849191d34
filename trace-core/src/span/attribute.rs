//! Attributes as they are given to a span: borrowed, and encoded at once.

use std::fmt::{self, Write};
use std::ops::Range;

use crate::export::chunk::SPAN_BYTES_MAX;
use crate::otlp::encode::cut_bytes;

/// The name of an attribute.
///
/// Any string is a key. The keys of the semantic conventions are constants in [`semconv`](crate::semconv): a span
/// knows by one bit whether it has such a key already, so they are cheaper to set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key<'a> {
    name: &'a str,
    /// Which bit stands for the key, if it is one of the conventions'.
    known: Option<Known>,
}

/// The index of a key's bit, below 64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known(u8);

impl Known {
    /// The most keys that are known.
    pub(crate) const MAX: usize = 64;

    #[inline(always)]
    pub(crate) const fn bit(self) -> u64 {
        1 << self.0
    }
}

impl Key<'static> {
    pub(crate) const fn known(name: &'static str, index: u8) -> Self {
        assert!((index as usize) < Known::MAX, "there are 64 bits");
        Self { name, known: Some(Known(index)) }
    }
}

impl<'a> Key<'a> {
    /// A key of any name.
    #[inline(always)]
    pub const fn new(name: &'a str) -> Self {
        Self { name, known: None }
    }

    /// The name.
    #[inline(always)]
    pub const fn as_str(&self) -> &'a str {
        self.name
    }

    #[inline(always)]
    pub(crate) const fn of(name: &'a str, known: Option<Known>) -> Self {
        Self { name, known }
    }

    #[inline(always)]
    pub(crate) const fn known_as(&self) -> Option<Known> {
        self.known
    }
}

impl fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

impl<'a> From<&'a str> for Key<'a> {
    #[inline(always)]
    fn from(name: &'a str) -> Self {
        Self::new(name)
    }
}

impl<'a> From<&'a String> for Key<'a> {
    #[inline(always)]
    fn from(name: &'a String) -> Self {
        Self::new(name)
    }
}

/// The value of an attribute, borrowed from its owner for as long as it takes to encode it.
///
/// Integers beyond `i64` are set as their nearest `i64`, because OTLP has no larger ones. [`display`]
/// makes a value of whatever can be formatted; the text is written straight into the span, and only if the span is
/// recorded.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Value<'a> {
    /// Text.
    Str(&'a str),
    /// True or false.
    Bool(bool),
    /// A whole number.
    I64(i64),
    /// A floating point number.
    F64(f64),
    /// Bytes of any content.
    Bytes(&'a [u8]),
    /// Several texts.
    StrArray(&'a [&'a str]),
    /// Several whole numbers.
    I64Array(&'a [i64]),
    /// Several floating point numbers.
    F64Array(&'a [f64]),
    /// Several truth values.
    BoolArray(&'a [bool]),
    /// Values of any kinds.
    Array(&'a [Value<'a>]),
    /// Values with names.
    Map(&'a [(&'a str, Value<'a>)]),
    /// Text that is made while it is encoded. Texts inside arrays and maps cannot be made so: they are left empty
    /// there.
    Format(&'a dyn fmt::Display),
}

/// A value of whatever has a [`Display`](fmt::Display), written straight into the span.
///
/// ```
/// # let order = 7;
/// let mut span = trace_core::span("ship").start();
/// span.set_attribute("shop.order", trace_core::display(&format_args!("{order:06}")));
/// ```
pub fn display(value: &dyn fmt::Display) -> Value<'_> {
    Value::Format(value)
}

/// Appends the text of a value, as much of it as a span may hold. What a formatter wrote before it failed is
/// kept.
pub(crate) fn append(out: &mut String, text: fmt::Arguments<'_>) -> Range<usize> {
    struct Bounded<'a> {
        out: &'a mut String,
        left: usize,
    }
    impl Write for Bounded<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let kept = cut_bytes(text, self.left);
            self.out.push_str(kept);
            self.left -= kept.len();
            if kept.len() < text.len() { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let start = out.len();
    let _ = Bounded { out, left: SPAN_BYTES_MAX }.write_fmt(text);
    start..out.len()
}

/// The text of a value. Where a formatter fails, `to_string` and `format!` panic.
pub(crate) fn text_of(text: fmt::Arguments<'_>) -> String {
    let mut out = String::new();
    append(&mut out, text);
    out
}

/// Makes the texts that are only formatted so far: before a lock is taken, because to format is to run code of others,
/// which may write to the same span.
pub(super) fn with_texts<R>(
    attributes: &[(Key<'_>, Value<'_>)],
    f: impl FnOnce(&[(Key<'_>, Value<'_>)]) -> R,
) -> R {
    if !attributes.iter().any(|(_, value)| matches!(value, Value::Format(_))) {
        return f(attributes);
    }
    let texts: Vec<Option<String>> = attributes
        .iter()
        .map(|(_, value)| match value {
            Value::Format(text) => Some(text_of(format_args!("{text}"))),
            _ => None,
        })
        .collect();
    let made: Vec<(Key<'_>, Value<'_>)> = attributes
        .iter()
        .zip(&texts)
        .map(|((key, value), text)| (*key, text.as_deref().map_or(*value, Value::Str)))
        .collect();
    f(&made)
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl<'a> From<$from> for Value<'a> {
            #[inline(always)]
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

value_from! {
    bool => Bool,
    i64 => I64, i32 => I64, i16 => I64, i8 => I64, u32 => I64, u16 => I64, u8 => I64,
    f64 => F64, f32 => F64,
    &'a str => Str,
    &'a [u8] => Bytes,
    &'a [&'a str] => StrArray,
    &'a [i64] => I64Array,
    &'a [f64] => F64Array,
    &'a [bool] => BoolArray,
    &'a [Value<'a>] => Array,
}

macro_rules! value_from_wide {
    ($($from:ty),*) => {$(
        impl From<$from> for Value<'_> {
            #[inline(always)]
            fn from(value: $from) -> Self {
                Self::I64(i64::try_from(value).unwrap_or(i64::MAX))
            }
        }
    )*};
}

value_from_wide!(u64, usize, u128);

impl From<isize> for Value<'_> {
    #[inline(always)]
    fn from(value: isize) -> Self {
        // No platform has an `isize` of more than 64 bits.
        Self::I64(value as i64)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    #[inline(always)]
    fn from(value: &'a String) -> Self {
        Self::Str(value)
    }
}

impl<'a, const N: usize> From<&'a [&'a str; N]> for Value<'a> {
    #[inline(always)]
    fn from(value: &'a [&'a str; N]) -> Self {
        Self::StrArray(value)
    }
}

impl<'a, const N: usize> From<&'a [i64; N]> for Value<'a> {
    #[inline(always)]
    fn from(value: &'a [i64; N]) -> Self {
        Self::I64Array(value)
    }
}

impl<'a> From<&'a fmt::Arguments<'a>> for Value<'a> {
    #[inline(always)]
    fn from(value: &'a fmt::Arguments<'a>) -> Self {
        Self::Format(value)
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Str(value) => value.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::I64(value) => value.fmt(f),
            Self::F64(value) => value.fmt(f),
            Self::Bytes(value) => value.fmt(f),
            Self::StrArray(value) => value.fmt(f),
            Self::I64Array(value) => value.fmt(f),
            Self::F64Array(value) => value.fmt(f),
            Self::BoolArray(value) => value.fmt(f),
            Self::Array(value) => value.fmt(f),
            Self::Map(value) => f.debug_map().entries(value.iter().copied()).finish(),
            Self::Format(value) => text_of(format_args!("{value}")).fmt(f),
        }
    }
}
