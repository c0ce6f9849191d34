//! The file of a batch on disk: what it consists of, and how it is told from one that was torn or changed.
//!
//! A file is a head of [`HEAD_BYTES`] and one OTLP `ExportTraceServiceRequest`, resource included, in the very bytes
//! that go to a collector by either protocol. The head has a checksum of its own, so that a file whose message is damaged
//! still says how many spans are lost with it. All numbers are little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0 – 7 | [`MAGIC`] |
//! | 8 – 9 | [`VERSION`] of the format |
//! | 10 – 11 | flags: 1 means that a collector may have the batch although it did not say so |
//! | 12 – 15 | number of spans, at least 1 |
//! | 16 – 23 | length of the message |
//! | 24 – 27 | CRC-32 of the message |
//! | 28 – 31 | CRC-32 of the bytes before |
//!
//! What is read here may be anything: nothing is believed before its checksum is right, and nothing is allocated.

use std::error::Error;
use std::fmt;

/// The length of what precedes the message, in bytes.
pub(crate) const HEAD_BYTES: usize = 32;

/// What a file begins with.
const MAGIC: [u8; 8] = *b"trcspool";

/// The format that is written, and the only one that there has been.
const VERSION: u16 = 1;

const MAY_HAVE_ARRIVED: u16 = 1;

/// The largest message that is read. A batch is below 1 MiB, and its resource is what fits into an environment.
pub(crate) const MESSAGE_BYTES_MAX: u64 = 16 << 20;

/// A batch as it lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolRecord<'a> {
    /// The number of spans that it was made of.
    pub spans: u32,
    /// Whether a collector may have the batch already: it was sent before, and never answered.
    pub may_have_arrived: bool,
    /// An OTLP `ExportTraceServiceRequest`.
    pub message: &'a [u8],
}

/// What is known of a file before its message is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) spans: u32,
    pub(crate) may_have_arrived: bool,
    pub(crate) message_bytes: u64,
    message_checksum: u32,
}

/// Why a file is not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpoolRecordError {
    /// It does not begin as a file of the spool does, or its head is damaged: nothing is known of it.
    Head,
    /// It is of another version of the format.
    Version(u16),
    /// It is shorter or longer than it says.
    Length {
        /// The number of spans that it should hold.
        spans: u32,
    },
    /// It is as long as it says, and not what was written.
    Message {
        /// The number of spans that it should hold.
        spans: u32,
    },
}

impl<'a> SpoolRecord<'a> {
    /// Reads a whole file.
    ///
    /// ```
    /// use trace_core::testing::{SpoolRecord, SpoolRecordError};
    ///
    /// assert_eq!(SpoolRecord::read(b"something else"), Err(SpoolRecordError::Head));
    /// ```
    ///
    /// # Errors
    /// The file is not one of the spool's, or not whole.
    pub fn read(file: &'a [u8]) -> Result<Self, SpoolRecordError> {
        let (head, message) = file.split_first_chunk().ok_or(SpoolRecordError::Head)?;
        let head = Head::read(head)?;
        let spans = head.spans;
        if head.message_bytes != message.len() as u64 {
            return Err(SpoolRecordError::Length { spans });
        }
        if head.message_checksum != crc32fast::hash(message) {
            return Err(SpoolRecordError::Message { spans });
        }
        Ok(Self { spans, may_have_arrived: head.may_have_arrived, message })
    }
}

