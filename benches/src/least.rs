//! The least that a tracing layer around axum does. It makes a span of each request, until the body of the response has ended,
//! and makes nothing current: what it tells was encoded in advance, and is as long as what `trace-axum` tells of the request that the
//! benches make. It does not look at the request, or only [looks](LeastLayer::reading) at what a span has to be made of.

use std::hint;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, MatchedPath, OriginalUri};
use axum::response::Response;
use http::{Method, Request, Uri, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use trace_core::{EncodedAttributes, Key, Span, SpanKind, Tracer, Value, semconv};
use trace_tower::conventions::{RequestHeaders, authority, caller_context, header_str};

/// Attributes, encoded once and for all.
pub(crate) fn encoded(attributes: &[(Key<'_>, Value<'_>)]) -> &'static [EncodedAttributes] {
    let mut encoded = vec![EncodedAttributes::new()];
    for (key, value) in attributes {
        if !encoded.last_mut().is_some_and(|last| last.add(*key, *value)) {
            let mut next = EncodedAttributes::new();
            assert!(next.add(*key, *value), "it is short");
            encoded.push(next);
        }
    }
    encoded.leak()
}

/// Sets attributes that were encoded once and for all.
#[inline]
pub(crate) fn tell(span: &mut Span, all: &[EncodedAttributes]) {
    if let Some(mut span) = span.attributes() {
        all.iter().for_each(|attributes| span.set_encoded(attributes));
    }
}

/// What a span of a request is made of.
type Told<'a> = (&'a Method, Version, &'a str, Option<&'a str>, &'a Uri, SocketAddr, Option<&'a [u8]>, bool);

/// Looks up what is to be told, and whether it may be: what in the query is secret, and what in a header is no text.
#[inline(always)]
fn read<'a>(request: &'a Request<Body>, headers: &RequestHeaders<'a>) -> Option<Told<'a>> {
    let extensions = request.extensions();
    let uri = &extensions.get::<OriginalUri>()?.0;
    Some((
        request.method(),
        request.version(),
        extensions.get::<MatchedPath>()?.as_str(),
        headers.user_agent().and_then(header_str),
        uri,
        extensions.get::<ConnectInfo<SocketAddr>>()?.0,
        authority(uri, headers),
        uri.query().is_some_and(|query| query.bytes().any(|byte| byte == b'=')),
    ))
}

/// Wraps a service in [`Least`].
#[derive(Clone)]
pub(crate) struct LeastLayer {
    tracer: Tracer,
    attributes: &'static [EncodedAttributes],
    reads: bool,
}

#[derive(Clone)]
pub(crate) struct Least<S> {
    inner: S,
    layer: LeastLayer,
}

impl LeastLayer {
    /// The layer for requests that come from this address.
    pub(crate) fn new(tracer: Tracer, client: &str) -> Self {
        let attributes: [(Key<'_>, Value<'_>); 13] = [
            (semconv::HTTP_REQUEST_METHOD, "GET".into()),
            (semconv::URL_PATH, "/items/3419".into()),
            (semconv::URL_QUERY, "page=REDACTED".into()),
            (semconv::URL_SCHEME, "http".into()),
            (semconv::NETWORK_PROTOCOL_VERSION, "1.1".into()),
            (semconv::SERVER_ADDRESS, "items.example.com".into()),
            (semconv::SERVER_PORT, 8443.into()),
            (semconv::HTTP_ROUTE, "/items/{id}".into()),
            (semconv::CLIENT_ADDRESS, client.into()),
            (semconv::NETWORK_PEER_ADDRESS, client.into()),
            (semconv::NETWORK_PEER_PORT, 51234.into()),
            (
                semconv::USER_AGENT_ORIGINAL,
                "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0".into(),
            ),
            (semconv::HTTP_RESPONSE_STATUS_CODE, 200.into()),
        ];
        Self { tracer, attributes: encoded(&attributes), reads: false }
    }

    /// A layer that continues the caller's trace, and reads what it tells, but makes nothing of it.
    pub(crate) fn reading(self) -> Self {
        Self { reads: true, ..self }
    }

    fn start(&self, request: &Request<Body>) -> Span {
        let span = self.tracer.span("GET /items/{id}").kind(SpanKind::Server);
        if !self.reads {
            return span.start();
        }
        let headers = RequestHeaders::new(request.headers());
        let caller = caller_context(self.tracer, &headers);
        hint::black_box(read(request, &headers));
        span.parent(&caller).start()
    }
}

impl<S> Layer<S> for LeastLayer {
    type Service = Least<S>;

    fn layer(&self, inner: S) -> Least<S> {
        Least { inner, layer: self.clone() }
    }
}

impl<S: Service<Request<Body>, Response = Response>> Service<Request<Body>> for Least<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = LeastFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut span = self.layer.start(&request);
        tell(&mut span, self.layer.attributes);
        LeastFuture { inner: self.inner.call(request), span: Some(span) }
    }
}

pin_project! {
    pub(crate) struct LeastFuture<F> {
        #[pin]
        inner: F,
        span: Option<Span>,
    }
}

impl<F: Future<Output = Result<Response, E>>, E> Future for LeastFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let span = this.span.take();
        Poll::Ready(Ok(response.map(|inner| Body::new(UnsyncBoxBody::new(LeastBody { inner, span })))))
    }
}

pin_project! {
    struct LeastBody {
        #[pin]
        inner: Body,
        span: Option<Span>,
    }
}

impl HttpBody for LeastBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut this = self.project();
        let frame = this.inner.as_mut().poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || this.inner.is_end_stream() {
            *this.span = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;
    use tower::ServiceExt;
    use trace_core::testing::Collector;

    use super::*;
    use crate::exporters::{self, Sampled};
    use crate::harness;
    use crate::middleware::{self, Caller};

    #[tokio::test]
    async fn it_tells_what_the_layer_tells() {
        let collector = Collector::start().await.unwrap();
        let endpoint = format!("{}/v1/traces", collector.http_endpoint());
        let tracer = exporters::ours(&harness::Collector { endpoint }, Sampled::Yes);
        let ours = middleware::router().layer(trace_axum::TraceLayer::new().tracer(tracer));
        let least = LeastLayer::new(tracer, "203.0.113.195");
        let reading = middleware::router().layer(least.clone().reading());
        for router in [ours, middleware::router().layer(least), reading] {
            let response = router.oneshot(middleware::request(Caller::Sampled)).await.unwrap();
            assert_eq!(tracer.stats().live, 1, "until the body has ended");
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "an item");
            assert_eq!(tracer.stats().live, 0);
        }
        let mut spans = collector.wait_for_spans(3, Duration::from_secs(20)).await.unwrap();
        spans.iter_mut().for_each(|span| span.attributes.sort_by(|one, other| one.0.cmp(&other.0)));
        let [ours, least, reading] = &spans[..] else { panic!("{} spans", spans.len()) };
        for bound in [least, reading] {
            assert_eq!(bound.attributes, ours.attributes);
            assert_eq!((&bound.name, bound.kind), (&ours.name, ours.kind));
        }
        let [ours, least, reading] = [ours, least, reading].map(|span| (span.trace_id, span.parent_span_id));
        assert_eq!(reading, ours);
        assert_ne!(least, ours);
        // What it reads is there.
        let (head, _) = middleware::request(Caller::Sampled).into_parts();
        assert!(head.extensions.get::<ConnectInfo<SocketAddr>>().is_some());
    }
}
