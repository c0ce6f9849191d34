//! Which server a request was meant for.

use http::uri::Authority;
use http::{HeaderMap, Uri, header};

/// The name or address of a server, and its port, as the client wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerAddress<'a> {
    /// The value of `server.address`: a name, or an IP address without brackets.
    pub host: &'a str,
    /// The port, if one was written.
    pub port: Option<u16>,
}

impl<'a> ServerAddress<'a> {
    /// The server that a request names: in its target (an absolute one, or HTTP/2's `:authority`), else in its `Host`.
    ///
    /// `Forwarded` and its kin are not looked at: anybody can write them.
    pub fn of_request(uri: &'a Uri, headers: &'a HeaderMap) -> Option<Self> {
        match uri.authority() {
            Some(authority) => Self::of_authority(authority),
            None => Self::parse(headers.get(header::HOST)?.as_bytes()),
        }
    }

    /// The server that an authority names.
    pub fn of_authority(authority: &'a Authority) -> Option<Self> {
        Self::parse(authority.as_str().as_bytes())
    }

    /// Reads `host`, `host:port` or `[address]:port`, with or without user information, which is left out. `None` if it
    /// is none of these; a port that is no port is left out.
    ///
    /// [RFC 3986, 3.2](https://www.rfc-editor.org/rfc/rfc3986#section-3.2)
    pub fn parse(authority: &'a [u8]) -> Option<Self> {
        let (host, rest) = match Self::plain(authority) {
            Some(parts) => parts,
            None => Self::unusual(authority)?,
        };
        let port = match rest.strip_prefix(':') {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok(),
            _ => None,
        };
        (!host.is_empty()).then_some(Self { host, port })
    }

    /// Splits a name or an IPv4 address, in ASCII and with no more than a port: nearly every one there is.
    #[inline]
    fn plain(authority: &[u8]) -> Option<(&str, &str)> {
        let plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-');
        let end = authority.iter().position(|byte| !plain(byte)).unwrap_or(authority.len());
        let (host, rest) = authority.split_at(end);
        let rest_is_port = rest.is_empty() || (rest[0] == b':' && rest[1..].iter().all(u8::is_ascii_digit));
        let text = |bytes| std::str::from_utf8(bytes).ok();
        if rest_is_port { text(host).zip(text(rest)) } else { None }
    }

    /// Splits what is not [`plain`](Self::plain).
    #[cold]
    fn unusual(authority: &[u8]) -> Option<(&str, &str)> {
        let authority = std::str::from_utf8(authority).ok()?;
        let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        match host_and_port.strip_prefix('[') {
            Some(literal) => {
                let (host, rest) = literal.split_once(']')?;
                let is_literal = |byte: u8| byte.is_ascii_alphanumeric() || b".:%-_~".contains(&byte);
                host.bytes().all(is_literal).then_some((host, rest))
            }
            None => {
                let end = host_and_port.find(':').unwrap_or(host_and_port.len());
                let (host, rest) = host_and_port.split_at(end);
                host.bytes().all(is_in_name).then_some((host, rest))
            }
        }
    }

    /// The port that was written, else the one that the scheme stands for.
    pub fn port_or_default(&self, scheme: &str) -> Option<u16> {
        self.port.or(match scheme {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            _ => None,
        })
    }
}

/// What a registered name consists of; also beyond ASCII, because some clients do not encode.
const fn is_in_name(byte: u8) -> bool {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | 0x80.. => true,
        _ => matches!(
            byte,
            b'.' | b'-'
                | b'_'
                | b'~'
                | b'%'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
        ),
    }
}
