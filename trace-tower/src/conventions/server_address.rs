//! Which server a request was meant for.

use std::cell::RefCell;
use std::ptr;

use http::uri::Authority;
use http::{HeaderValue, Uri, Version};
use trace_core::{Attributes, EncodedAttributes, cold_path, semconv};

use super::{RequestHeaders, protocol_version};

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
    pub fn of_request(uri: &'a Uri, headers: &RequestHeaders<'a>) -> Option<Self> {
        Self::parse(authority(uri, headers)?)
    }

    /// The server that an authority names.
    pub fn of_authority(authority: &'a Authority) -> Option<Self> {
        Self::parse(authority.as_str().as_bytes())
    }

    /// Reads `host`, `host:port` or `[address]:port`, with or without user information, which is left out. `None` if it
    /// is none of these; a port that is no port is left out.
    ///
    /// [RFC 3986, 3.2](https://www.rfc-editor.org/rfc/rfc3986#section-3.2)
    #[inline]
    pub fn parse(authority: &'a [u8]) -> Option<Self> {
        let (host, port) = split_port(authority);
        // All of it is looked at before anything is decided.
        match host.iter().fold(NOTHING, |kinds, byte| kinds | KINDS[usize::from(*byte)]) {
            // Nearly always.
            PLAIN => {
                // SAFETY: what is plain is ASCII, and so UTF-8.
                Some(Self { host: unsafe { std::str::from_utf8_unchecked(host) }, port })
            }
            kinds if kinds & ODD == 0 && kinds != NOTHING => {
                std::str::from_utf8(host).ok().map(|host| Self { host, port })
            }
            _ => Self::parse_rare(authority),
        }
    }

    /// An authority that is not just a name and a port.
    #[cold]
    fn parse_rare(authority: &'a [u8]) -> Option<Self> {
        let user = authority.iter().rposition(|byte| *byte == b'@').map_or(0, |at| at + 1);
        let authority = &authority[user..];
        let (host, rest) = match authority {
            [b'[', literal @ ..] => {
                let end = literal.iter().position(|byte| *byte == b']')?;
                let (host, rest) = (&literal[..end], &literal[end + 1..]);
                host.iter().all(|byte| is_in_literal(*byte)).then_some((host, rest))?
            }
            // What comes after the first colon may be anything that begins with one.
            _ => {
                authority.split_at(authority.iter().position(|byte| *byte == b':').unwrap_or(authority.len()))
            }
        };
        let port = match rest {
            [] => None,
            [b':', digits @ ..] => port(digits),
            _ => return None,
        };
        let is_literal = authority.first() == Some(&b'[');
        let host = std::str::from_utf8(host).ok()?;
        (!host.is_empty() && (is_literal || is_name(host.as_bytes()))).then_some(Self { host, port })
    }

    /// The port that was written, else the one that the scheme stands for.
    pub fn port_or_default(&self, scheme: &str) -> Option<u16> {
        self.port.or_else(|| default_port(scheme))
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// The server that a request names, as it is written: see [`ServerAddress::of_request`].
#[inline]
pub fn authority<'a>(uri: &'a Uri, headers: &RequestHeaders<'a>) -> Option<&'a [u8]> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str().as_bytes()),
        None => headers.host().map(HeaderValue::as_bytes),
    }
}

/// Sets `server.address` and `server.port` of a server that is [written](ServerAddress::parse) so; neither, if it is none. The
/// port is that of the scheme where none is written.
///
/// A service is called by one name or a few, and calls few others: what the last authority of the thread became is put by.
#[inline(always)]
pub fn set_server(attributes: &mut Attributes<'_>, authority: &[u8], scheme: &str) {
    // SAFETY: a local without a destructor is there as long as its thread, which this does not leave.
    let last = unsafe { &*LAST.with(ptr::from_ref) };
    if let Ok(last) = last.try_borrow()
        && last.authority() == authority
    {
        attributes.set_encoded(&last.attributes);
        if !last.port_is_written {
            cold_path();
            attributes.aside(|attributes| set_default_port(attributes, scheme));
        }
        return;
    }
    cold_path();
    attributes.aside(|attributes| set_other_server(attributes, authority, scheme));
}