impl Head {
    /// The head of a message that comes in pieces.
    pub(crate) fn of<'a>(
        spans: u32,
        may_have_arrived: bool,
        message: impl Iterator<Item = &'a [u8]>,
    ) -> Self {
        let mut message_bytes = 0;
        let mut checksum = crc32fast::Hasher::new();
        for piece in message {
            message_bytes += piece.len() as u64;
            checksum.update(piece);
        }
        Self { spans, may_have_arrived, message_bytes, message_checksum: checksum.finalize() }
    }

    pub(crate) fn read(bytes: &[u8; HEAD_BYTES]) -> Result<Self, SpoolRecordError> {
        let mut reader = Fields(bytes);
        let magic: [u8; 8] = reader.next();
        let version = u16::from_le_bytes(reader.next());
        let flags = u16::from_le_bytes(reader.next());
        let head = Self {
            spans: u32::from_le_bytes(reader.next()),
            may_have_arrived: flags & MAY_HAVE_ARRIVED != 0,
            message_bytes: u64::from_le_bytes(reader.next()),
            message_checksum: u32::from_le_bytes(reader.next()),
        };
        let checksum = u32::from_le_bytes(reader.next());
        if magic != MAGIC || checksum != crc32fast::hash(&bytes[..HEAD_BYTES - 4]) {
            return Err(SpoolRecordError::Head);
        }
        if version != VERSION {
            return Err(SpoolRecordError::Version(version));
        }
        // Nobody writes these.
        if head.spans == 0 || head.message_bytes > MESSAGE_BYTES_MAX {
            return Err(SpoolRecordError::Head);
        }
        Ok(head)
    }

    pub(crate) fn write(&self) -> [u8; HEAD_BYTES] {
        let flags = if self.may_have_arrived { MAY_HAVE_ARRIVED } else { 0 };
        let mut bytes = [0; HEAD_BYTES];
        let mut writer = &mut bytes[..];
        put(&mut writer, &MAGIC);
        put(&mut writer, &VERSION.to_le_bytes());
        put(&mut writer, &flags.to_le_bytes());
        put(&mut writer, &self.spans.to_le_bytes());
        put(&mut writer, &self.message_bytes.to_le_bytes());
        put(&mut writer, &self.message_checksum.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..HEAD_BYTES - 4]);
        bytes[HEAD_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The length of the whole file in bytes.
    pub(crate) const fn file_bytes(&self) -> u64 {
        HEAD_BYTES as u64 + self.message_bytes
    }
}

impl SpoolRecordError {
    /// How many spans are lost with the file, if it says so.
    pub const fn spans(self) -> Option<u32> {
        match self {
            Self::Head | Self::Version(_) => None,
            Self::Length { spans } | Self::Message { spans } => Some(spans),
        }
    }
}

impl fmt::Display for SpoolRecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => f.write_str("its head is damaged, or it is another program's"),
            Self::Version(version) => write!(f, "it is of version {version}, which is not known here"),
            Self::Length { spans } => write!(f, "it is not as long as it says, and had {spans} spans"),
            Self::Message { spans } => write!(f, "its {spans} spans are damaged"),
        }
    }
}

impl Error for SpoolRecordError {}

/// The fields of a head, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// The next field; zeros beyond the end, which a head of [`HEAD_BYTES`] does not reach.
    fn next<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk() else { return [0; N] };
        self.0 = rest;
        *field
    }
}

fn put(out: &mut &mut [u8], field: &[u8]) {
    let (place, rest) = std::mem::take(out).split_at_mut(field.len());
    place.copy_from_slice(field);
    *out = rest;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(spans: u32, may_have_arrived: bool, message: &[u8]) -> Vec<u8> {
        let head = Head::of(spans, may_have_arrived, message.chunks(7));
        [&head.write()[..], message].concat()
    }

    #[test]
    fn the_format_is_what_earlier_versions_wrote() {
        let bytes = file(3, true, b"spans");
        let mut expected = b"trcspool\x01\0\x01\0\x03\0\0\0\x05\0\0\0\0\0\0\0".to_vec();
        expected.extend(crc32fast::hash(b"spans").to_le_bytes());
        expected.extend(crc32fast::hash(&expected).to_le_bytes());
        expected.extend(b"spans");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_file_of_another_version_is_known_as_such() {
        let mut bytes = file(3, false, b"spans");
        bytes[8] = 2;
        let checksum = crc32fast::hash(&bytes[..28]);
        bytes[28..32].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(SpoolRecord::read(&bytes), Err(SpoolRecordError::Version(2)));
        assert_eq!(SpoolRecordError::Version(2).spans(), None);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            spans in 1u32..,
            may_have_arrived: bool,
            message in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = file(spans, may_have_arrived, &message);
            prop_assert_eq!(
                SpoolRecord::read(&bytes),
                Ok(SpoolRecord { spans, may_have_arrived, message: &message })
            );
        }

        #[test]
        fn a_file_that_is_cut_or_changed_anywhere_is_found_out(
            message in prop::collection::vec(any::<u8>(), 1..200),
            at: prop::sample::Index,
            flip in 1u8..,
        ) {
            let bytes = file(9, false, &message);
            let at = at.index(bytes.len());
            let cut = SpoolRecord::read(&bytes[..at]);
            let known = if at < HEAD_BYTES { None } else { Some(9) };
            prop_assert_eq!(cut.unwrap_err().spans(), known);
            let mut changed = bytes;
            changed[at] ^= flip;
            prop_assert_eq!(SpoolRecord::read(&changed).unwrap_err().spans(), known);
        }

        #[test]
        fn anything_can_be_read(bytes: Vec<u8>) {
            let _ = SpoolRecord::read(&bytes);
        }
    }
}
