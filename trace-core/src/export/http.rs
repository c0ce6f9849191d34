//! OTLP over HTTP: one POST for an attempt, by hyper-util's client.
//!
//! It is `reqwest`'s own client without `reqwest` around it, and without what a collector must not have: redirects (a
//! collector that moved is a mistake to be told about, and a redirect could carry an API key to anybody), proxies (the
//! environment's are for the service's own calls, and a collector is mostly beside it) and retries. `reqwest` itself is
//! not used because its TLS is chosen by Cargo features, which are the whole program's: with ours switched on, the
//! service's own `reqwest::Client::new()` would panic for want of a cryptography provider.
//!
//! The client is made at the first attempt and, as long as that fails, at each one after it: a certificate that is
//! mounted late, or renewed, is found.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::{MayBlock, TcpConnector, tcp_connector};
use super::message;
use super::retry::{Answer, Attempt, Problem, ProblemKind};
use super::tls;
use super::transport::{ANSWER_BYTES_MAX, Parcel, Transport, USER_AGENT, broken, by, shown, unanswered};
use crate::config::{Compression, OtlpConfig};
use crate::otlp::response;

pub(crate) struct Http {
    config: OtlpConfig,
    /// The endpoint as it may be shown.
    shown: String,
    /// The resource as the field of `ResourceSpans`.
    resource: Vec<u8>,
    may_block: MayBlock,
    client: Mutex<Option<Client>>,
}

type Client = legacy::Client<Connector, message::Body>;

#[cfg(feature = "tls")]
type Connector = hyper_rustls::HttpsConnector<TcpConnector>;
#[cfg(not(feature = "tls"))]
type Connector = TcpConnector;

impl Http {
    pub(crate) fn new(config: OtlpConfig, resource: Vec<u8>) -> Self {
        let shown = shown(&config.endpoint);
        Self { shown, config, resource, may_block: MayBlock::new(), client: Mutex::new(None) }
    }

    async fn try_attempt(&self, parcel: &mut Parcel, deadline: Instant) -> Result<Attempt, Attempt> {
        let client = by(deadline, &self.shown, self.client()).await?.map_err(unanswered)?;
        let compress = self.config.compression == Compression::Gzip;
        let wire = by(deadline, &self.shown, parcel.wire(&self.resource, compress)).await?;

        let mut request = Request::new(wire.body(Bytes::new(), &parcel.arrival));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.config.endpoint.clone();
        *request.headers_mut() = headers(&self.config, wire.is_compressed());
        let response = match by(deadline, &self.shown, client.request(request)).await? {
            Ok(response) => response,
            Err(error) => return Err(self.broken(&error)),
        };

        let (head, body) = response.into_parts();
        parcel.http_status = Some(head.status.as_u16());
        let retry_after = retry_after(&head.headers, SystemTime::now());
        // The status is the answer; what comes after it may be late, cut or nonsense.
        let answer = by(deadline, &self.shown, read(body)).await.unwrap_or_default();
        Ok(judge(head.status, retry_after, &answer))
    }

    /// The client, made now if there is none.
    async fn client(&self) -> Result<Client, Problem> {
        if let Some(client) = &*self.client.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(client.clone());
        }
        let (config, may_block) = (self.config.clone(), self.may_block.clone());
        // The system's certificates and those of the configuration are files.
        let made = self.may_block.run(move || client(&config, &may_block)).await;
        let client =
            made.unwrap_or_else(|| Err(Problem::new(ProblemKind::Setup, "the HTTP client panicked")))?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    /// The attempt whose request ended in an error.
    fn broken(&self, error: &legacy::Error) -> Attempt {
        if self.config.certificate.is_some() || self.config.client_certificate.is_some() {
            // It may be about a certificate that has been renewed since.
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        unanswered(broken(&self.shown, error))
    }
}

impl Transport for Http {
    fn attempt<'a>(
        &'a self,
        parcel: &'a mut Parcel,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Attempt> + Send + 'a>> {
        Box::pin(async move { self.try_attempt(parcel, deadline).await.unwrap_or_else(|attempt| attempt) })
    }

