//! Addresses as text.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address to be set as a text: see [`Attributes::set_ip`](super::Attributes::set_ip). One of IPv4 that came in IPv6's
/// clothes is shown without them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IpText(pub(super) Text);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    /// Letters of ASCII, of which so many are the address, first. Nobody makes one but [`v4`].
    V4(u128, usize),
    V6(Ipv6Addr),
}

impl From<IpAddr> for IpText {
    #[inline(always)]
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => v4(address),
            IpAddr::V6(address) => Text::V6(address),
        })
    }
}

impl fmt::Debug for IpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for IpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Text::V4(letters, len) => {
                let letters = letters.to_le_bytes();
                f.pad(std::str::from_utf8(&letters[..len]).map_err(|_| fmt::Error)?)
            }
            Text::V6(address) => address.fmt(f),
        }
    }
}

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

/// The letters in one register.
#[inline(always)]
fn v4(address: Ipv4Addr) -> Text {
    let letters = V4Letters::from(address);
    let last = u128::from(letters.last) << (8 * letters.first_len);
    Text::V4(u128::from(letters.first) | last, letters.len())
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

    #[test]
    fn an_address_is_told_as_what_it_is() {
        let told = |address: IpAddr| IpText::from(address).to_string();
        let v4 = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!(told(v4.into()), "10.0.0.1");
        assert_eq!(told(v4.to_ipv6_mapped().into()), "10.0.0.1");
        assert_eq!(told(Ipv6Addr::LOCALHOST.into()), "::1");
        for octet in 0..=255 {
            for octets in
                [[octet, 0, 0, 0], [255, octet, 10, octet], [1, 99, octet, 100], [255, 255, 255, octet]]
            {
                let v4 = Ipv4Addr::from(octets);
                assert_eq!(told(v4.into()), v4.to_string());
            }
        }
        let longest = Ipv6Addr::from([0xabcd_u16; 8]);
        assert_eq!(told(longest.into()), "abcd:abcd:abcd:abcd:abcd:abcd:abcd:abcd");
    }
}
