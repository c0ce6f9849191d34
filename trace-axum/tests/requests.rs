//! What a span tells of its request, and what a request tells of its trace, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../../trace-tower/tests/common/mod.rs"]
mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::{ConnectInfo, MockConnectInfo};
use axum::extract::{Path, Request};
use axum::response::Response;
use axum::routing::{any, get};
use common::{
    CALLER, Raw, Sent, TRACE_ID, Traced, assert_error, assert_no_error, http2, keys, number, text,
    traceparent,
};
use http::{HeaderName, StatusCode};
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tower::ServiceExt as _;
use trace_axum::{CurrentSpan, KnownMethods, QueryRedaction, TraceLayer};
use trace_core::sampler::AnySampler;
use trace_core::{Context, SpanKind};

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(axum::serve(listener, app).into_future());
    address
}

/// Sends a whole request to a traced router, and gives the response.
async fn send(traced: &Traced, app: Router, layer: TraceLayer, request: &[u8]) -> String {
    let server = serve(app.layer(layer.tracer(traced.tracer()))).await;
    Raw::send(server, request).await.rest().await
}

fn hello() -> Router {
    Router::new().route("/orders/{id}", any(async |Path(id): Path<String>| format!("order {id}")))
}

#[tokio::test]
async fn every_attribute_of_a_request_is_there_and_has_its_type() {
    let traced = Traced::start().await;
    let server = serve(hello().layer(TraceLayer::new().tracer(traced.tracer()))).await;
    let mut client = Raw::send(
        server,
        "GET /orders/7?page=2&token=secret HTTP/1.1\r\nhost: shop.example:8080\r\nuser-agent: test/1.0\r\n\
         x-forwarded-for: 1.2.3.4\r\nx-forwarded-host: spoofed\r\nforwarded: for=1.2.3.4\r\n\r\n",
    )
    .await;
    client.until("order 7").await;

    let span = traced.span().await;
    assert_eq!(span.name, "GET /orders/{id}");
    assert_eq!(span.kind, SpanKind::Server);
    assert_eq!(span.scope_name, "trace-axum");
    assert_eq!(span.parent_span_id, None);
    assert_no_error(&span);
    assert_eq!(
        keys(&span),
        [
            "client.address",
            "http.request.method",
            "http.response.status_code",
            "http.route",
            "network.peer.address",
            "network.peer.port",
            "network.protocol.version",
            "server.address",
            "server.port",
            "url.path",
            "url.query",
            "url.scheme",
            "user_agent.original",
        ]
    );
    assert_eq!(text(&span, "client.address"), "127.0.0.1");
    assert_eq!(text(&span, "http.request.method"), "GET");
    assert_eq!(number(&span, "http.response.status_code"), 200);
    assert_eq!(text(&span, "http.route"), "/orders/{id}");
    assert_eq!(text(&span, "network.peer.address"), "127.0.0.1");
    assert_eq!(number(&span, "network.peer.port"), i64::from(client.port()));
    assert_eq!(text(&span, "network.protocol.version"), "1.1");
    assert_eq!(text(&span, "server.address"), "shop.example");
    assert_eq!(number(&span, "server.port"), 8080);
    assert_eq!(text(&span, "url.path"), "/orders/7");
    assert_eq!(text(&span, "url.query"), "page=REDACTED&token=REDACTED");
    assert_eq!(text(&span, "url.scheme"), "http");
    assert_eq!(text(&span, "user_agent.original"), "test/1.0");
}

#[tokio::test]
async fn http2_tells_its_version_and_its_authority() {
    let traced = Traced::start().await;
    let server = serve(hello().layer(TraceLayer::new().tracer(traced.tracer()))).await;
    let request = http::Request::get("https://shop.example/orders/7").body(Sent::default()).unwrap();
    let response = http2(server).await.send_request(request).await.unwrap();
    response.into_body().collect().await.unwrap();

    let span = traced.span().await;
    assert_eq!(text(&span, "network.protocol.version"), "2");
    assert_eq!(text(&span, "server.address"), "shop.example");
    assert_eq!(number(&span, "server.port"), 443);
    assert_eq!(text(&span, "url.scheme"), "https");
    assert_eq!(span.attribute("user_agent.original"), None);
    assert_eq!(span.attribute("url.query"), None);
}

