//! What a way to send batches has to offer, and what all of them share.

use std::error::Error;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::batch::Batch;
use super::chunk::Frame;
use super::message::{self, Arrival, Message, Wire};
use super::retry::{Answer, Attempt, Problem, ProblemKind};

/// A way to send batches.
///
/// It is used on the worker's runtime only, for one batch at a time, and may panic: the worker survives it.
pub(crate) trait Transport: Send + Sync + 'static {
    /// Tries once to send a batch, until `deadline` at the latest. Dropping the future ends the attempt.
    fn attempt<'a>(
        &'a self,
        parcel: &'a mut Parcel,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Attempt> + Send + 'a>>;

    /// An attempt panicked, be it in a subscriber of the program's in the midst of somebody else's work: what was kept for
    /// further attempts may be half changed, its locks poisoned for ever, and is left behind.
    fn start_over(&self) {}

    /// Whether the collector's answers are gRPC's.
    fn is_grpc(&self) -> bool {
        false
    }

    /// The pipeline shuts down: what the transport holds back leaves now, until `deadline` at the latest.
    fn finish(&self, deadline: Instant) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let _ = deadline;
        Box::pin(std::future::ready(()))
    }
}

/// A batch that is being sent, and what lasts from one attempt to the next.
#[derive(Debug)]
pub(crate) struct Parcel {
    content: Content,
    pub(crate) arrival: Arc<Arrival>,
    wire: Option<Wire>,
    /// The status of the latest answer over HTTP.
    pub(crate) http_status: Option<u16>,
}

/// Where a batch that is being sent comes from.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// From memory.
    Spans(Arc<Batch>),
    /// From disk: a whole request, under the resource of the process that made it.
    Stored(Bytes),
}

/// The most bytes of an answer that are read: it says how many spans were rejected and why, and may be anything.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 << 10;

/// As OTLP's specification asks for: the exporter, its language and its version.
pub(crate) const USER_AGENT: &str = concat!("OTel-OTLP-Exporter-Rust/", env!("CARGO_PKG_VERSION"));

impl Parcel {
    pub(crate) const fn new(content: Content, arrival: Arc<Arrival>) -> Self {
        Self { content, arrival, wire: None, http_status: None }
    }

    /// Every span as it is encoded. None of those that come from disk: only what sends requests is given them.
    pub(crate) fn spans(&self) -> impl Iterator<Item = Frame<'_>> {
        let batch = match &self.content {
            Content::Spans(batch) => Some(batch),
            Content::Stored(_) => None,
        };
        batch.into_iter().flat_map(|batch| batch.spans())
    }

    /// The batch as an OTLP request, compressed on the first attempt only.
    pub(crate) async fn wire(&mut self, resource: &[u8], compress: bool) -> Wire {
        match &self.wire {
            Some(wire) => wire.clone(),
            None => {
                let plain = match &self.content {
                    Content::Spans(batch) => Wire::Plain(Arc::new(Message::new(Arc::clone(batch), resource))),
                    Content::Stored(message) => Wire::Stored(message.clone()),
                };
                let wire = message::wire(plain, compress).await;
                self.wire.insert(wire).clone()
            }
        }
    }
}

/// What a future gives by `deadline`, or the attempt that failed for want of it.
pub(crate) async fn by<F: Future>(
    deadline: Instant,
    endpoint: &str,
    future: F,
) -> Result<F::Output, Attempt> {
    tokio::time::timeout_at(deadline.into(), future).await.map_err(|_| timed_out(endpoint))
}

pub(crate) fn timed_out(endpoint: &str) -> Attempt {
    unanswered(Problem::new(ProblemKind::Timeout, format!("from {endpoint}")))
}

/// An attempt that got no answer.
pub(crate) fn unanswered(problem: Problem) -> Attempt {
    Attempt::Failed { problem, answer: Answer::None, retry_after: None }
}

/// What an error of a connection comes down to.
pub(crate) fn broken(endpoint: &str, error: &(dyn Error + 'static)) -> Problem {
    let kind = causes(error).find_map(kind_of_cause).unwrap_or(ProblemKind::Connection);
    Problem::new(kind, format!("{endpoint}: {}", first_cause(error)))
}

/// The kind of a problem by one of the errors that led to it, where that one tells.
fn kind_of_cause(cause: &(dyn Error + 'static)) -> Option<ProblemKind> {
    // hyper-util keeps its type to itself, and this is all that it says.
    if cause.to_string() == "dns error" {
        return Some(ProblemKind::Name);
    }
    is_of_tls(cause).then_some(ProblemKind::Tls)
}

/// Whether an error is that of TLS, which I/O errors wrap without naming it as their cause.
#[cfg(feature = "tls")]
fn is_of_tls(error: &(dyn Error + 'static)) -> bool {
    let wrapped = || error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>() || wrapped().is_some_and(|wrapped| is_of_tls(wrapped))
}

/// This build has no TLS.
#[cfg(not(feature = "tls"))]
fn is_of_tls(_: &(dyn Error + 'static)) -> bool {
    false
}

/// An error and what led to it, the latest first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// An address as it may be shown: a path, a query or a user's name may hold a secret.
pub(crate) fn shown(endpoint: &http::Uri) -> String {
    let mut text = String::new();
    if let Some(scheme) = endpoint.scheme_str() {
        let _ = write!(text, "{scheme}://");
    }
    text.push_str(endpoint.host().unwrap_or_default());
    if let Some(port) = endpoint.port_u16() {
        let _ = write!(text, ":{port}");
    }
    text
}

/// What an error comes down to: the libraries' own words above it are mostly about themselves.
pub(crate) fn first_cause(error: &dyn Error) -> String {
    let mut first = error;
    while let Some(cause) = first.source() {
        first = cause;
    }
    first.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_show_neither_path_nor_user() {
        let shown = |uri: &'static str| shown(&http::Uri::from_static(uri));
        assert_eq!(
            shown("https://user:secret@collector:4318/key/secret?key=secret"),
            "https://collector:4318"
        );
        assert_eq!(shown("http://[::1]/v1/traces"), "http://[::1]");
    }
}
