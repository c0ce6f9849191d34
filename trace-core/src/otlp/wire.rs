//! The protobuf wire format, as far as OTLP needs it: varints, fixed numbers, and length-delimited fields.

/// `ScopeSpans.spans`.
pub(crate) const SCOPE_SPANS_SPANS: u8 = len_tag(2);

/// The most bytes that a one-byte tag and a length below 2 MiB take: more than any span needs.
pub(crate) const FIELD_HEAD_MAX: usize = 4;

/// The tag of a length-delimited field with a number up to 15.
pub(crate) const fn len_tag(field: u8) -> u8 {
    field << 3 | 2
}

/// The tag of a varint field with a number up to 15.
pub(crate) const fn varint_tag(field: u8) -> u8 {
    field << 3
}

/// The tag of a 64-bit field with a number up to 15.
pub(crate) const fn fixed64_tag(field: u8) -> u8 {
    field << 3 | 1
}

/// The tag of a 32-bit field with a number up to 15.
pub(crate) const fn fixed32_tag(field: u8) -> u8 {
    field << 3 | 5
}

/// The bytes of a varint.
pub(crate) const fn varint_len(value: u64) -> usize {
    // Seven bits a byte, and at least one.
    (70 - (value | 1).leading_zeros() as usize) / 7
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_len_field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The bytes of the tag and the length of a length-delimited field that takes `field` bytes in all.
pub(crate) const fn len_field_head(field: usize) -> usize {
    // One, two or three bytes of length, after the one of the tag: the first that fits.
    match field {
        0..=129 => 2,
        130..=16_386 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_field_is_found_from_its_whole_length() {
        for content in [0, 1, 126, 127, 128, 129, 16_382, 16_383, 16_384, 65_536, 2_097_151] {
            let mut out = Vec::new();
            put_len_field(&mut out, len_tag(2), &vec![7; content]);
            assert_eq!(len_field_head(out.len()), out.len() - content, "{content}");
            assert!(out.len() - content <= FIELD_HEAD_MAX);
        }
    }

    #[test]
    fn the_length_of_a_varint_is_that_of_its_bytes() {
        for shift in 0..64 {
            for value in [(1u64 << shift) - 1, 1u64 << shift, (1u64 << shift) + 1] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value), "{value}");
            }
        }
    }
}
