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

/// The formatter would take twenty times as long as these few digits. They come together in a register: memory that is written
/// digit by digit, and read as a whole then, is waited for.
#[inline(always)]
fn v4(address: Ipv4Addr) -> Text {
    let (mut letters, mut len) = (0u128, 0);
    for octet in address.octets() {
        let Octet { digits, len: more } = OCTETS[usize::from(octet)];
        letters |= u128::from(u32::from_le_bytes(digits)) << (8 * len);
        len += usize::from(more);
    }
    // Without the last full stop.
    Text::V4(letters, len - 1)
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
