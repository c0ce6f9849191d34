//! The owned value of an attribute: what a resource holds and what the decoder gives back.
//!
//! A live span never makes one, because it encodes the caller's borrowed values at once.
//! The variants are those of OTLP's `AnyValue` (`opentelemetry/proto/common/v1/common.proto`).

use std::fmt::{self, Write};

/// The value of an attribute, owned.
///
/// [`Display`](fmt::Display) writes it as a person reads it: a string as it is, a number as a number, an
/// array as `["a", "b"]`, a map as `{key: "value"}` and bytes as `0x` and hexadecimal digits. Strings are
/// quoted only inside arrays and maps, where their ends would not be seen otherwise.
///
/// ```
/// use trace_core::otlp::OwnedValue;
///
/// let value = OwnedValue::from(vec!["eu-west", "eu-north"]);
/// assert_eq!(value.to_string(), r#"["eu-west", "eu-north"]"#);
/// assert_eq!(OwnedValue::from("GET").to_string(), "GET");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum OwnedValue {
    /// Text.
    String(String),
    /// True or false.
    Bool(bool),
    /// A whole number.
    I64(i64),
    /// A floating point number.
    F64(f64),
    /// Bytes of any content.
    Bytes(Vec<u8>),
    /// Values in their order. An attribute of the semantic conventions holds values of one kind only.
    Array(Vec<OwnedValue>),
    /// Named values in their order.
    Map(Vec<(String, OwnedValue)>),
}

impl OwnedValue {
    /// The text, when this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value, when this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// The whole number, when this is one. A floating point number is not converted.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::I64(number) => Some(*number),
            _ => None,
        }
    }

    /// The floating point number, when this is one. A whole number is not converted.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::F64(number) => Some(*number),
            _ => None,
        }
    }

    /// The values of an array, when this is one.
    pub fn as_array(&self) -> Option<&[OwnedValue]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    fn write_nested(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(text) => write!(f, "{text:?}"),
            other => write!(f, "{other}"),
        }
    }
}

impl fmt::Display for OwnedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(text) => f.write_str(text),
            Self::Bool(truth) => write!(f, "{truth}"),
            Self::I64(number) => write!(f, "{number}"),
            // Debug keeps `1.0` apart from the whole number and writes `1e300` in five characters.
            Self::F64(number) => write!(f, "{number:?}"),
            Self::Bytes(bytes) => {
                f.write_str("0x")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Array(values) => {
                f.write_char('[')?;
                for (index, value) in values.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { ", " })?;
                    value.write_nested(f)?;
                }
                f.write_char(']')
            }
            Self::Map(entries) => {
                f.write_char('{')?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { ", " })?;
                    write!(f, "{key}: ")?;
                    value.write_nested(f)?;
                }
                f.write_char('}')
            }
        }
    }
}

impl From<String> for OwnedValue {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<&str> for OwnedValue {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<bool> for OwnedValue {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<i64> for OwnedValue {
    fn from(number: i64) -> Self {
        Self::I64(number)
    }
}

impl From<i32> for OwnedValue {
    fn from(number: i32) -> Self {
        Self::I64(number.into())
    }
}

impl From<u32> for OwnedValue {
    fn from(number: u32) -> Self {
        Self::I64(number.into())
    }
}

impl From<u16> for OwnedValue {
    fn from(number: u16) -> Self {
        Self::I64(number.into())
    }
}

impl From<f64> for OwnedValue {
    fn from(number: f64) -> Self {
        Self::F64(number)
    }
}

impl<T: Into<OwnedValue>> From<Vec<T>> for OwnedValue {
    fn from(values: Vec<T>) -> Self {
        Self::Array(values.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<OwnedValue>, const N: usize> From<[T; N]> for OwnedValue {
    fn from(values: [T; N]) -> Self {
        Self::Array(values.into_iter().map(Into::into).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_a_person_writes_them() {
        let cases = [
            (OwnedValue::from("plain text"), "plain text"),
            (true.into(), "true"),
            (200.into(), "200"),
            (0.5.into(), "0.5"),
            (1.0.into(), "1.0"),
            (1e300.into(), "1e300"),
            (OwnedValue::Bytes(vec![0, 0xab]), "0x00ab"),
            (OwnedValue::Bytes(vec![]), "0x"),
            (["a", "b\""].into(), r#"["a", "b\""]"#),
            (OwnedValue::Array(vec![]), "[]"),
            (vec![vec![1, 2], vec![3]].into(), "[[1, 2], [3]]"),
            (
                OwnedValue::Map(vec![("a".to_owned(), "x".into()), ("b".to_owned(), 1.into())]),
                r#"{a: "x", b: 1}"#,
            ),
        ];
        for (value, text) in cases {
            assert_eq!(value.to_string(), text);
        }
    }

    #[test]
    fn accessors_never_convert() {
        assert_eq!(OwnedValue::from(1).as_i64(), Some(1));
        assert_eq!(OwnedValue::from(1).as_f64(), None);
        assert_eq!(OwnedValue::from(1.0).as_i64(), None);
        assert_eq!(OwnedValue::from("true").as_bool(), None);
        assert_eq!(OwnedValue::from(["a"]).as_array(), Some(&["a".into()][..]));
        assert_eq!(OwnedValue::from(false).as_str(), None);
    }
}