#[tokio::test]
async fn each_request_has_its_own_server() {
    let servers = [
        ("shop.example:8080", Some("shop.example"), Some(8080)),
        ("shop.example", Some("shop.example"), Some(80)),
        ("shop.example", Some("shop.example"), Some(80)),
        ("", None, None),
        ("me:secret@shop.example:8080", Some("shop.example"), Some(8080)),
        ("me:secret@shop.example:8080", Some("shop.example"), Some(8080)),
        ("[::1]:81", Some("::1"), Some(81)),
        ("shop.example:8080", Some("shop.example"), Some(8080)),
        ("no server", None, None),
        ("shop.example:8080", Some("shop.example"), Some(8080)),
    ];
    for (host, address, port) in servers {
        // One after the other, on one thread.
        let traced = Traced::start().await;
        let router = hello().layer(TraceLayer::new().tracer(traced.tracer()));
        let request = Request::get("/orders/7").header("host", host).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
        let span = traced.span().await;
        assert_eq!(
            span.attribute("server.address").map(|_| text(&span, "server.address")),
            address,
            "{host}"
        );
        assert_eq!(span.attribute("server.port").map(|_| number(&span, "server.port")), port, "{host}");
    }
}

#[tokio::test]
async fn http_1_0_without_a_host_has_no_server() {
    let traced = Traced::start().await;
    let response = send(&traced, hello(), TraceLayer::new(), b"GET /orders/7 HTTP/1.0\r\n\r\n").await;
    assert!(response.ends_with("order 7"));

    let span = traced.span().await;
    assert_no_error(&span);
    assert_eq!(text(&span, "network.protocol.version"), "1.0");
    assert_eq!(span.attribute("server.address"), None);
    assert_eq!(span.attribute("server.port"), None);
}

#[tokio::test]
async fn without_connect_info_there_is_no_peer() {
    let traced = Traced::start().await;
    let app = hello().layer(TraceLayer::new().tracer(traced.tracer()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, app).into_future());
    Raw::get(server, "/orders/7").await.until("order 7").await;

    let span = traced.span().await;
    for key in ["client.address", "network.peer.address", "network.peer.port"] {
        assert_eq!(span.attribute(key), None);
    }
}

#[tokio::test]
async fn the_address_of_ipv4_is_told_as_such_on_a_socket_of_ipv6() {
    let traced = Traced::start().await;
    let app = hello().layer(TraceLayer::new().tracer(traced.tracer()));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    // Where there is no IPv6, there is nothing to see.
    let Ok(listener) = TcpListener::bind("[::]:0").await else { return };
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(axum::serve(listener, app).into_future());
    let server = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    Raw::get(server, "/orders/7").await.until("order 7").await;

    assert_eq!(text(&traced.span().await, "client.address"), "127.0.0.1");
}

#[tokio::test]
async fn an_unknown_method_makes_no_name_of_its_own() {
    let traced = Traced::start().await;
    let request = b"BREW /orders/7 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    send(&traced, hello(), TraceLayer::new(), request).await;

    let span = traced.span().await;
    assert_eq!(span.name, "HTTP /orders/{id}");
    assert_eq!(text(&span, "http.request.method"), "_OTHER");
    assert_eq!(text(&span, "http.request.method_original"), "BREW");

    let traced = Traced::start().await;
    let layer = TraceLayer::new().known_methods(KnownMethods::only(["BREW"]));
    send(&traced, hello(), layer, request).await;
    assert_eq!(traced.span().await.name, "BREW /orders/{id}");
}

#[tokio::test]
async fn what_no_route_matches_has_no_route() {
    let traced = Traced::start().await;
    let request = b"GET /wp-admin.php HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let response = send(&traced, hello(), TraceLayer::new(), request).await;
    assert!(response.starts_with("HTTP/1.1 404"));

    let span = traced.span().await;
    assert_eq!(span.name, "GET");
    assert_eq!(span.attribute("http.route"), None);
    assert_eq!(text(&span, "url.path"), "/wp-admin.php");
    assert_no_error(&span);
}

#[tokio::test]
async fn a_fallback_and_a_wrong_method_are_served_in_spans_too() {
    let traced = Traced::start().await;
    let app = Router::new().route("/orders/{id}", get(async || "order")).fallback(async || "nothing here");
    let server = serve(app.layer(TraceLayer::new().tracer(traced.tracer()))).await;
    Raw::get(server, "/else").await.until("nothing here").await;
    let post = format!("POST /orders/7 HTTP/1.1\r\nhost: {server}\r\ncontent-length: 0\r\n\r\n");
    Raw::send(server, post).await.until("405").await;

    let mut spans = traced.spans(2).await;
    spans.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!([&*spans[0].name, &*spans[1].name], ["GET", "POST /orders/{id}"]);
    assert_eq!(number(&spans[1], "http.response.status_code"), 405);
    spans.iter().for_each(assert_no_error);
}

