//! Reading protobuf messages, one field after the other, from bytes that may be anything.
//!
//! A reader borrows; it never allocates, never panics, and never looks further than the bytes it was given.

use std::fmt;

/// Why bytes are not the message that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside a field.
    Truncated,
    /// A number takes more than ten bytes, or more than 64 bits.
    Number,
    /// A field has the number zero, or a wire type that protobuf 3 does not have.
    Tag,
    /// A field that is known has another type than it should.
    Type(&'static str),
    /// A text is not UTF-8.
    Utf8(&'static str),
    /// An id has the wrong length, or is all zeros, or is missing.
    Id(&'static str),
    /// Values lie deeper in each other than anybody's do.
    Depth,
    /// What is decoded would take too much memory.
    TooLarge,
}

/// Reads the fields of one message.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

/// What a field holds, by its wire type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and payload; `None` at the message's end.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Payload<'a>)>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = u32::try_from(self.varint()?).map_err(|_| DecodeError::Tag)?;
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)?;
                Payload::Bytes(self.take(len)?)
            }
            5 => Payload::Fixed32(u32::from_le_bytes(self.array()?)),
            // Groups went out of use before OTLP began.
            _ => return Err(DecodeError::Tag),
        };
        match tag >> 3 {
            0 => Err(DecodeError::Tag),
            number => Ok(Some((number, payload))),
        }
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for (index, &byte) in self.rest.iter().take(10).enumerate() {
            // The tenth byte has room for the last of 64 bits.
            if index == 9 && byte > 1 {
                return Err(DecodeError::Number);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 { DecodeError::Truncated } else { DecodeError::Number })
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }
}

/// Each takes the field's name, for the error.
impl<'a> Payload<'a> {
    pub(crate) fn varint(self, field: &'static str) -> Result<u64, DecodeError> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(DecodeError::Type(field)),
        }
    }

    /// A `uint32`, `int32` or enum: protobuf drops the bits beyond 32.
    pub(crate) fn varint32(self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(self.varint(field)? as u32)
    }

    pub(crate) fn fixed64(self, field: &'static str) -> Result<u64, DecodeError> {
        match self {
            Self::Fixed64(value) => Ok(value),
            _ => Err(DecodeError::Type(field)),
        }
    }

    pub(crate) fn fixed32(self, field: &'static str) -> Result<u32, DecodeError> {
        match self {
            Self::Fixed32(value) => Ok(value),
            _ => Err(DecodeError::Type(field)),
        }
    }

    pub(crate) fn bytes(self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(DecodeError::Type(field)),
        }
    }

    pub(crate) fn text(self, field: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| DecodeError::Utf8(field))
    }

    pub(crate) fn message(self, field: &'static str) -> Result<Reader<'a>, DecodeError> {
        Ok(Reader::new(self.bytes(field)?))
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the bytes end inside a field"),
            Self::Number => f.write_str("a number takes more than 64 bits"),
            Self::Tag => f.write_str("no field can be read where one should begin"),
            Self::Type(field) => write!(f, "{field} has another type than it should"),
            Self::Utf8(field) => write!(f, "{field} is not UTF-8"),
            Self::Id(field) => write!(f, "{field} is not a valid id"),
            Self::Depth => f.write_str("values lie too deep in each other"),
            Self::TooLarge => f.write_str("what is decoded would take too much memory"),
        }
    }
}

impl std::error::Error for DecodeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_up_to_64_bits_and_no_further() {
        fn read(bytes: &[u8]) -> Result<Option<(u32, Payload<'_>)>, DecodeError> {
            Reader::new(bytes).next()
        }
        let max = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(read(&max), Ok(Some((1, Payload::Varint(u64::MAX)))));
        let over = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(read(&over), Err(DecodeError::Number));
        let endless = [0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00];
        assert_eq!(read(&endless), Err(DecodeError::Number));
        assert_eq!(read(&[0x08, 0x80]), Err(DecodeError::Truncated));
        // More bytes than needed are allowed.
        assert_eq!(read(&[0x08, 0x81, 0x00]), Ok(Some((1, Payload::Varint(1)))));
    }

    #[test]
    fn a_field_never_reaches_beyond_its_message() {
        assert_eq!(Reader::new(&[0x0a, 0x02, 0x00]).next(), Err(DecodeError::Truncated));
        assert_eq!(Reader::new(&[0x0d, 0x00]).next(), Err(DecodeError::Truncated));
        assert_eq!(Reader::new(&[0x09, 0x00]).next(), Err(DecodeError::Truncated));
        let huge = [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Reader::new(&huge).next(), Err(DecodeError::Truncated));
    }

    #[test]
    fn what_is_no_tag_is_refused() {
        assert_eq!(Reader::new(&[0x00, 0x00]).next(), Err(DecodeError::Tag));
        assert_eq!(Reader::new(&[0x0b]).next(), Err(DecodeError::Tag));
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x00]).next(), Err(DecodeError::Tag));
    }
}
