//! Calls of all kinds, and every way in which they end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod shop;

use std::time::Duration;

use futures_util::{FutureExt, StreamExt, future, stream};
use shop::pb::inventory_client::InventoryClient;
use shop::pb::inventory_server::InventoryServer;
use shop::{
    DESCRIPTOR, Item, SOON, Shop, Traced, World, assert_ended, channel, connect, item, number, serve, text,
};
use tonic::server::NamedService;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request, Status};
use tower_layer::Layer;
use trace_core::sampler::AnySampler;
use trace_core::{Propagator, SpanKind};
use trace_tonic::{ClientTraceLayer, ServerTraceLayer};

const GET: &str = "shop.v1.Inventory/Get";

/// The name of a status, and whether it is an error for a server.
const CODES: [(&str, bool); 17] = [
    ("OK", false),
    ("CANCELLED", false),
    ("UNKNOWN", true),
    ("INVALID_ARGUMENT", false),
    ("DEADLINE_EXCEEDED", true),
    ("NOT_FOUND", false),
    ("ALREADY_EXISTS", false),
    ("PERMISSION_DENIED", false),
    ("RESOURCE_EXHAUSTED", false),
    ("FAILED_PRECONDITION", false),
    ("ABORTED", false),
    ("OUT_OF_RANGE", false),
    ("UNIMPLEMENTED", true),
    ("INTERNAL", true),
    ("UNAVAILABLE", true),
    ("DATA_LOSS", true),
    ("UNAUTHENTICATED", false),
];

fn codes() -> impl Iterator<Item = Code> {
    (0..=16).map(Code::from)
}

/// One call for each status, in order, and nothing else.
async fn assert_every_status(world: &World, method: &str) {
    let (clients, servers) = world.traced.calls(17).await;
    for ((client, server), (code, of_server)) in clients.iter().zip(&servers).zip(CODES) {
        assert_eq!((&*client.name, &*server.name), (method, method));
        assert_ended(client, code, (code != "OK").then_some(code));
        assert_ended(server, code, of_server.then_some(code));
    }
}

fn known(layer: ServerTraceLayer) -> ServerTraceLayer {
    layer.file_descriptor_set(DESCRIPTOR).unwrap()
}

#[tokio::test]
async fn a_call_has_every_attribute_of_the_conventions() {
    let mut world = World::start().await;
    let parent = world.traced.tracer().span("caller").start();
    let caller = parent.span_context().unwrap();
    parent.run(world.client.get(item("", Code::Ok, 0))).await.unwrap();
    let spans = world.traced.spans(3).await;
    let client = spans.iter().find(|span| span.kind == SpanKind::Client).unwrap();
    let server = spans.iter().find(|span| span.kind == SpanKind::Server).unwrap();
    assert_eq!((client.trace_id, client.parent_span_id), (caller.trace_id(), Some(caller.span_id())));
    assert_eq!((server.trace_id, server.parent_span_id), (caller.trace_id(), Some(client.span_id)));
    for span in [client, server] {
        assert_eq!(span.name, GET);
        assert_eq!((&*span.scope_name, &*span.scope_version), ("trace-tonic", env!("CARGO_PKG_VERSION")));
        assert_eq!(text(span, "rpc.system.name"), Some("grpc"));
        assert_eq!(text(span, "rpc.method"), Some(GET));
        assert_eq!(text(span, "server.address"), Some("127.0.0.1"));
        assert_eq!(number(span, "server.port"), Some(i64::from(world.address.port())));
        assert_ended(span, "OK", None);
    }
    assert_eq!(text(server, "network.peer.address"), Some("127.0.0.1"));
    assert!(number(server, "network.peer.port").unwrap() > 0);
    assert_eq!((client.attributes.len(), server.attributes.len()), (5, 7));
}

#[tokio::test]
async fn every_status_of_a_unary_call_is_told() {
    let mut world = World::with(Traced::start(), known).await;
    for code in codes() {
        // An error is all that the response has: it is in the head.
        let result = world.client.get(item("", code, 0)).await;
        assert_eq!(result.map_or_else(|status| status.code(), |_| Code::Ok), code);
    }
    assert_every_status(&world, GET).await;
}