#[tokio::test]
async fn a_nested_router_tells_the_whole_route_and_the_whole_path() {
    let inner = |traced: &Traced| hello().layer(TraceLayer::new().tracer(traced.tracer()));
    let outer = |traced: &Traced| {
        let api = Router::new().nest("/api/{version}", hello());
        api.layer(TraceLayer::new().tracer(traced.tracer()))
    };
    let only_inside = |traced: &Traced| Router::new().nest("/api/{version}", inner(traced));
    for app in [&outer as &dyn Fn(&Traced) -> Router, &only_inside] {
        let traced = Traced::start().await;
        let server = serve(app(&traced)).await;
        Raw::get(server, "/api/v2/orders/7?a=1").await.until("\r\n\r\n").await;

        let span = traced.span().await;
        assert_eq!(span.name, "GET /api/{version}/orders/{id}");
        assert_eq!(text(&span, "http.route"), "/api/{version}/orders/{id}");
        assert_eq!(text(&span, "url.path"), "/api/v2/orders/7");
        assert_eq!(text(&span, "url.query"), "a=REDACTED");
    }
}

#[tokio::test]
async fn a_layer_inside_a_layer_makes_a_child_and_not_a_second_trace() {
    let traced = Traced::start().await;
    let layer = || TraceLayer::new().tracer(traced.tracer());
    let server = serve(Router::new().nest("/api", hello().layer(layer())).layer(layer())).await;
    Raw::get(server, "/api/orders/7").await.until("order 7").await;

    let spans = traced.spans(2).await;
    assert_eq!(spans[0].trace_id, spans[1].trace_id);
    let roots: Vec<_> = spans.iter().filter(|span| span.parent_span_id.is_none()).collect();
    assert_eq!(roots.len(), 1);
    assert!(spans.iter().any(|span| span.parent_span_id == Some(roots[0].span_id)));
}

/// Answers with what the handler's own context would send downstream.
async fn downstream(request: Request) -> String {
    let _ = request;
    let context = Context::current();
    let mut headers = http::HeaderMap::new();
    trace_core::Propagator::default().inject(&context, &mut headers);
    let header = |name: &str| {
        let value = headers.get(name).map(|value| value.to_str().unwrap());
        format!("{name}={}\n", value.unwrap_or("-"))
    };
    [header("traceparent"), header("tracestate"), header("baggage"), "end".to_owned()].concat()
}

#[tokio::test]
async fn a_callers_trace_goes_on_with_its_tracestate_and_baggage() {
    let traced = Traced::start().await;
    let app = Router::new().route("/", get(downstream));
    let server = serve(app.layer(TraceLayer::new().tracer(traced.tracer()))).await;
    let request = format!(
        "GET / HTTP/1.1\r\nhost: a\r\ntraceparent: {}\r\ntracestate: a=1\r\ntracestate: b=2\r\nbaggage: k=v\r\n\r\n",
        traceparent("01")
    );
    let response = Raw::send(server, request).await.until("end").await;

    let span = traced.span().await;
    assert_eq!(span.trace_id.to_string(), TRACE_ID);
    assert_eq!(span.parent_span_id.unwrap().to_string(), CALLER);
    assert_eq!(span.trace_state, "a=1,b=2");
    assert_eq!(span.flags & 0x300, 0x300, "the parent is known to be remote");
    assert!(response.contains(&format!("traceparent=00-{TRACE_ID}-{}-01\n", span.span_id)), "{response}");
    assert!(response.contains("tracestate=a=1,b=2\n"), "{response}");
    assert!(response.contains("baggage=k=v\n"), "{response}");
}

#[tokio::test]
async fn a_request_without_a_trace_starts_one() {
    let traced = Traced::start().await;
    let app = Router::new().route("/", get(downstream));
    let server = serve(app.layer(TraceLayer::new().tracer(traced.tracer()))).await;
    let response = Raw::get(server, "/").await.until("end").await;

    let span = traced.span().await;
    assert_eq!(span.parent_span_id, None);
    let sent = format!("traceparent=00-{}-{}-03\n", span.trace_id, span.span_id);
    assert!(response.contains(&sent), "{response}");
}

