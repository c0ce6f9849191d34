//! What collectors answer, over HTTP and gRPC.

use std::time::{Duration, Instant, UNIX_EPOCH};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;

use super::Input;
use crate::export::grpc::{self, Reply};
use crate::export::http as over_http;
use crate::export::report::{Consequence, Reports};
use crate::export::retry::{Answer, Attempt, Next, Outcome, Retry, RetryLimits};
use crate::otlp::response;

/// An answer over HTTP decides by its status alone whether a batch is tried again, and by its body how many spans were
/// rejected; whatever it asks for, the next attempt lies within the time of the batch.
pub fn http_answer(data: &[u8]) {
    let mut input = Input(data);
    let status = 200 + input.number_below(800);
    let status = StatusCode::from_u16(status).expect("from 200 to 999");
    let mut headers = HeaderMap::new();
    let asked = input.bytes();
    if let Ok(value) = HeaderValue::from_bytes(asked) {
        headers.insert(RETRY_AFTER, value);
    }
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let retry_after = over_http::retry_after(&headers, now);
    if let Some(seconds) = std::str::from_utf8(asked).ok().and_then(|text| text.parse::<u32>().ok()) {
        let is_plain = asked.iter().all(u8::is_ascii_digit);
        assert_eq!(retry_after, is_plain.then(|| Duration::from_secs(seconds.into())));
    }
    let body = input.0;
    let attempt = over_http::judge(status, retry_after, body);
    match (status.as_u16(), &attempt) {
        (200..300, Attempt::Accepted { rejected, warning }) => {
            is_as_prost_reads(body, *rejected, warning.is_some())
        }
        (429 | 503, Attempt::Failed { answer: Answer::NotTaken, retry_after: asked, .. })
        | (502 | 504, Attempt::Failed { answer: Answer::None, retry_after: asked, .. }) => {
            assert_eq!(*asked, retry_after);
        }
        (429 | 502..=504, _) | (200..300, _) => panic!("{status}: {attempt:?}"),
        (_, attempt) => assert!(matches!(attempt, Attempt::Refused(_)), "{status}: {attempt:?}"),
    }
    what_follows(&attempt);
    let _ = response::rpc_status(body);
}

/// An answer over gRPC decides by its status, and nothing in its metadata, its details or its message can break that.
pub fn grpc_answer(data: &[u8]) {
    let mut input = Input(data);
    let mut reply = Reply { http_status: StatusCode::OK, ..Reply::default() };
    let how = input.byte();
    if how & 1 != 0 {
        reply.http_status = StatusCode::from_u16(200 + input.number_below(800)).expect("from 200 to 999");
    }
    let mut status = HeaderMap::new();
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        let value = input.bytes();
        if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_bytes(value)) {
            status.insert(HeaderName::from_static(name), value);
        }
    }
    let code = status
        .get("grpc-status")
        .map(|code| code.to_str().ok().and_then(|code| code.parse::<u8>().ok()).unwrap_or(2));
    if how & 2 == 0 {
        reply.trailers = status;
    } else {
        reply.headers = status;
    }
    reply.message = input.0.to_vec();
    let attempt = grpc::judge(&reply);
    match (code, &attempt) {
        (Some(0), Attempt::Accepted { rejected, warning }) => {
            // Five bytes come before a message: not compressed, and its length.
            let whole = reply.message.split_first_chunk::<5>().and_then(|(head, rest)| {
                let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                rest.get(..len).filter(|_| head[0] == 0)
            });
            match whole {
                Some(message) => is_as_prost_reads(message, *rejected, warning.is_some()),
                None => assert_eq!((*rejected, warning.is_some()), (0, false)),
            }
        }
        (Some(10 | 11 | 14), Attempt::Failed { answer: Answer::NotTaken, .. })
        | (Some(8), Attempt::Failed { answer: Answer::NotTaken, retry_after: Some(_), .. })
        | (Some(1 | 4 | 15), Attempt::Failed { answer: Answer::None, .. }) => {}
        (Some(0 | 1 | 4 | 10 | 11 | 14 | 15), _) => panic!("{code:?}: {attempt:?}"),
        (Some(_), attempt) => assert!(matches!(attempt, Attempt::Refused(_)), "{code:?}: {attempt:?}"),
        (None, attempt) => {
            let is_worth_it = matches!(reply.http_status.as_u16(), 429 | 502..=504);
            assert_eq!(matches!(attempt, Attempt::Failed { .. }), is_worth_it, "{attempt:?}");
        }
    }
    what_follows(&attempt);
}

/// What is read of a success is what prost reads; what prost cannot read rejects nothing that it would not.
fn is_as_prost_reads(message: &[u8], rejected: u64, warned: bool) {
    let Ok(theirs) = ExportTraceServiceResponse::decode(message) else { return };
    // Without the fields that nobody knows, and each that is known once.
    let theirs = theirs.partial_success.unwrap_or_default();
    let expected = u64::try_from(theirs.rejected_spans).unwrap_or(0);
    assert_eq!(rejected, expected);
    assert_eq!(warned, expected > 0 || !theirs.error_message.is_empty());
}

/// Whatever an attempt says, what follows is settled, or lies in the time that the batch has; what is said about it is one
/// line, and not without end.
fn what_follows(attempt: &Attempt) {
    let now = Instant::now();
    let limits =
        RetryLimits { attempt_timeout: Duration::from_secs(10), batch_timeout: Duration::from_secs(30) };
    let mut retry = Retry::new(limits, now);
    match retry.next(attempt, false, now, u64::MAX / 3) {
        Next::RetryAt(at) => assert!(at > now && at < now + limits.batch_timeout),
        Next::Settle(Outcome::Exported { .. }) => assert!(matches!(attempt, Attempt::Accepted { .. })),
        Next::Settle(Outcome::Rejected) => assert!(matches!(attempt, Attempt::Refused(_))),
        Next::Settle(Outcome::Dropped(_)) => assert!(matches!(attempt, Attempt::Failed { .. })),
    }
    if let Some(until) = retry.quiet_until() {
        assert!(until <= now + Duration::from_secs(300), "nobody can make us wait for longer");
    }
    let (Attempt::Accepted { warning: Some(problem), .. }
    | Attempt::Refused(problem)
    | Attempt::Failed { problem, .. }) = attempt
    else {
        return;
    };
    let line = Reports::default().line(problem, Consequence::Loss, "it is lost", now).expect("the first one");
    assert!(!line.text.chars().any(char::is_control), "{line:?}");
    // Some characters take ten to be written.
    assert!(line.text.chars().count() < 4_000, "{line:?}");
}

impl Input<'_> {
    fn number_below(&mut self, end: u16) -> u16 {
        (u16::from(self.byte()) << 8 | u16::from(self.byte())) % end
    }
}