#[tokio::test]
async fn every_status_of_a_server_stream_is_told() {
    let mut world = World::start().await;
    for code in codes() {
        let stream = world.client.watch(item("", code, 2)).await.unwrap().into_inner();
        let items: Vec<_> = stream.collect().await;
        assert_eq!(items.iter().filter(|item| item.is_ok()).count(), 2);
        assert_eq!(items.last().unwrap().as_ref().map_or_else(Status::code, |_| Code::Ok), code);
    }
    assert_every_status(&world, "shop.v1.Inventory/Watch").await;
}

#[tokio::test]
async fn every_status_of_a_client_stream_is_told() {
    let mut world = World::with(Traced::start(), known).await;
    for code in codes() {
        let items = stream::iter([item("", Code::Ok, 0), item("", Code::Ok, 0), item("", code, 0)]);
        let result = world.client.put(items).await;
        assert_eq!(result.map_or_else(|status| status.code(), |_| Code::Ok), code);
    }
    assert_every_status(&world, "shop.v1.Inventory/Put").await;
}

#[tokio::test]
async fn every_status_of_a_stream_in_both_directions_is_told() {
    let mut world = World::start().await;
    for code in codes() {
        let items = stream::iter([item("", Code::Ok, 1), item("", code, 1)]);
        let stream = world.client.sync(items).await.unwrap().into_inner();
        let items: Vec<_> = stream.collect().await;
        assert_eq!(items.iter().filter(|item| item.is_ok()).count(), 2);
        assert_eq!(items.last().unwrap().as_ref().map_or_else(Status::code, |_| Code::Ok), code);
    }
    assert_every_status(&world, "shop.v1.Inventory/Sync").await;
}

#[tokio::test]
async fn the_spans_last_as_long_as_the_stream() {
    let mut world = World::start().await;
    let mut stream = world.client.watch(item("hang", Code::Ok, 1)).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    world.events.hangs().await;
    assert_eq!(world.traced.tracer().stats().live, 2);
    world.events.release.add_permits(1);
    assert_eq!(stream.message().await.unwrap(), None);
    let (client, server) = world.traced.call().await;
    assert_ended(&client, "OK", None);
    assert_ended(&server, "OK", None);
}

#[tokio::test]
async fn handlers_and_their_streams_work_inside_the_span() {
    let mut world = World::start().await;
    world.client.get(item("", Code::Ok, 0)).await.unwrap();
    let stream = world.client.watch(item("", Code::Ok, 1)).await.unwrap().into_inner();
    stream.collect::<Vec<_>>().await;
    let (_, servers) = world.traced.calls(2).await;
    let finished = world.events.finished();
    assert_eq!(finished.len(), 2);
    for (server, context) in servers.iter().zip(finished) {
        assert_eq!(context.span_context().unwrap().span_id(), server.span_id);
    }
}

#[tokio::test]
async fn a_unary_call_that_its_caller_drops_is_cancelled() {
    let mut world = World::start().await;
    {
        let call = world.client.get(item("hang", Code::Ok, 0));
        tokio::select! {
            response = call => panic!("{response:?}"),
            () = world.events.hangs() => {}
        }
    }
    world.events.dropped().await;
    let (client, server) = world.traced.call().await;
    assert_ended(&client, "CANCELLED", None);
    assert_ended(&server, "CANCELLED", None);
}

#[tokio::test]
async fn a_stream_that_its_reader_drops_is_cancelled() {
    let mut world = World::start().await;
    let mut stream = world.client.watch(item("hang", Code::Ok, 2)).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    world.events.hangs().await;
    drop(stream);
    world.events.dropped().await;
    let (client, server) = world.traced.call().await;
    assert_ended(&client, "CANCELLED", None);
    assert_ended(&server, "CANCELLED", None);
}

