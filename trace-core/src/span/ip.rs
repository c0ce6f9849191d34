//! Addresses as text.

use std::net::Ipv4Addr;

/// An address of IPv4 as letters, in two halves that come together in memory: the last one is written behind the letters of the
/// first.
///
/// The formatter would take twenty times as long as these few digits. Each half is made in a register: memory that is written digit
/// by digit, and read as a whole then, is waited for.
#[derive(Clone, Copy)]
pub(super) struct V4Letters {
    /// Letters of ASCII, the first one in the lowest byte, and zeros behind them.
    pub(super) first: u64,
    /// How many these are.
    pub(super) first_len: usize,
    pub(super) last: u64,
    last_len: usize,
}

impl From<Ipv4Addr> for V4Letters {
    #[inline(always)]
    fn from(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        let ((first, first_len), (last, last_len)) = (two(a, b), two(c, d));
        // Without the last full stop.
        Self { first, first_len, last, last_len: last_len - 1 }
    }
}

impl V4Letters {
    /// How many bytes both halves are, one behind the other.
    pub(super) const WRITTEN: usize = 2 * size_of::<u64>();

    /// How many letters there are, fifteen at most.
    #[inline(always)]
    pub(super) const fn len(&self) -> usize {
        self.first_len + self.last_len
    }
}

/// Two parts of an address, each with its full stop.
#[inline(always)]
fn two(first: u8, last: u8) -> (u64, usize) {
    let [first, last] = [first, last].map(|octet| OCTETS[usize::from(octet)]);
    let letters = [first, last].map(|octet| u64::from(u32::from_le_bytes(octet.digits)));
    (letters[0] | letters[1] << (8 * first.len), usize::from(first.len) + usize::from(last.len))
}

/// A part of an IPv4 address, with a full stop behind it, and zeros behind that.
#[derive(Clone, Copy)]
struct Octet {
    digits: [u8; 4],
    /// Of the digits and the full stop.
    len: u8,
}

static OCTETS: [Octet; 256] = {
    let mut octets = [Octet { digits: [0; 4], len: 0 }; 256];
    let mut octet = 0;
    while octet < 256 {
        let hundreds = b'0' + (octet / 100) as u8;
        let (tens, ones) = (b'0' + (octet / 10 % 10) as u8, b'0' + (octet % 10) as u8);
        octets[octet] = match octet {
            0..10 => Octet { digits: [ones, b'.', 0, 0], len: 2 },
            10..100 => Octet { digits: [tens, ones, b'.', 0], len: 3 },
            _ => Octet { digits: [hundreds, tens, ones, b'.'], len: 4 },
        };
        octet += 1;
    }
    octets
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The letters as they come together.
    fn text(letters: V4Letters) -> String {
        let mut written = [0; 2 * V4Letters::WRITTEN];
        written[..8].copy_from_slice(&letters.first.to_le_bytes());
        written[letters.first_len..][..8].copy_from_slice(&letters.last.to_le_bytes());
        String::from_utf8(written[..letters.len()].to_vec()).unwrap()
    }

    #[test]
    fn an_address_is_written_as_the_formatter_writes_it() {
        for octet in 0..=255 {
            for octets in
                [[octet, 0, 0, 0], [255, octet, 10, octet], [1, 99, octet, 100], [255, 255, 255, octet]]
            {
                let v4 = Ipv4Addr::from(octets);
                assert_eq!(text(v4.into()), v4.to_string());
            }
        }
    }
}