#[inline(never)]
fn set_other_server(attributes: &mut Attributes<'_>, authority: &[u8], scheme: &str) {
    let Some(ServerAddress { host, port }) = ServerAddress::parse(authority) else { return };
    attributes.set(semconv::SERVER_ADDRESS, host);
    match port {
        Some(port) => attributes.set(semconv::SERVER_PORT, port),
        None => set_default_port(attributes, scheme),
    }
    LAST.with_borrow_mut(|last| last.put_by(authority, host, port, None));
}

/// Sets `url.scheme` and `network.protocol.version`, and of the server, if there is one, what [`set_server`] sets. All of them are put
/// by together, because they are the same for all that comes through a connection.
#[inline(always)]
pub fn set_served(attributes: &mut Attributes<'_>, authority: Option<&[u8]>, scheme: &str, version: Version) {
    if let Some(authority) = authority
        && let Some(way) = Way::of(scheme, version)
    {
        // SAFETY: as above.
        let last = unsafe { &*LAST_SERVED.with(ptr::from_ref) };
        if let Ok(last) = last.try_borrow()
            && last.way == Some(way)
            && last.authority() == authority
        {
            attributes.set_encoded(&last.attributes);
            return;
        }
    }
    cold_path();
    attributes.aside(|attributes| set_otherwise_served(attributes, authority, scheme, version));
}

#[inline(never)]
fn set_otherwise_served(
    attributes: &mut Attributes<'_>,
    authority: Option<&[u8]>,
    scheme: &str,
    version: Version,
) {
    attributes.set(semconv::URL_SCHEME, scheme);
    if let Some(version) = protocol_version(version) {
        attributes.set(semconv::NETWORK_PROTOCOL_VERSION, version);
    }
    let Some(authority) = authority else { return };
    let Some(server @ ServerAddress { host, .. }) = ServerAddress::parse(authority) else { return };
    let port = server.port_or_default(scheme);
    attributes.set(semconv::SERVER_ADDRESS, host);
    if let Some(port) = port {
        attributes.set(semconv::SERVER_PORT, port);
    }
    if let Some(way) = Way::of(scheme, version) {
        LAST_SERVED.with_borrow_mut(|last| last.put_by(authority, host, port, Some(way)));
    }
}

/// How nearly all requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Http11,
    Https11,
    Http2,
    Https2,
}

impl Way {
    #[inline(always)]
    fn of(scheme: &str, version: Version) -> Option<Self> {
        // Inside a cluster most come so.
        if scheme == "http" && version == Version::HTTP_11 {
            return Some(Self::Http11);
        }
        cold_path();
        match (scheme, version) {
            ("http", Version::HTTP_2) => Some(Self::Http2),
            ("https", Version::HTTP_2) => Some(Self::Https2),
            ("https", Version::HTTP_11) => Some(Self::Https11),
            _ => None,
        }
    }

    /// The values of `url.scheme` and `network.protocol.version`.
    const fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Http11 => ("http", "1.1"),
            Self::Https11 => ("https", "1.1"),
            Self::Http2 => ("http", "2"),
            Self::Https2 => ("https", "2"),
        }
    }
}

#[inline(never)]
fn set_default_port(attributes: &mut Attributes<'_>, scheme: &str) {
    if let Some(port) = default_port(scheme) {
        attributes.set(semconv::SERVER_PORT, port);
    }
}

thread_local! {
    static LAST: RefCell<Last> = const { RefCell::new(Last::NONE) };
    static LAST_SERVED: RefCell<Last> = const { RefCell::new(Last::NONE) };
}

/// An authority, and what it becomes.
struct Last {
    authority: [u8; Self::AUTHORITY_BYTES],
    /// How many bytes of these are one. Where there is none it is the empty one, which has no attributes.
    length: usize,
    /// The address and the port, if it is written; with a way also that of its scheme, and how requests come.
    attributes: EncodedAttributes,
    port_is_written: bool,
    /// How requests come, if that is among the attributes.
    way: Option<Way>,
}

