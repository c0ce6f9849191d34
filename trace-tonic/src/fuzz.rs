//! What must hold for whatever a peer says of a call, as `trace_core::fuzz` has it for the core's doors.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tonic::{Code, Status};

use crate::descriptor;
use crate::method::Method;
use crate::status::{Told, name};

/// A status is what tonic reads, in the head and in the trailers; a method that looks like one has two words, on a client
/// below any prefix; a descriptor names what can be written into a descriptor again.
///
/// The first letter chooses which.
pub fn grpc_call(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    match which % 3 {
        0 => status(rest),
        1 => method(&String::from_utf8_lossy(rest)),
        _ => file_descriptor_set(rest),
    }
}

/// The HTTP status, whether there are many headers, and the status in the head and in the trailers, one a line.
fn status(data: &[u8]) {
    let (how, lines) = data.split_at(data.len().min(2));
    let http = how.first().map_or(200, |byte| 200 + 2 * u16::from(*byte));
    let http = StatusCode::from_u16(http).expect("below 1000");
    let mut lines = lines.split(|byte| *byte == b'\n');
    let headers = |line: Option<&[u8]>| {
        let mut headers = HeaderMap::new();
        if how.get(1).is_some_and(|many| many % 2 == 1) {
            for letter in b'a'..=b'p' {
                let name = HeaderName::from_bytes(&[b'x', letter]).expect("two letters");
                headers.append(name, HeaderValue::from_static("0"));
            }
        }
        if let Some(value) = line.and_then(|line| HeaderValue::from_bytes(line).ok()) {
            headers.append(Status::GRPC_STATUS, value);
        }
        headers
    };
    let (head, trailers) = (headers(lines.next()), headers(lines.next()));
    let theirs = |headers: &HeaderMap| Status::from_header_map(headers).map(|status| status.code());

    let mut told = Told::default();
    assert_eq!(told.head(http, &head), theirs(&head));
    told.trailers(&trailers);
    assert_eq!(told.grpc(), theirs(&trailers).or(theirs(&head)));
    let complete = told.complete();
    assert!(told.grpc().is_none_or(|code| code == complete));
    assert!(!name(complete).is_empty());
    if told.grpc().is_none() && http != StatusCode::OK {
        assert_ne!(complete, Code::Ok, "what is not a success is none");
    }
}

fn method(path: &str) {
    let method = Method::of(path);
    let looks_like_one = matches!(
        path.strip_prefix('/').unwrap_or(path).split('/').collect::<Vec<_>>()[..],
        [service, method] if !service.is_empty() && !method.is_empty()
    );
    assert_eq!(matches!(method, Method::Possible(_)), looks_like_one, "{path:?}");
    assert_eq!(method.original().is_none(), looks_like_one);
    assert_eq!(method.attribute() == "_OTHER", !looks_like_one);
    assert!(method.span_name() == "grpc" || path.ends_with(method.span_name()));

    // A client may have a prefix before the two words, and nothing else differs.
    let called = Method::called(path);
    let words: Vec<_> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    match words[..] {
        [.., service, name] if !service.is_empty() && !name.is_empty() => {
            assert_eq!(called, Method::Possible(&format!("{service}/{name}")), "{path:?}");
        }
        _ => assert_eq!(called, method, "{path:?}"),
    }
}

fn file_descriptor_set(data: &[u8]) {
    let Ok(methods) = descriptor::methods(data) else { return };
    let field = |tag: u8, content: &[u8]| {
        let mut field = vec![tag];
        let mut len = content.len();
        while len >= 0x80 {
            field.push(len as u8 | 0x80);
            len >>= 7;
        }
        field.push(len as u8);
        field.extend_from_slice(content);
        field
    };
    let mut set = Vec::new();
    for name in &methods {
        // Whatever stands before the last dash is the service's name, with its package.
        let (service, method) = name.rsplit_once('/').expect("a service and a method");
        let method = field(0x12, &field(0x0a, method.as_bytes()));
        let service = [field(0x0a, service.as_bytes()), method].concat();
        set.extend(field(0x0a, &field(0x32, &service)));
    }
    assert_eq!(descriptor::methods(&set), Ok(methods));
}

#[cfg(test)]
#[path = "../../trace-core/fuzz/replay.rs"]
#[allow(dead_code, reason = "the core's tests need more of it")]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn everything_holds_for_whatever_was_found_worth_keeping() {
        super::replay::replay(&[("grpc_call", super::grpc_call)]);
    }
}
