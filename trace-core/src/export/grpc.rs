//! OTLP over gRPC: one unary call for an attempt, by `tonic`'s `Channel`.
//!
//! The channel is used as the HTTP/2 service that it is: the message is ready as bytes, so gRPC's five bytes before it are
//! all the codec there is. The status is read by hand, because it comes from the network and may be anything.
//! As with HTTP, no proxy is used, and the channel is made anew where that may help: after a failure, when its
//! certificates come from files, and after a call that was never answered, since its connection may be dead.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body::Body as _;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use super::connect::{MayBlock, tcp_connector};
use super::retry::{Answer, Attempt, Problem, ProblemKind};
use super::tls;
use super::transport::{
    ANSWER_BYTES_MAX, Parcel, Transport, USER_AGENT, broken, by, first_cause, shown, timed_out, unanswered,
};
use crate::config::{Compression, OtlpConfig};
use crate::otlp::response;

const PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

pub(crate) struct Grpc {
    config: OtlpConfig,
    /// The endpoint as it may be shown.
    shown: String,
    /// The resource as the field of `ResourceSpans`.
    resource: Vec<u8>,
    may_block: MayBlock,
    channel: Mutex<Option<Channel>>,
}

/// What came back from a call.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) http_status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) message: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

impl Grpc {
    pub(crate) fn new(config: OtlpConfig, resource: Vec<u8>) -> Self {
        let shown = shown(&config.endpoint);
        Self { shown, config, resource, may_block: MayBlock::new(), channel: Mutex::new(None) }
    }

    async fn try_attempt(&self, parcel: &mut Parcel, deadline: Instant) -> Result<Attempt, Attempt> {
        let channel = by(deadline, &self.shown, self.channel()).await?.map_err(unanswered)?;
        let compress = self.config.compression == Compression::Gzip;
        let wire = by(deadline, &self.shown, parcel.wire(&self.resource, compress)).await?;

        let mut request = Request::new(Body::new(wire.body(prefix(&wire)?, &parcel.arrival)));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_static(PATH);
        let headers = request.headers_mut();
        *headers = self.config.headers.clone();
        headers.insert(&CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(&TE, HeaderValue::from_static("trailers"));
        if wire.is_compressed() {
            headers.insert(&GRPC_ENCODING, HeaderValue::from_static("gzip"));
        }
        match by(deadline, &self.shown, call(channel, request, &self.shown)).await {
            Ok(Ok(reply)) => Ok(judge(&reply)),
            Ok(Err(problem)) => {
                if self.config.certificate.is_some() || self.config.client_certificate.is_some() {
                    self.forget_channel();
                }
                Err(unanswered(problem))
            }
            Err(_) => {
                self.forget_channel();
                Err(timed_out(&self.shown))
            }
        }
    }

    /// The channel, made now if there is none. It connects when it is used.
    async fn channel(&self) -> Result<Channel, Problem> {
        if let Some(channel) = &*self.channel.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(channel.clone());
        }
        let channel = connect_lazy(&self.config, &self.may_block).await?;
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel.clone());
        Ok(channel)
    }

    fn forget_channel(&self) {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Transport for Grpc {
    fn attempt<'a>(
        &'a self,
        parcel: &'a mut Parcel,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Attempt> + Send + 'a>> {
        Box::pin(async move { self.try_attempt(parcel, deadline).await.unwrap_or_else(|attempt| attempt) })
    }

    fn is_grpc(&self) -> bool {
        true
    }

    fn start_over(&self) {
        self.forget_channel();
    }
}

/// Whether the message is compressed, and its length.
fn prefix(wire: &super::message::Wire) -> Result<Bytes, Attempt> {
    let len = u32::try_from(wire.len())
        .map_err(|_| Attempt::Refused(Problem::new(ProblemKind::Setup, "a batch of more than 4 GiB")))?;
    let mut prefix = BytesMut::with_capacity(5);
    prefix.put_u8(u8::from(wire.is_compressed()));
    prefix.put_u32(len);
    Ok(prefix.freeze())
}

async fn connect_lazy(config: &OtlpConfig, may_block: &MayBlock) -> Result<Channel, Problem> {
    tls::check(config)?;
    if config.endpoint.scheme_str() != Some("https") {
        let endpoint = endpoint(config.endpoint.clone(), config)?;
        return Ok(endpoint.connect_with_connector_lazy(tcp_connector(&config.resolver, may_block)));
    }
    #[cfg(feature = "tls")]
    return tls_channel(config, may_block).await;
    #[cfg(not(feature = "tls"))]
    Err(setup("an https endpoint needs TLS"))
}

/// A channel with TLS of ours, so that HTTP and gRPC trust the same certificates, whatever features of `tonic` are on.
#[cfg(feature = "tls")]
async fn tls_channel(config: &OtlpConfig, may_block: &MayBlock) -> Result<Channel, Problem> {
    let blocking = config.clone();
    // The system's certificates and those of the configuration are files.
    let made = may_block.run(move || tls::client_config(&blocking)).await;
    let tls = made.unwrap_or_else(|| Err(setup("TLS panicked")))?;
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http2()
        .wrap_connector(tcp_connector(&config.resolver, may_block));
    let secure = config.endpoint.clone();
    // tonic would add TLS of its own to an `https` address, or refuse it for want of its feature; so it is told `http`, and
    // connects where we say.
    let connector = tower::service_fn(move |_: Uri| https.clone().call(secure.clone()));
    let mut plain = config.endpoint.clone().into_parts();
    plain.scheme = Some(http::uri::Scheme::HTTP);
    let plain = Uri::from_parts(plain).map_err(|error| setup(error.to_string()))?;
    let endpoint = endpoint(plain, config)?.origin(config.endpoint.clone());
    Ok(endpoint.connect_with_connector_lazy(connector))
}

fn endpoint(address: Uri, config: &OtlpConfig) -> Result<Endpoint, Problem> {
    let endpoint =
        Endpoint::from(address).user_agent(USER_AGENT).map_err(|error| setup(first_cause(&error)))?;
    Ok(endpoint
        // A call that is given up leaves its connection to the channel, which would wait for it without end.
        .connect_timeout(config.timeout)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES))
}