impl Last {
    /// The longest authority that is put by; one with a way is, if it is a few bytes shorter.
    const AUTHORITY_BYTES: usize = 64;

    const NONE: Self = Self {
        authority: [0; Self::AUTHORITY_BYTES],
        length: 0,
        attributes: EncodedAttributes::new(),
        port_is_written: true,
        way: None,
    };

    #[inline(always)]
    fn authority(&self) -> &[u8] {
        &self.authority[..self.length]
    }

    fn put_by(&mut self, authority: &[u8], host: &str, port: Option<u16>, way: Option<Way>) {
        let Self { attributes, .. } = self;
        attributes.clear();
        // Before an address there may be a password, which is not to stay.
        let is_encoded = ptr::eq(authority.as_ptr(), host.as_ptr())
            && attributes.add(semconv::SERVER_ADDRESS, host)
            && port.is_none_or(|port| attributes.add(semconv::SERVER_PORT, port))
            && way.map(Way::told).is_none_or(|(scheme, version)| {
                attributes.add(semconv::URL_SCHEME, scheme)
                    && attributes.add(semconv::NETWORK_PROTOCOL_VERSION, version)
            });
        match self.authority.get_mut(..authority.len()) {
            Some(free) if is_encoded => {
                free.copy_from_slice(authority);
                self.length = authority.len();
                self.port_is_written = port.is_some();
                self.way = way;
            }
            _ => {
                attributes.clear();
                self.length = 0;
                self.port_is_written = true;
                self.way = None;
            }
        }
    }
}

/// A name, and the port behind it; all of it is the name, if there is no port.
#[inline]
fn split_port(authority: &[u8]) -> (&[u8], Option<u16>) {
    let (mut port, mut scale) = (0, 1);
    for (at, byte) in authority.iter().enumerate().rev().take(PORT_DIGITS + 1) {
        match byte {
            b'0'..=b'9' => {
                port += u32::from(byte - b'0') * scale;
                scale *= 10;
            }
            b':' if scale > 1 => match u16::try_from(port) {
                Ok(port) => return (&authority[..at], Some(port)),
                Err(_) => break,
            },
            _ => break,
        }
    }
    (authority, None)
}

/// The most digits of a port.
const PORT_DIGITS: usize = 5;

/// Whether this is a registered name, or an address of IPv4.
fn is_name(host: &[u8]) -> bool {
    !host.is_empty() && host.iter().all(|byte| KINDS[usize::from(*byte)] != ODD)
}

/// What a text without a byte consists of.
const NOTHING: u8 = 0;
/// What a registered name consists of ([RFC 3986, 3.2.2](https://www.rfc-editor.org/rfc/rfc3986#section-3.2.2)).
const PLAIN: u8 = 1;
/// What it consists of beyond ASCII, because some clients do not encode.
const ENCODED: u8 = 2;
/// What is in no name.
const ODD: u8 = 4;

/// Which of these each byte is.
static KINDS: [u8; 256] = {
    let mut table = [ODD; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'%' => PLAIN,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => PLAIN,
            0x80.. => ENCODED,
            _ => ODD,
        };
        byte += 1;
    }
    table
};

/// What an address in brackets consists of, with a zone.
const fn is_in_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b':' | b'%' | b'-' | b'_' | b'~')
}

