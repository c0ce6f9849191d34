use std::error::Error;
use std::fmt;
use std::io;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};
use trace_core::{Context, SpanContext, SpanId, TraceFlags, TraceId, Tracer};

use super::*;

fn address(text: &str) -> Option<(&str, Option<u16>)> {
    ServerAddress::parse(text.as_bytes()).map(|server| (server.host, server.port))
}

#[test]
fn a_server_is_read_from_an_authority() {
    for (text, server) in [
        ("shop.example", Some(("shop.example", None))),
        ("shop.example:8080", Some(("shop.example", Some(8080)))),
        ("shop.example:", Some(("shop.example", None))),
        ("127.0.0.1:80", Some(("127.0.0.1", Some(80)))),
        ("[::1]", Some(("::1", None))),
        ("[fe80::1%25eth0]:443", Some(("fe80::1%25eth0", Some(443)))),
        ("me:secret@shop.example:81", Some(("shop.example", Some(81)))),
        ("m@e@shop.example", Some(("shop.example", None))),
        ("bücher.example", Some(("bücher.example", None))),
        ("shop.example:65536", Some(("shop.example", None))),
        ("shop.example:+80", Some(("shop.example", None))),
        ("shop.example:80:90", Some(("shop.example", None))),
        ("shop.example:8o", Some(("shop.example", None))),
        ("shop.example:00080", Some(("shop.example", Some(80)))),
        ("shop.example 80", None),
        ("::1", None),
        ("[::1]80", None),
        ("[::1", None),
        ("[::1 ]", None),
        ("", None),
        (":80", None),
        ("[]:80", None),
        ("a b", None),
        ("a/b", None),
        ("a\"b", None),
        ("a<script>", None),
    ] {
        assert_eq!(address(text), server, "{text:?}");
    }
    assert_eq!(ServerAddress::parse(b"\xff.example"), None);
}

#[test]
fn an_authority_is_read_from_its_end_as_it_would_be_from_its_beginning() {
    /// What the grammar says, one character after the other.
    fn from_the_beginning(text: &str) -> Option<(&str, Option<u16>)> {
        let text = text.rsplit_once('@').map_or(text, |(_, text)| text);
        let (host, rest) = match text.strip_prefix('[') {
            Some(literal) => literal.split_once(']')?,
            None => text.split_at(text.find(|letter| ":[]/".contains(letter)).unwrap_or(text.len())),
        };
        let port = match rest.strip_prefix(':') {
            Some(digits) => digits.parse().ok().filter(|_| digits.len() <= 5 && !digits.starts_with('+')),
            None if rest.is_empty() => None,
            None => return None,
        };
        let is_host = !host.is_empty() && !host.contains(['[', ']', '/']);
        is_host.then_some((host, port))
    }

    // All authorities of a few letters.
    let letters = ['a', 'é', '0', '6', ':', '@', '[', ']', '/'];
    let mut texts = vec![String::new()];
    for length in 0..6 {
        for at in 0..texts.len() {
            if texts[at].chars().count() == length {
                texts.extend(letters.map(|letter| format!("{}{letter}", texts[at])));
            }
        }
    }
    let hosts = ["a", "me@a", "me:80@a", "[::1]", "me@[::1]", "::1", "", "12345", "a:1", "a:123456"];
    let ports =
        ["0", "00", "00000", "000000", "65535", "65536", "99999", "100000", "655350", "+1", "-1", "8o", ""];
    for host in hosts {
        texts.extend(ports.map(|port| format!("{host}:{port}")));
    }
    for text in &texts {
        let is_literal_of_letters = text.contains("[") && text.contains('é');
        if !is_literal_of_letters {
            assert_eq!(address(text), from_the_beginning(text), "{text:?}");
        }
    }
}

#[test]
fn the_target_of_a_request_goes_before_its_host_and_forwarding_headers_are_not_read() {
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-host", HeaderValue::from_static("spoofed.example"));
    headers.insert(header::FORWARDED, HeaderValue::from_static("host=spoofed.example"));
    let origin = Uri::from_static("/orders");
    assert_eq!(ServerAddress::of_request(&origin, &RequestHeaders::new(&headers)), None);
    headers.insert(header::HOST, HeaderValue::from_static("host.example:1"));
    let server = ServerAddress::of_request(&origin, &RequestHeaders::new(&headers));
    assert_eq!(server, Some(ServerAddress { host: "host.example", port: Some(1) }));
    let absolute = Uri::from_static("http://target.example/orders");
    let server = ServerAddress::of_request(&absolute, &RequestHeaders::new(&headers));
    assert_eq!(server, Some(ServerAddress { host: "target.example", port: None }));
}

#[test]
fn a_port_that_is_not_written_is_that_of_the_scheme() {
    let server = ServerAddress { host: "shop.example", port: None };
    assert_eq!(server.port_or_default("http"), Some(80));
    assert_eq!(server.port_or_default("https"), Some(443));
    assert_eq!(server.port_or_default("gopher"), None);
    assert_eq!(ServerAddress { port: Some(8080), ..server }.port_or_default("https"), Some(8080));
}