#[tokio::test]
async fn a_caller_who_does_not_sample_is_followed() {
    let traced = Traced::start().await;
    let app = Router::new().route("/", get(downstream));
    let server = serve(app.layer(TraceLayer::new().tracer(traced.tracer()))).await;
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\ntraceparent: {}\r\n\r\n", traceparent("00"));
    let response = Raw::send(server, request).await.until("end").await;

    let sent = response.split_once("traceparent=").unwrap().1;
    assert!(
        sent.starts_with(&format!("00-{TRACE_ID}-")) && !sent.contains(CALLER),
        "an id of its own: {response}"
    );
    assert_eq!(&sent[52..55], "-00");
    assert!(traced.spans(0).await.is_empty());
    assert_eq!(traced.traces.stats().sampled_out, 1);
}

#[tokio::test]
async fn hostile_headers_are_served_as_any_others() {
    let long = "x".repeat(60_000);
    let members = (0..200).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
    for (name, value) in [
        ("traceparent", b"00-00000000000000000000000000000000-0000000000000000-01".as_slice()),
        ("traceparent", b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("traceparent", b"\xff\xfe\x80"),
        ("traceparent", long.as_bytes()),
        ("tracestate", long.as_bytes()),
        ("tracestate", members.as_bytes()),
        ("baggage", long.as_bytes()),
        ("baggage", members.as_bytes()),
        ("baggage", b"%%%=%;;;=,,,=\xff"),
        ("user-agent", long.as_bytes()),
        ("user-agent", b"a\xffb\xc3\x28"),
        ("host", b"<script>alert(1)</script>"),
        ("host", b"a:b:c:99999999999"),
        ("host", b"\xff\xff"),
    ] {
        let traced = Traced::start().await;
        let server = serve(hello().layer(TraceLayer::ingress().tracer(traced.tracer()))).await;
        let mut request = b"GET /orders/7 HTTP/1.1\r\nconnection: close\r\n".to_vec();
        if name != "host" {
            request.extend(b"host: a\r\n");
        }
        for part in [name.as_bytes(), b": ", value, b"\r\n\r\n"] {
            request.extend(part);
        }
        let response = Raw::send(server, request).await.rest().await;
        assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("order 7"), "{name}: {response}");

        let span = traced.span().await;
        assert_no_error(&span);
        assert_eq!(span.parent_span_id, None, "{name}");
        if value == b"a\xffb\xc3\x28" {
            assert_eq!(text(&span, "user_agent.original"), "a\u{fffd}b\u{fffd}(");
        }
        if name == "host" && value != b"a:b:c:99999999999" {
            assert_eq!(span.attribute("server.address"), None);
        }
    }
}

#[tokio::test]
async fn an_ingress_tells_its_caller_the_trace() {
    async fn timed() -> Response {
        Response::builder().header("server-timing", "db;dur=53").body(Body::from("done")).unwrap()
    }
    for (sampler, flags) in [(AnySampler::AlwaysOn, "03"), (AnySampler::AlwaysOff, "02")] {
        let traced = Traced::sampled_by(sampler).await;
        let app = Router::new().route("/", get(timed));
        let server = serve(app.layer(TraceLayer::ingress().tracer(traced.tracer()))).await;
        let response = Raw::get(server, "/").await.until("done").await;

        let header = |name: &str| {
            let prefix = format!("{name}: ");
            response.lines().filter_map(|line| line.strip_prefix(&prefix)).collect::<Vec<_>>()
        };
        let timing = header("server-timing");
        assert_eq!(timing.len(), 2, "{response}");
        assert_eq!(timing[0], "db;dur=53");
        let trace_id = header("x-trace-id")[0];
        let described = timing[1].strip_prefix(&format!("trace;desc=00-{trace_id}-")).unwrap();
        assert_eq!(described.len(), 16 + 3);
        assert!(described.ends_with(&format!("-{flags}")), "{described}");
        if flags == "03" {
            let span = traced.span().await;
            assert_eq!(span.trace_id.to_string(), trace_id);
            assert_eq!(span.span_id.to_string(), described[..16]);
        }
    }
}