    fn start_over(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn client(config: &OtlpConfig, may_block: &MayBlock) -> Result<Client, Problem> {
    tls::check(config)?;
    let connector = tcp_connector(&config.resolver, may_block);
    #[cfg(feature = "tls")]
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls::client_config(config)?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        // One batch is in flight at a time.
        .pool_max_idle_per_host(1)
        .build(connector))
}

/// A connection that is idle for longer is likely to have been dropped by something in between.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

fn headers(config: &OtlpConfig, is_compressed: bool) -> HeaderMap {
    let mut headers = config.headers.clone();
    headers.insert(&CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    if is_compressed {
        headers.insert(&CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.entry(http::header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
    if let Some(credentials) = basic_credentials(&config.endpoint) {
        headers.entry(AUTHORIZATION).or_insert(credentials);
    }
    headers
}

/// A name and a password in the endpoint are what curl takes them for, too:
/// [Basic authentication](https://www.rfc-editor.org/rfc/rfc7617).
fn basic_credentials(endpoint: &Uri) -> Option<HeaderValue> {
    let (user, _) = endpoint.authority()?.as_str().rsplit_once('@')?;
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let pair = [percent_decoded(name), b":".to_vec(), percent_decoded(password)].concat();
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A percent sign without two digits stands for itself.
fn percent_decoded(text: &str) -> Vec<u8> {
    let mut left = text.as_bytes();
    let mut decoded = Vec::with_capacity(left.len());
    while let Some((&byte, rest)) = left.split_first() {
        let digit = |at: usize| char::from(*rest.get(at)?).to_digit(16);
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                // Two digits of sixteen are a byte.
                decoded.push((high << 4 | low) as u8);
                left = &rest[2..];
            }
            _ => {
                decoded.push(byte);
                left = rest;
            }
        }
    }
    decoded
}

/// What comes of an answer: [failures over HTTP](https://opentelemetry.io/docs/specs/otlp/#failures-1).
pub(crate) fn judge(status: StatusCode, retry_after: Option<Duration>, answer: &[u8]) -> Attempt {
    if status.is_success() {
        // An answer that cannot be read rejects nothing.
        let partial = response::partial_success(answer).unwrap_or_default();
        let warning = (partial.rejected_spans > 0 || !partial.error_message.is_empty())
            .then(|| Problem::new(ProblemKind::PartialSuccess, partial.error_message));
        return Attempt::Accepted { rejected: partial.rejected_spans, warning };
    }
    let detail = match response::rpc_status(answer) {
        Ok(status) if !status.message.is_empty() => status.message,
        // Somebody who does not speak OTLP.
        _ => String::from_utf8_lossy(answer).into_owned(),
    };
    let problem = Problem::new(ProblemKind::Http(status.as_u16()), detail);
    match status.as_u16() {
        429 | 503 => Attempt::Failed { problem, answer: Answer::NotTaken, retry_after },
        // A gateway speaks, which does not know what the collector did.
        502 | 504 => Attempt::Failed { problem, answer: Answer::None, retry_after },
        _ => Attempt::Refused(problem),
    }
}

/// How long the collector asks to wait: seconds, or until a date.
/// [RFC 9110, 10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    // A date that has passed asks for no wait.
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// The start of an answer's body. A short one is read to its end, so that the connection can be used again.
async fn read(body: Incoming) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut body = pin!(body);
    while answer.len() < ANSWER_BYTES_MAX
        && let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await
    {
        if let Some(chunk) = frame.data_ref() {
            answer.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX - answer.len())]);
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_statuses_of_the_specification_are_tried_again() {
        for status in 300..1_000 {
            let failed =
                matches!(judge(StatusCode::from_u16(status).unwrap(), None, b""), Attempt::Failed { .. });
            assert_eq!(failed, [429, 502, 503, 504].contains(&status), "{status}");
        }
        for status in 200..300 {
            let attempt = judge(StatusCode::from_u16(status).unwrap(), None, b"");
            assert_eq!(attempt, Attempt::Accepted { rejected: 0, warning: None }, "{status}");
        }
    }

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_by_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let wait = |value: &'static str| {
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]), now)
        };
        assert_eq!(wait("3"), Some(Duration::from_secs(3)));
        assert_eq!(wait(" 0 "), Some(Duration::ZERO));
        assert_eq!(wait("99999999999999999999999"), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:40 GMT"), Some(Duration::from_secs(3)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:30 GMT"), Some(Duration::ZERO));
        for nonsense in ["", "-1", "1.5", "+1", "soon", "Sun, 06 Nov"] {
            assert_eq!(wait(nonsense), None, "{nonsense:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn a_name_and_a_password_in_the_endpoint_are_sent_as_basic_credentials() {
        let sent = |endpoint: &'static str| {
            basic_credentials(&Uri::from_static(endpoint)).map(|value| value.to_str().unwrap().to_owned())
        };
        // RFC 7617's own example.
        let expected = Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_owned());
        assert_eq!(sent("http://Aladdin:open%20sesame@collector/v1/traces"), expected);
        assert_eq!(sent("http://token@collector"), Some("Basic dG9rZW46".to_owned()));
        assert_eq!(sent("http://collector:4318"), None);
        assert_eq!(percent_decoded("100%+%2"), b"100%+%2");
    }

    #[test]
    fn an_answer_of_somebody_else_is_shown_as_it_is() {
        let Attempt::Refused(problem) = judge(StatusCode::NOT_FOUND, None, b"404 page not found") else {
            panic!()
        };
        assert_eq!(problem.to_string(), "the collector answered 404: 404 page not found");
    }
}
