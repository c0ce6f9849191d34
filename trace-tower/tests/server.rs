//! What a server's layer asks of a request, and what not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use common::{Traced, traceparent};
use http::{Extensions, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use trace_core::sampler::AnySampler;
use trace_tower::ServerTraceLayer;

/// How often somebody asked for the route.
type Asked = Arc<AtomicUsize>;

fn route(extensions: &Extensions) -> Option<&str> {
    extensions.get::<Asked>()?.fetch_add(1, Ordering::Relaxed);
    Some("/orders/{id}")
}

#[tokio::test]
async fn the_route_is_looked_up_for_spans_that_may_be_recorded_and_for_no_others() {
    for (sampler, flags, asked) in [
        (AnySampler::default(), "01", 1),
        (AnySampler::default(), "00", 0),
        (AnySampler::AlwaysOff, "01", 0),
        (AnySampler::AlwaysOn, "00", 1),
    ] {
        let traced = Traced::sampled_by(sampler).await;
        let layer = ServerTraceLayer::new().tracer(traced.tracer()).route_from(route);
        let service = layer.layer(service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"an order"))))
        }));
        let lookups = Asked::default();
        let mut request = Request::get("/orders/7").body(()).unwrap();
        request.headers_mut().insert("traceparent", traceparent(flags).parse().unwrap());
        request.extensions_mut().insert(lookups.clone());
        let response = service.oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();

        assert_eq!(lookups.load(Ordering::Relaxed), asked, "{flags}");
        let spans = traced.spans(asked).await;
        assert!(spans.iter().all(|span| span.name == "GET /orders/{id}"), "{spans:?}");
        assert_eq!(traced.traces.stats().sampled_out, 1 - asked as u64);
    }
}