#[tokio::test]
async fn an_ingress_tells_the_trace_of_a_404_and_under_the_name_that_is_wanted() {
    let traced = Traced::start().await;
    let layer = TraceLayer::ingress().trace_id_header(HeaderName::from_static("x-request-trace"));
    let request = b"GET /else HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let response = send(&traced, hello(), layer, request).await;
    let trace_id = traced.span().await.trace_id;
    assert!(response.contains(&format!("x-request-trace: {trace_id}\r\n")), "{response}");
    assert!(!response.contains("x-trace-id"));
}

#[tokio::test]
async fn a_service_inside_tells_nothing() {
    let traced = Traced::start().await;
    let request = b"GET /orders/7 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let response = send(&traced, hello(), TraceLayer::new(), request).await;
    assert!(!response.contains("trace"), "{response}");
}

#[tokio::test]
async fn a_request_that_is_left_out_keeps_its_place_in_the_trace() {
    async fn healthy() -> &'static str {
        trace_core::span("check the database").in_scope(|| ());
        "healthy"
    }
    let filter = TraceLayer::new().filter(|request| request.uri.path() != "/api/healthz");
    let layers = [TraceLayer::new().ignore_paths(["/x", "/api/healthz"]), filter];
    for layer in layers {
        let traced = Traced::start().await;
        let app = Router::new().nest("/api", Router::new().route("/healthz", get(healthy)));
        let server = serve(app.layer(layer.tracer(traced.tracer()))).await;
        let traceparent = traceparent("01");
        let request = format!("GET /api/healthz HTTP/1.1\r\nhost: a\r\ntraceparent: {traceparent}\r\n\r\n");
        Raw::send(server, request).await.until("healthy").await;

        let span = traced.span().await;
        assert_eq!(span.name, "check the database");
        assert_eq!(span.trace_id.to_string(), TRACE_ID);
        assert_eq!(span.parent_span_id.unwrap().to_string(), CALLER);
    }
}

#[tokio::test]
async fn a_query_is_told_as_far_as_it_is_allowed() {
    let allowed = TraceLayer::new().query_allow_list(["page"]);
    let conventions = TraceLayer::new().query_redaction(QueryRedaction::conventions());
    for (layer, told) in [(allowed, "page=2&sig=REDACTED"), (conventions, "page=2&sig=REDACTED")] {
        let traced = Traced::start().await;
        let request = b"GET /orders/7?page=2&sig=secret HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        send(&traced, hello(), layer, request).await;
        assert_eq!(text(&traced.span().await, "url.query"), told);
    }
}

#[tokio::test]
async fn a_scheme_can_be_set() {
    let traced = Traced::start().await;
    let request = b"GET /orders/7 HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n";
    send(&traced, hello(), TraceLayer::new().scheme("https"), request).await;
    let span = traced.span().await;
    assert_eq!(text(&span, "url.scheme"), "https");
    assert_eq!(number(&span, "server.port"), 443);
}

#[tokio::test]
async fn a_handler_writes_to_its_span_and_tells_its_id() {
    async fn order(span: CurrentSpan, Path(id): Path<u32>) -> (StatusCode, String) {
        span.set_attribute("shop.order", id);
        span.add_event("looked up", &[("rows".into(), 0.into())]);
        span.set_error("no_such_order");
        (StatusCode::NOT_FOUND, format!("Tell us: {}.", span.trace_id_text()))
    }
    let traced = Traced::start().await;
    let app = Router::new().route("/orders/{id}", get(order));
    let server = serve(app.layer(TraceLayer::new().tracer(traced.tracer()))).await;
    let response = Raw::get(server, "/orders/7").await.until("Tell us: ").await;

    let span = traced.span().await;
    assert_eq!(number(&span, "shop.order"), 7);
    assert_eq!(span.events[0].name, "looked up");
    assert_error(&span, "no_such_order");
    assert!(response.ends_with(&format!("Tell us: {}.", span.trace_id)), "{response}");
}