/// What a collector may send before we read it: HTTP/2's own default, and as much as we ever read of an answer. The
/// library's default is megabytes, which a collector gone mad would fill beyond the pipeline's memory.
const WINDOW_BYTES: u32 = 65_535;

fn setup(text: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::Setup, text)
}

async fn call(mut channel: Channel, request: Request<Body>, endpoint: &str) -> Result<Reply, Problem> {
    let problem = |error: tonic::transport::Error| broken(endpoint, &error);
    let cut = |text: &str| Problem::new(ProblemKind::Connection, format!("{endpoint}: {text}"));
    poll_fn(|cx| channel.poll_ready(cx)).await.map_err(problem)?;
    let response = channel.call(request).await.map_err(problem)?;
    let (head, body) = response.into_parts();
    let mut reply = Reply { http_status: head.status, headers: head.headers, ..Reply::default() };
    if reply.headers.contains_key(GRPC_STATUS) {
        // An answer without a message: everything is in the headers.
        return Ok(reply);
    }
    let mut body = pin!(body);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        match frame.map_err(|status| cut(status.message()))?.into_data() {
            Ok(data) => {
                reply.message.extend_from_slice(&data);
                if reply.message.len() > ANSWER_BYTES_MAX {
                    return Err(cut("an answer without end"));
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    reply.trailers = trailers;
                }
            }
        }
    }
    Ok(reply)
}

/// What comes of an answer: [failures over gRPC](https://opentelemetry.io/docs/specs/otlp/#failures).
pub(crate) fn judge(reply: &Reply) -> Attempt {
    let status = if reply.trailers.contains_key(GRPC_STATUS) { &reply.trailers } else { &reply.headers };
    let Some(code) = status.get(GRPC_STATUS) else { return judge_http(reply.http_status) };
    // "Codes that are not known are UNKNOWN": so is one that is not a number.
    let code = code.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(2u8);
    if code == 0 {
        let partial = message(&reply.message).and_then(|message| response::partial_success(message).ok());
        let partial = partial.unwrap_or_default();
        let warning = (partial.rejected_spans > 0 || !partial.error_message.is_empty())
            .then(|| Problem::new(ProblemKind::PartialSuccess, partial.error_message));
        return Attempt::Accepted { rejected: partial.rejected_spans, warning };
    }
    let text = status.get(GRPC_MESSAGE).map(|text| percent_decoded(text.as_bytes())).unwrap_or_default();
    let problem = Problem::new(ProblemKind::Grpc(code), text);
    failed(code, problem, retry_delay(status))
}

fn failed(code: u8, problem: Problem, retry_after: Option<Duration>) -> Attempt {
    match code {
        // ABORTED, OUT_OF_RANGE, UNAVAILABLE.
        10 | 11 | 14 => Attempt::Failed { problem, answer: Answer::NotTaken, retry_after },
        // CANCELLED, DEADLINE_EXCEEDED, DATA_LOSS: what was done by then is not said.
        1 | 4 | 15 => Attempt::Failed { problem, answer: Answer::None, retry_after },
        // RESOURCE_EXHAUSTED: "retryable only if the server signals that the recovery is possible" by RetryInfo.
        8 if retry_after.is_some() => Attempt::Failed { problem, answer: Answer::NotTaken, retry_after },
        _ => Attempt::Refused(problem),
    }
}

/// Somebody answered who does not speak gRPC, by gRPC's own
/// [table](https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md).
fn judge_http(status: StatusCode) -> Attempt {
    let problem = Problem::new(ProblemKind::Http(status.as_u16()), "without a gRPC status");
    match status.as_u16() {
        429 | 503 => Attempt::Failed { problem, answer: Answer::NotTaken, retry_after: None },
        502 | 504 => Attempt::Failed { problem, answer: Answer::None, retry_after: None },
        _ => Attempt::Refused(problem),
    }
}