#[tokio::test]
async fn a_stream_of_requests_that_breaks_off_cancels_both_sides() {
    let mut world = World::start().await;
    let items = stream::iter([item("", Code::Ok, 0)]).chain(stream::pending());
    {
        let mut call = Box::pin(world.client.put(items));
        // The handler waits for the second item.
        loop {
            assert!(future::poll_fn(|cx| std::task::Poll::Ready(call.poll_unpin(cx).is_pending())).await);
            if !world.events.seen().is_empty() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let (client, server) = world.traced.call().await;
    assert_ended(&client, "CANCELLED", None);
    // tonic tells the handler, whose answer nobody reads, by an error; or drops it.
    assert_eq!(text(&server, "rpc.status_code"), Some("CANCELLED"));
    assert_eq!(text(&server, "error.type"), None);
}

#[tokio::test]
async fn a_deadline_ends_the_call_on_both_sides() {
    let mut world = World::start().await;
    let mut request = Request::new(item("hang", Code::Ok, 0));
    request.set_timeout(Duration::from_millis(50));
    let status = world.client.get(request).await.unwrap_err();
    world.events.dropped().await;
    let (client, server) = world.traced.call().await;
    // What tonic makes of it: the client tells what its caller was told.
    assert_eq!(status.code(), Code::Cancelled);
    assert_ended(&client, "CANCELLED", Some("CANCELLED"));
    assert_ended(&server, "CANCELLED", None);
    assert!(client.duration() >= Duration::from_millis(50));
}

#[tokio::test]
async fn a_server_that_stops_in_mid_stream_is_told() {
    let mut world = World::start().await;
    let mut stream = world.client.watch(item("hang", Code::Ok, 1)).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    world.events.hangs().await;
    let server = tokio::spawn(async move {
        // The connection is a task of its own, which tonic stops when the server is dropped.
        world.server.abort();
        let _ = world.server.await;
        (world.traced, world.events)
    });
    let (traced, events) = server.await.unwrap();
    events.release.add_permits(1);
    let end = tokio::time::timeout(SOON, stream.message()).await.unwrap();
    let code = end.map_or_else(|status| status.code(), |_| Code::Ok);
    drop(stream);
    let (client, _) = traced.call().await;
    let name = CODES[code as usize].0;
    assert_ended(&client, name, (code != Code::Ok).then_some(name));
}

#[tokio::test]
async fn a_handler_that_panics_is_an_error() {
    let mut world = World::start().await;
    let status = world.client.get(item("panic", Code::Ok, 0)).await.unwrap_err();
    let (client, server) = world.traced.call().await;
    let name = CODES[status.code() as usize].0;
    assert_ended(&client, name, Some(name));
    assert_ended(&server, "UNKNOWN", Some("panic"));
    assert_eq!(server.events.len(), 1);
    assert_eq!(server.events[0].name, "exception");
    assert!(!format!("{server:?}").contains("s3cret"), "its message stays here");
}

#[tokio::test]
async fn a_stream_that_panics_is_an_error() {
    let traced = Traced::start();
    let mut world = World::with(traced, |layer| layer.panic_messages(true)).await;
    let stream = world.client.watch(item("panic", Code::Ok, 1)).await.unwrap().into_inner();
    // The first message may be lost with the connection.
    let messages: Vec<_> = stream.collect().await;
    let status = messages.last().unwrap().as_ref().unwrap_err();
    let (client, server) = world.traced.call().await;
    let name = CODES[status.code() as usize].0;
    assert_ended(&client, name, Some(name));
    assert_ended(&server, "UNKNOWN", Some("panic"));
    assert!(format!("{:?}", server.events).contains("s3cret"), "as it was asked for");
}

/// Calls a method that the client knows nothing of.
async fn call(world: &World, path: &'static str) -> Status {
    let mut grpc = tonic::client::Grpc::new(channel(&world.traced, world.address));
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<Item, Item>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    grpc.unary(Request::new(Item::default()), path, codec).await.unwrap_err()
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_other() {
    let world = World::start().await;
    let paths = ["/shop.v1.Inventory/Steal", "/shop.v2.Inventory/Get", "/", "/a/b/c"];
    for path in paths {
        assert_eq!(call(&world, path).await.code(), Code::Unimplemented);
    }
    let (clients, servers) = world.traced.calls(4).await;
    for ((client, server), path) in clients.iter().zip(&servers).zip(paths) {
        let name = &path[1..];
        assert_eq!(server.name, "grpc");
        assert_eq!(text(server, "rpc.method"), Some("_OTHER"));
        assert_eq!(text(server, "rpc.method_original"), Some(name));
        assert_ended(server, "UNIMPLEMENTED", Some("UNIMPLEMENTED"));
        assert_ended(client, "UNIMPLEMENTED", Some("UNIMPLEMENTED"));
    }
    assert_eq!(clients[0].name, "shop.v1.Inventory/Steal", "a client knows what it calls");
    assert_eq!(clients[2].name, "grpc");
}

#[tokio::test]
async fn a_client_whose_server_lies_below_a_path_calls_its_methods() {
    let world = World::start().await;
    let origin = format!("http://{}/prefix", world.address).parse().unwrap();
    let mut client = InventoryClient::with_origin(channel(&world.traced, world.address), origin);
    // Our server is there for any path, and knows no prefix.
    client.get(item("", Code::Ok, 0)).await.unwrap_err();
    let (client, server) = world.traced.call().await;
    assert_eq!((&*client.name, text(&client, "rpc.method")), (GET, Some(GET)));
    assert_eq!(text(&client, "rpc.method_original"), None);
    assert_eq!(text(&server, "rpc.method_original"), Some(&*format!("prefix/{GET}")));
}

#[tokio::test]
async fn unimplemented_by_a_method_that_is_known_to_exist_is_its_own() {
    // Not known, it looks like one that does not exist.
    let mut world = World::start().await;
    world.client.get(item("", Code::Unimplemented, 0)).await.unwrap_err();
    assert_eq!(world.traced.call().await.1.name, "grpc");

    for known in [known, |layer: ServerTraceLayer| layer.methods([GET])] {
        let mut world = World::with(Traced::start(), known).await;
        world.client.get(item("", Code::Unimplemented, 0)).await.unwrap_err();
        let (_, server) = world.traced.call().await;
        assert_eq!((&*server.name, text(&server, "rpc.method")), (GET, Some(GET)));
        assert_ended(&server, "UNIMPLEMENTED", Some("UNIMPLEMENTED"));
    }
    // In the trailers of a stream it never means that there is no method.
    let mut world = World::start().await;
    let stream = world.client.watch(item("", Code::Unimplemented, 1)).await.unwrap().into_inner();
    stream.collect::<Vec<_>>().await;
    assert_eq!(world.traced.call().await.1.name, "shop.v1.Inventory/Watch");
}

#[test]
fn what_is_no_descriptor_set_is_refused() {
    for broken in [b"\xff".as_slice(), b"\x0a\x05a", &DESCRIPTOR[..DESCRIPTOR.len() - 1]] {
        assert!(ServerTraceLayer::new().file_descriptor_set(broken).is_err(), "{broken:?}");
    }
    assert!(ServerTraceLayer::new().file_descriptor_set(b"").is_ok(), "no file is a set too");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let traced = Traced::start();
    // Bound and never listened on, so that nobody else takes the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut client = connect(&traced, socket.local_addr().unwrap());
    let status = client.get(Item::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let span = traced.spans(1).await.remove(0);
    assert_ended(&span, "UNAVAILABLE", Some("UNAVAILABLE"));
}

#[tokio::test]
async fn the_context_travels_in_the_metadata() {
    let mut world = World::start().await;
    let mut headers = http::HeaderMap::new();
    headers.insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap());
    headers.insert("tracestate", "vendor=a,other=b".parse().unwrap());
    headers.insert("baggage", "tenant.id=acme".parse().unwrap());
    let caller = Propagator::default().extract(&headers);
    let mut request = Request::new(Item::default());
    // Of another trace: it is replaced.
    let foreign = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    request.metadata_mut().insert("traceparent", foreign.parse().unwrap());
    {
        let _guard = caller.attach();
        world.client.get(request).await.unwrap();
    }
    let (client, server) = world.traced.call().await;
    assert_eq!(client.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!((&*client.trace_state, &*server.trace_state), ("vendor=a,other=b", "vendor=a,other=b"));
    let (metadata, context) = world.events.seen().remove(0);
    let traceparent = format!("00-{}-{}-01", client.trace_id, client.span_id);
    assert_eq!(metadata.get("traceparent").unwrap().to_str().unwrap(), traceparent);
    assert_eq!(metadata.get_all("traceparent").iter().count(), 1);
    assert_eq!(metadata.get("tracestate").unwrap(), "vendor=a,other=b");
    assert_eq!(metadata.get("baggage").unwrap(), "tenant.id=acme");
    assert_eq!(context.span_context().unwrap().span_id(), server.span_id);
    assert_eq!(context.baggage().get("tenant.id").as_deref(), Some("acme"));
}

#[tokio::test]
async fn many_calls_share_a_connection_and_nothing_else() {
    let world = World::start().await;
    let calls = (0..64).map(|i| {
        let mut client = world.client.clone();
        async move {
            match i % 4 {
                0 => drop(client.get(item("", Code::Ok, 0)).await.unwrap()),
                1 => drop(client.put(stream::iter([item("", Code::Ok, 0)])).await.unwrap()),
                2 => {
                    let stream = client.watch(item("", Code::Ok, 3)).await.unwrap().into_inner();
                    assert_eq!(stream.collect::<Vec<_>>().await.len(), 3);
                }
                _ => {
                    let items = stream::iter([item("", Code::Ok, 1), item("", Code::Ok, 2)]);
                    let stream = client.sync(items).await.unwrap().into_inner();
                    assert_eq!(stream.collect::<Vec<_>>().await.len(), 3);
                }
            }
        }
    });
    future::join_all(calls).await;
    let (clients, servers) = world.traced.calls(64).await;
    let mut traces: Vec<_> = clients.iter().map(|span| span.trace_id).collect();
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), 64, "each call is a trace");
    let peer = number(&servers[0], "network.peer.port");
    for (client, server) in clients.iter().zip(&servers) {
        assert_eq!(client.name, server.name);
        assert_eq!(number(server, "network.peer.port"), peer, "of one connection");
    }
}

#[tokio::test]
async fn a_layer_around_one_service_keeps_its_name() {
    fn name_of<S: NamedService>(_: &S) -> &'static str {
        S::NAME
    }

    let traced = Traced::start();
    let layer = ServerTraceLayer::new().tracer(traced.tracer());
    let service = layer.layer(InventoryServer::new(Shop(shop::Events::default())));
    assert_eq!(name_of(&service), "shop.v1.Inventory");
    let (address, _server) = serve(Server::builder().add_service(service)).await;
    connect(&traced, address).get(Item::default()).await.unwrap();
    let (_, server) = traced.call().await;
    assert_eq!(server.name, GET);
    assert_ended(&server, "OK", None);
}

#[tokio::test]
async fn calls_that_are_left_out_pass_their_context_on() {
    for leave_out in [
        |layer: ServerTraceLayer| layer.ignore_methods([GET]),
        |layer: ServerTraceLayer| layer.filter(|request| !request.uri.path().ends_with("Get")),
    ] {
        let mut world = World::with(Traced::start(), leave_out).await;
        world.client.get(item("", Code::Ok, 0)).await.unwrap();
        let span = world.traced.spans(1).await.remove(0);
        assert_eq!(span.kind, SpanKind::Client);
        let (_, context) = world.events.seen().remove(0);
        assert_eq!(context.span_context().unwrap().span_id(), span.span_id);
        assert!(!context.is_recording());
    }
}

#[tokio::test]
async fn calls_that_are_not_sampled_pass_their_ids_on() {
    let traced = Traced::with(|builder| builder.sampler(AnySampler::AlwaysOff));
    let mut world = World::with(traced, |layer| layer).await;
    let stream = world.client.watch(item("", Code::Ok, 2)).await.unwrap().into_inner();
    assert_eq!(stream.collect::<Vec<_>>().await.len(), 2);
    world.traced.spans(0).await;
    let (metadata, context) = world.events.seen().remove(0);
    let sent = metadata.get("traceparent").unwrap().to_str().unwrap();
    assert!(sent.ends_with("-02"), "{sent}");
    let served = context.span_context().unwrap();
    assert!(sent.contains(&served.trace_id().to_string()));
    assert!(!sent.contains(&served.span_id().to_string()));
}

#[tokio::test]
async fn the_server_of_a_layer_is_that_of_its_endpoint() {
    for (endpoint, address, port) in [
        ("http://inventory:50051", "inventory", Some(50051)),
        ("http://inventory", "inventory", Some(80)),
        ("https://inventory", "inventory", Some(443)),
        ("http://[::1]:50051/", "::1", Some(50051)),
    ] {
        let layer = ClientTraceLayer::for_endpoint(&Endpoint::from_static(endpoint));
        let same = ClientTraceLayer::for_server(address, port);
        assert_eq!(format!("{layer:?}"), format!("{same:?}"));
    }
}