#[tokio::test]
async fn what_a_handler_says_of_an_error_stands() {
    let traced = Traced::start().await;
    let failing = async |span: CurrentSpan| {
        span.set_error("card_declined");
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let fine = async |span: CurrentSpan| {
        span.span().set_status(trace_core::StatusCode::Ok);
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let app = Router::new().route("/failing", get(failing)).route("/fine", get(fine));
    let server = serve(app.layer(TraceLayer::new().tracer(traced.tracer()))).await;
    Raw::get(server, "/failing").await.until("500").await;
    Raw::get(server, "/fine").await.until("500").await;

    let mut spans = traced.spans(2).await;
    spans.sort_by(|a, b| a.name.cmp(&b.name));
    assert_error(&spans[0], "card_declined");
    assert_eq!(spans[1].status, trace_core::StatusCode::Ok);
    assert_eq!(spans[1].attribute("error.type"), None);
}

#[tokio::test]
async fn work_for_a_response_is_below_its_request() {
    async fn streamed() -> Body {
        trace_core::span("before the head").in_scope(|| ());
        let mut span = Some(());
        Body::from_stream(futures_util::stream::poll_fn(move |_| {
            let next = span.take().map(|()| {
                trace_core::span("in the body").in_scope(|| ());
                Ok::<_, std::io::Error>("done")
            });
            std::task::Poll::Ready(next)
        }))
    }
    let traced = Traced::start().await;
    let app = Router::new().route("/", get(streamed));
    let server = serve(app.layer(TraceLayer::new().tracer(traced.tracer()))).await;
    Raw::get(server, "/").await.until("done").await;

    let spans = traced.spans(3).await;
    let request = spans.iter().find(|span| span.kind == SpanKind::Server).unwrap();
    for name in ["before the head", "in the body"] {
        let span = spans.iter().find(|span| span.name == name).unwrap();
        assert_eq!(span.parent_span_id, Some(request.span_id), "{name}");
    }
}

#[tokio::test]
async fn a_service_that_is_mounted_has_no_route_of_its_own() {
    let traced = Traced::start().await;
    let mounted =
        tower::service_fn(async |_: Request| Ok::<_, std::convert::Infallible>(Response::new(Body::empty())));
    let app = Router::new().nest_service("/files", mounted);
    let server = serve(app.layer(TraceLayer::new().tracer(traced.tracer()))).await;
    Raw::get(server, "/files/a/b").await.until("\r\n\r\n").await;
    let span = traced.span().await;
    assert_eq!(text(&span, "url.path"), "/files/a/b");
    assert_eq!((&*span.name, span.attribute("http.route")), ("GET", None));
}

#[tokio::test]
async fn a_layer_around_the_whole_router_sees_no_route() {
    let traced = Traced::start().await;
    let service = tower::Layer::layer(&TraceLayer::new().tracer(traced.tracer()), hello());
    let request = Request::get("/orders/7").body(Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(service, request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "order 7");
    let span = traced.span().await;
    assert_eq!((&*span.name, span.attribute("http.route")), ("GET", None));
}

#[tokio::test]
async fn a_route_layer_sees_what_a_route_matches() {
    let traced = Traced::start().await;
    let app = hello().route_layer(TraceLayer::new().tracer(traced.tracer()));
    let server = serve(app).await;
    Raw::get(server, "/else").await.until("404").await;
    Raw::get(server, "/orders/7").await.until("order 7").await;
    assert_eq!(traced.span().await.name, "GET /orders/{id}");
}

#[tokio::test]
async fn the_peer_may_be_mocked_or_known_to_the_service_alone() {
    let peer = SocketAddr::from(([10, 0, 0, 1], 1234));
    let mocked = |layer: TraceLayer| hello().layer(layer).layer(MockConnectInfo(peer));
    let own = |layer: TraceLayer| {
        let layer = layer.peer_from(|extensions| extensions.get().copied());
        let connected = ConnectInfo(SocketAddr::from(([10, 0, 0, 2], 4321)));
        hello().layer(layer).layer(axum::Extension(peer)).layer(axum::Extension(connected))
    };
    for app in [&mocked as &dyn Fn(TraceLayer) -> Router, &own] {
        let traced = Traced::start().await;
        let request = Request::get("/orders/7").body(Body::empty()).unwrap();
        let app = app(TraceLayer::new().tracer(traced.tracer()));
        tower::ServiceExt::oneshot(app, request).await.unwrap().into_body().collect().await.unwrap();
        let span = traced.span().await;
        assert_eq!(text(&span, "client.address"), "10.0.0.1");
        assert_eq!(number(&span, "network.peer.port"), 1234);
    }
}

#[tokio::test]
async fn a_peer_that_the_service_does_not_know_is_not_told_by_the_connection() {
    let traced = Traced::start().await;
    let layer = TraceLayer::new().tracer(traced.tracer()).peer_from(|_| None);
    let server = serve(hello().layer(layer)).await;
    Raw::get(server, "/orders/7").await.until("order 7").await;
    let span = traced.span().await;
    assert_eq!((span.attribute("client.address"), span.attribute("network.peer.address")), (None, None));
}