#[test]
fn a_method_that_is_not_known_is_told_as_other() {
    let known = KnownMethods::default();
    for name in ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "QUERY"] {
        let method = Method::from_bytes(name.as_bytes()).unwrap();
        let told = known.name(&method);
        assert_eq!((told.attribute(), told.original(), told.in_span_name()), (name, None, name));
    }
    for name in ["get", "PROPFIND", "_OTHER", "HTTP"] {
        let method = Method::from_bytes(name.as_bytes()).unwrap();
        let told = known.name(&method);
        assert_eq!((told.attribute(), told.original(), told.in_span_name()), ("_OTHER", Some(name), "HTTP"));
    }
}

#[test]
fn a_list_of_known_methods_replaces_that_of_the_conventions() {
    let known = KnownMethods::only(["PROPFIND"]);
    let propfind = Method::from_bytes(b"PROPFIND").unwrap();
    assert_eq!(known.name(&propfind).attribute(), "PROPFIND");
    assert_eq!(known.name(&Method::GET).original(), Some("GET"));
}

#[test]
fn keys_of_a_query_stay_and_values_do_not() {
    let all = QueryRedaction::default();
    for (query, left) in [
        ("", ""),
        ("a", "a"),
        ("a=", "a=REDACTED"),
        ("a=b", "a=REDACTED"),
        ("a=b=c", "a=REDACTED"),
        ("a=1&b=2&&c", "a=REDACTED&b=REDACTED&&c"),
        ("=x", "=REDACTED"),
        ("a=1;b=2", "a=REDACTED"),
        ("é=ü&ö", "é=REDACTED&ö"),
        ("&&", "&&"),
    ] {
        assert_eq!(all.query(query).to_string(), left);
        assert_eq!(format!("{:?}", all.query(query)), left);
    }
}

#[test]
fn an_allow_list_holds_for_what_is_written_on_it_only() {
    let redaction = QueryRedaction::all_but(["page", "sort"]);
    let query = "page=1&Page=2&p%61ge=3&pages=4&sort=up&x=5";
    let left = "page=1&Page=REDACTED&p%61ge=REDACTED&pages=REDACTED&sort=up&x=REDACTED";
    assert_eq!(redaction.query(query).to_string(), left);
}

#[test]
fn the_keys_of_the_conventions_are_known_however_they_are_written() {
    let redaction = QueryRedaction::conventions();
    for key in [
        "X-Amz-Signature",
        "X-Amz-Credential",
        "X-Amz-Security-Token",
        "AWSAccessKeyId",
        "Signature",
        "sig",
        "X-Goog-Signature",
        "s%69g",
        "%73%69%67",
    ] {
        let query = format!("{key}=secret&page=2&SIG=3&%=4&sig%=5");
        let left = format!("{key}=REDACTED&page=2&SIG=3&%=4&sig%=5");
        assert_eq!(redaction.query(&query).to_string(), left);
    }
    let own = QueryRedaction::only(["token"]);
    assert_eq!(own.query("token=1&sig=2").to_string(), "token=REDACTED&sig=2");
}

#[test]
fn a_url_loses_its_name_its_password_and_its_fragment() {
    let all = QueryRedaction::default();
    for (url, left) in [
        ("http://a.example", "http://a.example"),
        ("http://a.example:81/b/c", "http://a.example:81/b/c"),
        ("http://me@a.example/", "http://REDACTED:REDACTED@a.example/"),
        ("http://me:pw@a.example/", "http://REDACTED:REDACTED@a.example/"),
        ("http://m@e:p@w@a.example/@x", "http://REDACTED:REDACTED@a.example/@x"),
        ("http://a.example/me@b", "http://a.example/me@b"),
        ("http://a.example?k=v@w", "http://a.example?k=REDACTED"),
        ("http://a.example/?k=v#secret", "http://a.example/?k=REDACTED"),
        ("http://a.example/#secret?k=v", "http://a.example/"),
        ("http://[::1]:80/?a&b=c", "http://[::1]:80/?a&b=REDACTED"),
        ("http://a.example/?next=http://x:y@z/", "http://a.example/?next=REDACTED"),
        ("/path?k=v", "/path?k=REDACTED"),
        ("//a.example", "//a.example"),
        ("//me:pw@a.example/x?k=v", "//REDACTED:REDACTED@a.example/x?k=REDACTED"),
        ("//me:pw@a.example/x://b", "//REDACTED:REDACTED@a.example/x://b"),
        ("/x//me@a.example", "/x//me@a.example"),
    ] {
        assert_eq!(all.url(url).to_string(), left);
        assert_eq!(format!("{:?}", all.url(url)), left);
    }
    assert_eq!(all.url("//me@a.example/x").or_at("http", Some("b")).authority(), Some("me@a.example"));
}