#[inline]
fn port(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > PORT_DIGITS {
        return None;
    }
    let mut port = 0;
    for digit in digits {
        port = port * 10 + u32::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    u16::try_from(port).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use trace_core::{Tracer, Traces};

    use super::*;

    #[test]
    fn what_is_put_by_for_one_way_is_not_told_of_another() {
        static TRACES: LazyLock<Traces> = LazyLock::new(|| Tracer::builder().build());
        let ways = [
            ("http", Version::HTTP_11, Some("1.1"), "80"),
            ("https", Version::HTTP_11, Some("1.1"), "443"),
            ("http", Version::HTTP_2, Some("2"), "80"),
            ("https", Version::HTTP_2, Some("2"), "443"),
            ("https", Version::HTTP_10, Some("1.0"), "443"),
            ("gopher", Version::HTTP_11, Some("1.1"), "None"),
        ];
        const LONG: &str = "internal-orders-1234567890.eu-central-1.elb.amazonaws.com";
        let hosts = [
            (Some("shop.example"), Some("shop.example"), None),
            (Some(LONG), Some(LONG), None),
            (Some("shop.example:8080"), Some("shop.example"), Some("8080")),
            (Some("me:secret@shop.example"), Some("shop.example"), None),
            (Some("[::1]:81"), Some("::1"), Some("81")),
            (Some("not a host"), None, Some("None")),
            (Some(""), None, Some("None")),
            (None, None, Some("None")),
        ];
        let each_way = ways.into_iter().flat_map(|way| hosts.map(|host| (way, host)));
        let each_host = hosts.into_iter().flat_map(|host| ways.map(|way| (way, host)));
        for ((scheme, version, told, default_port), (authority, host, port)) in each_way.chain(each_host) {
            // The second time by what is put by.
            for _ in 0..2 {
                let mut span = TRACES.tracer().span("GET").root().start();
                let mut attributes = span.attributes().unwrap();
                set_served(&mut attributes, authority.map(str::as_bytes), scheme, version);
                drop(attributes);
                let mut text = |key| span.attribute_text(key);
                assert_eq!(text(semconv::URL_SCHEME).as_deref(), Some(scheme));
                assert_eq!(text(semconv::NETWORK_PROTOCOL_VERSION).as_deref(), told);
                assert_eq!(text(semconv::SERVER_ADDRESS).as_deref(), host, "{authority:?}");
                let way = Way::of(scheme, version);
                let found = LAST_SERVED.with_borrow(|last| {
                    let is_of = last.way == way && Some(last.authority()) == authority.map(str::as_bytes);
                    (way.is_some() && is_of).then(|| format!("{:?}", last.attributes))
                });
                let is_put_by = matches!(authority, Some("shop.example" | "shop.example:8080" | LONG));
                assert_eq!(found.is_some(), is_put_by && way.is_some(), "{authority:?} {scheme}");
                let port = format!("\"server.port\": {},", port.unwrap_or(default_port));
                assert!(found.is_none_or(|found| found.contains(&port)), "{authority:?} {scheme}");
            }
        }
    }

    #[test]
    fn what_is_put_by_is_what_the_last_authority_became() {
        let mut last = Last::NONE;
        let long = "x".repeat(Last::AUTHORITY_BYTES);
        let too_long = format!("{long}x");
        for (authority, put_by) in [
            ("", Some(("{}", true))),
            ("shop.example:8080", Some((r#"{"server.address": "shop.example", "server.port": 8080}"#, true))),
            ("shop.example", Some((r#"{"server.address": "shop.example"}"#, false))),
            (&long, Some((&*format!(r#"{{"server.address": "{long}"}}"#), false))),
            (&too_long, None),
            ("127.0.0.1:80", Some((r#"{"server.address": "127.0.0.1", "server.port": 80}"#, true))),
            ("me:secret@shop.example:8080", None),
            ("shop:secret@shop", None),
            ("[::1]:8080", None),
            ("shop.example:", Some((r#"{"server.address": "shop.example"}"#, false))),
        ] {
            if let Some(ServerAddress { host, port }) = ServerAddress::parse(authority.as_bytes()) {
                last.put_by(authority.as_bytes(), host, port, None);
            }
            let found = (format!("{:?}", last.attributes), last.port_is_written);
            match put_by {
                Some((attributes, port_is_written)) => {
                    assert_eq!(last.authority(), authority.as_bytes());
                    assert_eq!(found, (attributes.to_owned(), port_is_written));
                }
                None => {
                    assert_eq!(last.authority(), b"");
                    assert_eq!(found, ("{}".to_owned(), true));
                }
            }
        }
    }
}
