//! A thousand orders through the mesh's services, each a process of its own: every one is a trace, whole and unchanged.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use trace_core::otlp::{SpanData, TraceTree};
use trace_core::testing::Collector;
use trace_core::{SpanId, TraceId};

const AT_ONCE: usize = 64;

/// The services of one order, as they call each other. The first attempt at the payment fails.
const SHAPE: &str = "\
gateway: POST /orders (server)
  gateway: POST /orders (client)
    orders: POST /orders (server)
      orders: INSERT orders (client)
      orders: SELECT products (client)
      orders: UPDATE orders (client)
      orders: hand to carrier (internal)
      orders: mesh.Inventory/Reserve (client)
        inventory: mesh.Inventory/Reserve (server)
      orders: pick items (internal)
        orders: mesh.Inventory/Pick (client)
          inventory: mesh.Inventory/Pick (server)
      orders: take payment (internal)
        orders: POST /charges (client)
          payments: POST /charges (server)
            payments: authorise card (internal)
        orders: POST /charges (client)
          payments: POST /charges (server)
            payments: authorise card (internal)
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_orders_are_a_thousand_whole_traces() {
    let collector = Collector::start().await.unwrap();
    let mesh = Mesh::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.http_endpoint())]);
    let orders = place_orders(&mesh.gateway, 1_000).await;
    let counters = mesh.stop();
    check(&collector, &orders, &counters);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_and_gzip_lose_and_change_nothing_either() {
    let collector = Collector::start().await.unwrap();
    let mesh = Mesh::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.grpc_endpoint()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
    ]);
    let orders = place_orders(&mesh.gateway, 100).await;
    let counters = mesh.stop();
    assert!(collector.requests().iter().all(|request| request.headers["grpc-encoding"] == "gzip"));
    check(&collector, &orders, &counters);
}

fn check(collector: &Collector, orders: &[Placed], counters: &BTreeMap<&str, Value>) {
    let spans = collector.spans();
    for request in collector.requests() {
        assert_eq!(request.malformed, None);
    }

    // Everything that was started came, by the senders' counters and by the receiver's list.
    let of_service = |name: &str| spans.iter().filter(|span| span.service_name() == name).count() as u64;
    for (service, counters) in counters {
        assert_eq!(counters["started"], counters["exported"], "{service}: {counters}");
        assert_eq!(counters["exported"], of_service(service), "{service}: {counters}");
    }
    assert_eq!(
        counters.values().filter_map(|counters| counters["exported"].as_u64()).sum::<u64>(),
        spans.len() as u64
    );
    let ids: BTreeSet<SpanId> = collector.span_ids().into_iter().collect();
    assert_eq!(ids.len(), spans.len(), "a span came twice");

    // Each order is one trace, and keeps the id that its caller gave it or was told.
    let traces: BTreeMap<TraceId, TraceTree> =
        TraceTree::group(spans).into_iter().map(|tree| (tree.trace_id(), tree)).collect();
    assert_eq!(traces.len(), orders.len());
    for order in orders {
        let tree = traces.get(&order.trace_id).expect("an order's trace is there");
        match order.caller {
            Some(caller) => tree.check_under(caller),
            None => tree.check(),
        }
        .unwrap_or_else(|flaw| panic!("{flaw}\n{tree}"));
        assert_eq!(tree.shape(), SHAPE, "\n{tree}");
        check_order(order, tree);
    }
}

/// No span of one order's trace is about another order.
fn check_order(order: &Placed, tree: &TraceTree) {
    let about: Vec<&SpanData> =
        tree.spans().iter().filter(|span| span.attribute("order.id").is_some()).collect();
    assert!(!about.is_empty());
    for span in about {
        assert_eq!(span.attribute("order.id").and_then(|id| id.as_i64()), Some(order.id));
    }
}

struct Placed {
    id: i64,
    trace_id: TraceId,
    /// The span of the caller, if it sent one.
    caller: Option<SpanId>,
}

async fn place_orders(gateway: &str, count: usize) -> Vec<Placed> {
    let client = reqwest::Client::new();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut placing = JoinSet::new();
    for number in 0..count {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let client = client.clone();
        let url = format!("{gateway}/orders");
        placing.spawn(async move {
            let placed = place_order(&client, &url, number % 2 == 0).await;
            drop(place);
            placed
        });
    }
    placing.join_all().await
}

async fn place_order(client: &reqwest::Client, url: &str, has_caller: bool) -> Placed {
    let order = json!({ "sku": "teapot", "quantity": 1, "payment_failures": 1 });
    let caller = has_caller.then(|| (TraceId::random(), SpanId::random()));
    let mut request = client.post(url).json(&order);
    if let Some((trace_id, span_id)) = caller {
        request = request.header("traceparent", format!("00-{trace_id}-{span_id}-01"));
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 201);
    let told = response.headers()["x-trace-id"].to_str().unwrap().parse().unwrap();
    if let Some((trace_id, _)) = caller {
        assert_eq!(told, trace_id, "the trace id was changed");
    }
    let answer: Value = response.json().await.unwrap();
    Placed { id: answer["id"].as_i64().unwrap(), trace_id: told, caller: caller.map(|(_, span_id)| span_id) }
}

struct Mesh {
    gateway: String,
    services: Vec<Service>,
}

struct Service {
    name: &'static str,
    process: Child,
    /// The service ends when this is dropped.
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Mesh {
    fn start(telemetry: &[(&str, &str)]) -> Self {
        let (inventory, inventory_url) = Service::start("inventory", telemetry, &[]);
        let (payments, payments_url) = Service::start("payments", telemetry, &[]);
        let behind = [("INVENTORY_URL", &inventory_url[..]), ("PAYMENTS_URL", &payments_url)];
        let (orders, orders_url) = Service::start("orders", telemetry, &behind);
        let (gateway, gateway_url) = Service::start("gateway", telemetry, &[("ORDERS_URL", &orders_url)]);
        Self { gateway: gateway_url, services: vec![gateway, orders, payments, inventory] }
    }

    /// What each service says of its spans when it ends.
    fn stop(self) -> BTreeMap<&'static str, Value> {
        self.services.into_iter().map(Service::stop).collect()
    }
}

impl Service {
    fn start(name: &'static str, telemetry: &[(&str, &str)], behind: &[(&str, &str)]) -> (Self, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("OTEL_") {
                command.env_remove(variable);
            }
        }
        let mut process = command
            .args([name, "--with-parent"])
            .envs(telemetry.iter().copied())
            .envs(behind.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let url = format!("http://{}", first["listening"].as_str().unwrap());
        (Self { name, process, stdin, lines }, url)
    }

    fn stop(mut self) -> (&'static str, Value) {
        drop(self.stdin.take());
        let last: Value = serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(last["service"], self.name);
        assert!(self.process.wait().unwrap().success());
        (self.name, last["counters"].clone())
    }
}

/// A test that fails leaves no process behind.
impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
