//! What must hold for any URL and any head of a request, as `trace_core::fuzz` has it for the core's doors.

use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use trace_core::Propagator;

use crate::conventions::{QueryRedaction, RequestHeaders, ServerAddress, header_text};

/// Of a URL nothing is left but what may be seen: each value of its query is kept or replaced by the rule for its key, and
/// user and password are gone.
///
/// The first letter chooses the rule.
pub fn url(data: &[u8]) {
    let Some((rule, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    let (redaction, keeps_back): (QueryRedaction, fn(&str) -> bool) = match rule % 4 {
        0 => (QueryRedaction::default(), |_| true),
        1 => (QueryRedaction::all_but(["page", "a%20b"]), |key| !["page", "a%20b"].contains(&key)),
        2 => (QueryRedaction::only(["key", "a b"]), |key| ["key", "a b"].contains(&&*decoded(key))),
        _ => (QueryRedaction::conventions(), |key| {
            let listed = ["X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "AWSAccessKeyId"];
            let more = ["Signature", "sig", "X-Goog-Signature"];
            listed.iter().chain(&more).any(|listed| *listed == decoded(key))
        }),
    };
    let expected = |query: &str| {
        let pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some((key, _)) if keeps_back(key) => format!("{key}=REDACTED"),
            _ => pair.to_owned(),
        });
        pairs.collect::<Vec<_>>().join("&")
    };
    assert_eq!(redaction.query(&text).to_string(), expected(&text));

    let shown = redaction.url(&text).to_string();
    assert!(!shown.contains('#'), "{shown:?}");
    let whole = text.split('#').next().unwrap_or_default();
    let (before, query) = whole.split_once('?').map_or((whole, None), |(url, query)| (url, Some(query)));
    let (shown_before, shown_query) =
        shown.split_once('?').map_or((&*shown, None), |(url, query)| (url, Some(query)));
    assert_eq!(shown_query.map(str::to_owned), query.map(expected));
    // What goes before the `//` of an authority.
    let scheme = match before.split_once("//") {
        Some(("", rest)) => Some((String::new(), rest)),
        _ => before.split_once("://").map(|(scheme, rest)| (format!("{scheme}:"), rest)),
    };
    if let Some((scheme, rest)) = scheme {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = authority.rsplit('@').next().unwrap_or_default();
        let user = if authority.contains('@') { "REDACTED:REDACTED@" } else { "" };
        assert_eq!(shown_before, format!("{scheme}//{user}{host}{path}"));
    }
    // What has been taken apart already says the same.
    if let Ok(uri) = text.parse::<Uri>()
        && uri.scheme().is_some()
        && before.split_once("://").is_some_and(|(_, rest)| rest.contains('/'))
    {
        let of_uri = redaction.uri(&uri).to_string();
        // A scheme is read in any case, and known ones are kept in lower case.
        assert!(of_uri.eq_ignore_ascii_case(&shown), "{of_uri:?}, {shown:?}");
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut pieces = text.split('%');
    bytes.extend_from_slice(pieces.next().unwrap_or_default().as_bytes());
    for piece in pieces {
        let digits = piece.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&piece.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(piece.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An authority is read as the `http` crate reads it, where it reads it; a header's text and an address's are those of the
/// standard library.
pub fn authority(data: &[u8]) {
    let ours = ServerAddress::parse(data);
    if let Some(ServerAddress { host, port }) = ours {
        assert!(!host.is_empty());
        assert!(!host.contains(['@', '[', ']', '/', ' ']), "{host:?}");
        // Written again, it is read as the same.
        let host_again = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let again = port.map_or_else(|| host_again.clone(), |port| format!("{host_again}:{port}"));
        assert_eq!(ServerAddress::parse(again.as_bytes()), ours);
    }
    if let Ok(theirs) = Authority::try_from(data) {
        assert_eq!(ServerAddress::of_authority(&theirs), ours);
        let host_and_port = theirs.as_str().rsplit('@').next().unwrap_or_default();
        let has_literal = host_and_port.starts_with('[') && host_and_port.matches(['[', ']']).count() == 2;
        let has_name = !host_and_port.contains(['[', ']']) && host_and_port.matches(':').count() < 2;
        // What is read as a number, and is none that a port is written as.
        let is_odd =
            host_and_port.rsplit_once(':').is_some_and(|(_, port)| port.starts_with('+') || port.len() > 5);
        let host = theirs.host().trim_start_matches('[').trim_end_matches(']');
        match ours {
            // That crate lets more pass, and takes the last of several ports.
            Some(ours) if (has_literal || has_name) && !is_odd => {
                assert_eq!((ours.host, ours.port), (host, theirs.port_u16()));
            }
            Some(_) => {}
            // Between brackets there may be letters that are in no address.
            None => assert!(host.is_empty() || !has_name, "{theirs}"),
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(data) {
        assert_eq!(header_text(&value).to_string(), String::from_utf8_lossy(data));
    }
}

/// The headers that were found in one pass are those that a look-up finds, and so is the context in them.
///
/// Each line is a header: its first letter says which, the rest is its value.
pub fn request_headers(data: &[u8]) {
    let mut all = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Some((which, value)) = line.split_first() else { continue };
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        let name = match which {
            b'p' => HeaderName::from_static("traceparent"),
            b's' => HeaderName::from_static("tracestate"),
            b'b' => HeaderName::from_static("baggage"),
            b'h' => HeaderName::from_static("host"),
            b'u' => HeaderName::from_static("user-agent"),
            _ => HeaderName::from_static("other"),
        };
        all.append(name, value);
    }
    let found = RequestHeaders::new(&all);
    assert_eq!(found.host(), all.get("host"));
    assert_eq!(found.user_agent(), all.get("user-agent"));
    let propagator = Propagator::default();
    let (ours, theirs) = (propagator.extract(&found), propagator.extract(&all));
    assert_eq!(ours.span_context(), theirs.span_context());
    assert_eq!(ours.trace_state(), theirs.trace_state());
    assert_eq!(ours.baggage(), theirs.baggage());
    let target = Uri::from_static("/orders");
    let server = ServerAddress::of_request(&target, &found);
    assert_eq!(server, all.get("host").and_then(|host| ServerAddress::parse(host.as_bytes())));
}

#[cfg(test)]
#[path = "../../trace-core/fuzz/replay.rs"]
#[allow(dead_code, reason = "the core's tests need more of it")]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn everything_holds_for_whatever_was_found_worth_keeping() {
        super::replay::replay(&[
            ("authority", super::authority),
            ("request_headers", super::request_headers),
            ("url", super::url),
        ]);
    }
}