#[test]
fn a_uri_is_told_like_a_url() {
    let all = QueryRedaction::default();
    let uri = Uri::from_static("https://me:pw@a.example:81/b?k=v");
    let url = all.uri(&uri).or_at("http", Some("other.example"));
    assert_eq!(url.to_string(), "https://REDACTED:REDACTED@a.example:81/b?k=REDACTED");
    assert_eq!(url.scheme(), Some("https"));
    assert_eq!(url.authority(), Some("me:pw@a.example:81"));

    let uri = Uri::from_static("/b?k");
    assert_eq!(all.uri(&uri).to_string(), "/b?k");
    assert_eq!(all.uri(&uri).or_at("http", Some("a.example")).to_string(), "http://a.example/b?k");
}

#[derive(Debug)]
struct Wrapper(Box<dyn Error + Send + Sync>);

impl fmt::Display for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wrapped")
    }
}

impl Error for Wrapper {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

#[test]
fn an_error_is_classed_by_the_kind_that_lies_beneath() {
    let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
    for (error, class) in [
        (Box::new(reset()) as Box<dyn Error + Send + Sync>, Some("connection_reset")),
        (Box::new(Wrapper(Box::new(reset()))), Some("connection_reset")),
        (Box::new(io::Error::other(reset())), Some("connection_reset")),
        (Box::new(io::Error::other(Wrapper(Box::new(reset())))), Some("connection_reset")),
        (Box::new(io::Error::new(io::ErrorKind::InvalidData, reset())), Some("invalid_data")),
        (Box::new(io::Error::from(io::ErrorKind::UnexpectedEof)), Some("unexpected_eof")),
        (Box::new(io::Error::other("text")), None),
        (Box::new(io::Error::from_raw_os_error(9999)), None),
        (Box::new(Wrapper("text".into())), None),
    ] {
        assert_eq!(ErrorType::of(&*error).as_deref(), class, "{error:?}");
    }
}

#[test]
fn a_chain_of_errors_that_never_ends_is_left() {
    #[derive(Debug)]
    struct Loop;
    impl fmt::Display for Loop {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("loop")
        }
    }
    impl Error for Loop {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&Loop)
        }
    }
    assert_eq!(ErrorType::of(&Loop), None);
}

#[test]
fn a_header_of_any_bytes_is_text() {
    for (bytes, text) in [
        (&b"curl/8.0"[..], "curl/8.0"),
        ("bücher/1".as_bytes(), "bücher/1"),
        (b"a\xffb\xc3", "a\u{fffd}b\u{fffd}"),
        (b"", ""),
    ] {
        assert_eq!(header_text(&HeaderValue::from_bytes(bytes).unwrap()).to_string(), text);
    }
}

#[test]
fn versions_are_told_as_the_conventions_write_them() {
    let told = [Version::HTTP_09, Version::HTTP_10, Version::HTTP_11, Version::HTTP_2, Version::HTTP_3]
        .map(|version| protocol_version(version).unwrap());
    assert_eq!(told, ["0.9", "1.0", "1.1", "2", "3"]);
}

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn remote(span_id: u64) -> SpanContext {
    let trace_id = TRACE_ID.parse().unwrap();
    let span_id = SpanId::from_bytes(span_id.to_be_bytes()).unwrap();
    SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, true)
}

#[test]
fn a_response_tells_its_trace_beside_what_the_service_says() {
    let mut headers = HeaderMap::new();
    headers.insert("server-timing", HeaderValue::from_static("db;dur=53"));
    headers.insert("x-trace-id", HeaderValue::from_static("stale"));
    put_response_headers(remote(7), &HeaderName::from_static("x-trace-id"), &mut headers);
    let timing: Vec<_> = headers.get_all("server-timing").into_iter().collect();
    assert_eq!(timing, ["db;dur=53", &format!("trace;desc=00-{TRACE_ID}-0000000000000007-01")]);
    assert_eq!(headers.get_all("x-trace-id").into_iter().collect::<Vec<_>>(), [TRACE_ID]);
}

#[test]
fn a_request_continues_its_callers_trace_unless_a_span_of_this_process_lies_between() {
    let tracer = Tracer::disabled();
    let mut headers = HeaderMap::new();
    let none = caller_context(tracer, &RequestHeaders::new(&headers));
    assert_eq!(none.span_context(), None);

    let local = SpanContext::new(TRACE_ID.parse().unwrap(), SpanId::random(), TraceFlags::SAMPLED, false);
    let here = Context::from_remote(local, Default::default(), Default::default());
    let between = |headers: &HeaderMap| {
        here.in_scope(|| caller_context(tracer, &RequestHeaders::new(headers)).span_context())
    };
    assert_eq!(between(&headers), Some(local), "no caller");

    tracer
        .propagator()
        .inject(&Context::from_remote(remote(7), Default::default(), Default::default()), &mut headers);
    assert_eq!(caller_context(tracer, &RequestHeaders::new(&headers)).span_context(), Some(remote(7)));
    assert_eq!(between(&headers), Some(local), "the same trace");

    let other = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::SAMPLED, false);
    let elsewhere = Context::from_remote(other, Default::default(), Default::default());
    let seen = elsewhere.in_scope(|| caller_context(tracer, &RequestHeaders::new(&headers)).span_context());
    assert_eq!(seen, Some(remote(7)), "another trace");
}
