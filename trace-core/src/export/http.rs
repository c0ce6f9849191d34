//! OTLP over HTTP: one POST for an attempt, by `reqwest`.
//!
//! The client has none of its conveniences: it follows no redirect (a collector that moved is a mistake to be told
//! about, and a redirect could carry an API key to anybody), uses no proxy (the environment's proxies are for the
//! service's own calls, and a collector is mostly beside it), and retries nothing by itself. It is made at the first
//! attempt and, as long as that fails, at each one after it: a certificate that is mounted late, or renewed, is found.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::retry::{Answer, Attempt, Problem, ProblemKind};
use super::tls;
use super::transport::{ANSWER_BYTES_MAX, Parcel, Transport, USER_AGENT, by, shown, unanswered, with_causes};
use crate::config::{Compression, OtlpConfig};
use crate::otlp::response;

pub(crate) struct Http {
    config: OtlpConfig,
    /// The endpoint as it may be shown.
    shown: String,
    /// The resource as the field of `ResourceSpans`.
    resource: Vec<u8>,
    client: Mutex<Option<reqwest::Client>>,
}

impl Http {
    pub(crate) fn new(config: OtlpConfig, resource: Vec<u8>) -> Self {
        Self { shown: shown(&config.endpoint), config, resource, client: Mutex::new(None) }
    }

    async fn try_attempt(&self, parcel: &mut Parcel, deadline: Instant) -> Result<Attempt, Attempt> {
        let client = by(deadline, &self.shown, self.client()).await?.map_err(unanswered)?;
        let compress = self.config.compression == Compression::Gzip;
        let wire = by(deadline, &self.shown, parcel.wire(&self.resource, compress)).await?;

        let mut headers = self.config.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        if wire.is_compressed() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let body = reqwest::Body::wrap(wire.body(Bytes::new(), &parcel.arrival));
        let request = client.post(self.config.endpoint.to_string()).headers(headers).body(body).send();
        let response = match by(deadline, &self.shown, request).await? {
            Ok(response) => response,
            Err(error) => return Err(self.broken(error)),
        };

        let status = response.status();
        let retry_after = retry_after(response.headers(), SystemTime::now());
        // The status is the answer; what comes after it may be late, cut or nonsense.
        let answer = by(deadline, &self.shown, read(response)).await.unwrap_or_default();
        Ok(judge(status, retry_after, &answer))
    }

    /// The client, made now if there is none.
    async fn client(&self) -> Result<reqwest::Client, Problem> {
        if let Some(client) = &*self.client.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(client.clone());
        }
        let config = self.config.clone();
        // The system's certificates and those of the configuration are files.
        let client = tokio::task::spawn_blocking(move || client(&config))
            .await
            .unwrap_or_else(|_| Err(Problem::new(ProblemKind::Setup, "the HTTP client panicked")))?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    /// The attempt whose request ended in an error.
    fn broken(&self, error: reqwest::Error) -> Attempt {
        if self.config.certificate.is_some() || self.config.client_certificate.is_some() {
            // It may be about a certificate that has been renewed since.
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let kind = if error.is_builder() { ProblemKind::Setup } else { ProblemKind::Connection };
        let detail = format!("{}: {}", self.shown, with_causes(&error.without_url()));
        unanswered(Problem::new(kind, detail))
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
}

fn client(config: &OtlpConfig) -> Result<reqwest::Client, Problem> {
    tls::check(config)?;
    let builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .http1_only()
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .no_hickory_dns()
        // One batch is in flight at a time.
        .pool_max_idle_per_host(1);
    #[cfg(feature = "tls")]
    let builder = builder.tls_backend_preconfigured(tls::client_config(config)?);
    builder.build().map_err(|error| Problem::new(ProblemKind::Setup, with_causes(&error)))
}

/// What comes of an answer: [failures over HTTP](https://opentelemetry.io/docs/specs/otlp/#failures-1).
fn judge(status: StatusCode, retry_after: Option<Duration>, answer: &[u8]) -> Attempt {
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
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    // A date that has passed asks for no wait.
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// The start of an answer's body. A short one is read to its end, so that the connection can be used again.
async fn read(mut response: reqwest::Response) -> Vec<u8> {
    let mut answer = Vec::new();
    while answer.len() < ANSWER_BYTES_MAX
        && let Ok(Some(chunk)) = response.chunk().await
    {
        answer.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX - answer.len())]);
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
    fn an_answer_of_somebody_else_is_shown_as_it_is() {
        let Attempt::Refused(problem) = judge(StatusCode::NOT_FOUND, None, b"404 page not found") else {
            panic!()
        };
        assert_eq!(problem.to_string(), "the collector answered 404: 404 page not found");
    }
}