/// The message of a reply, if it came whole and plain.
fn message(reply: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = reply.split_first_chunk::<5>()?;
    let [0, len @ ..] = *prefix else { return None };
    message.get(..usize::try_from(u32::from_be_bytes(len)).ok()?)
}

/// `RetryInfo` in the details of a status.
fn retry_delay(status: &HeaderMap) -> Option<Duration> {
    let details = base64_decoded(status.get(GRPC_STATUS_DETAILS)?.as_bytes())?;
    response::rpc_status(&details).ok()?.retry_delay
}

/// Text in which `%XX` stands for a byte. What is not such an escape stays.
fn percent_decoded(text: &[u8]) -> String {
    let digit = |at: usize| text.get(at).and_then(|digit| (*digit as char).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                // Two hex digits are a byte.
                bytes.push((high << 4 | low) as u8);
                at += 3;
            }
            _ => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Standard base64, with padding or without it; `None` if it is not.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for &symbol in text.iter().take_while(|symbol| **symbol != b'=') {
        let six = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn reply(headers: &[(HeaderName, &str)], message: &[u8]) -> Reply {
        let pairs = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        Reply { trailers: pairs.collect(), message: message.to_vec(), ..Reply::default() }
    }

    #[test]
    fn exactly_the_codes_of_the_specification_are_tried_again() {
        for code in 1..=20u8 {
            let code_text = code.to_string();
            let failed = |details: &[(HeaderName, &str)]| {
                let mut headers = vec![(GRPC_STATUS, code_text.as_str())];
                headers.extend_from_slice(details);
                matches!(judge(&reply(&headers, b"")), Attempt::Failed { .. })
            };
            assert_eq!(failed(&[]), [1, 4, 10, 11, 14, 15].contains(&code), "{code}");
            // RESOURCE_EXHAUSTED with RetryInfo { retry_delay: 1 s }.
            let details = "CAgaMAoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIECgIIAQ==";
            let with_retry_info = [1, 4, 8, 10, 11, 14, 15];
            assert_eq!(failed(&[(GRPC_STATUS_DETAILS, details)]), with_retry_info.contains(&code), "{code}");
        }
    }

    #[test]
    fn the_headers_are_the_trailers_of_a_reply_without_message() {
        let mut trailers_only = reply(&[(GRPC_STATUS, "3"), (GRPC_MESSAGE, "no%20spans%2C%e2%82%ac%")], b"");
        std::mem::swap(&mut trailers_only.headers, &mut trailers_only.trailers);
        let problem = Problem::new(ProblemKind::Grpc(3), "no spans,€%");
        assert_eq!(judge(&trailers_only), Attempt::Refused(problem));
    }

    #[test]
    fn a_partial_success_counts_the_rejected() {
        // ExportTraceServiceResponse { partial_success: { rejected_spans: 3, error_message: "old" } }
        let message = [0, 0, 0, 0, 9, 0x0a, 0x07, 0x08, 0x03, 0x12, 0x03, b'o', b'l', b'd'];
        let attempt = judge(&reply(&[(GRPC_STATUS, "0")], &message));
        let warning = Some(Problem::new(ProblemKind::PartialSuccess, "old"));
        assert_eq!(attempt, Attempt::Accepted { rejected: 3, warning });
        // What cannot be read rejects nothing.
        for damaged in [&message[..10], &[1, 0, 0, 0, 1, 0][..], &[]] {
            let attempt = judge(&reply(&[(GRPC_STATUS, "0")], damaged));
            assert_eq!(attempt, Attempt::Accepted { rejected: 0, warning: None });
        }
    }

    #[test]
    fn an_answer_without_grpc_status_is_judged_by_its_http_status() {
        let judge =
            |status| judge(&Reply { http_status: StatusCode::from_u16(status).unwrap(), ..Reply::default() });
        for status in [429, 502, 503, 504] {
            assert!(matches!(judge(status), Attempt::Failed { .. }), "{status}");
        }
        for status in [200, 400, 401, 403, 404, 500] {
            assert!(matches!(judge(status), Attempt::Refused(_)), "{status}");
        }
    }

    #[test]
    fn base64_is_read_with_padding_and_without() {
        assert_eq!(base64_decoded(b"aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(base64_decoded(b"aGVsbG8"), Some(b"hello".to_vec()));
        assert_eq!(base64_decoded(b"+/+/"), Some(vec![0xfb, 0xff, 0xbf]));
        assert_eq!(base64_decoded(b""), Some(vec![]));
        assert_eq!(base64_decoded(b"a b"), None);
    }

    proptest! {
        #[test]
        fn any_trailers_are_judged(values in vec("[ -~]{0,40}", 3), message in vec(any::<u8>(), 0..20)) {
            let names = [GRPC_STATUS, GRPC_MESSAGE, GRPC_STATUS_DETAILS];
            let pairs: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
            let _ = judge(&reply(&pairs, &message));
        }
    }
}
