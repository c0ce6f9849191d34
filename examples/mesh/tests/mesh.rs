//! The first thing a newcomer runs, and what it leaves behind: nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use trace_core::testing::Collector;

fn mesh() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("OTEL_") {
            command.env_remove(variable);
        }
    }
    command
}

#[test]
fn once_prints_the_trace_of_an_order_across_four_services() {
    let output = mesh().arg("--once").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{printed}{errors}");
    assert_eq!(errors, "");
    assert!(printed.contains(" · 4 services · "), "{printed}");
    for line in [
        "POST /orders",
        "INSERT orders",
        "mesh.Inventory/Reserve",
        "mesh.Inventory/Pick",
        "resend 1",
        "✗ 503",
    ] {
        assert!(printed.contains(line), "{line:?} is missing in\n{printed}");
    }
    let counters: Vec<Value> = printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let accounts = counters.iter().filter(|line| line["counters"]["started"].is_u64());
    assert_eq!(accounts.count(), 4, "{printed}");
}

#[test]
fn spans_go_to_a_collector_that_is_named_and_the_trace_id_is_printed() {
    let collector = Collector::start_blocking().unwrap();
    let output =
        mesh().arg("--once").env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.http_endpoint()).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    let trace = &collector.traces()[0];
    trace.check().unwrap();
    assert!(printed.contains(&format!("trace {}\n", trace.trace_id())), "{printed}");
    assert!(!printed.contains("└─"), "{printed}");
}

#[test]
fn the_page_and_its_api_show_the_order_until_the_mesh_is_killed_with_all_its_services() {
    let mut process = Running(mesh().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let address = lines
        .by_ref()
        .map(Result::unwrap)
        .find_map(|line| line.strip_prefix("page  ").map(str::to_owned))
        .expect("the page's address is printed");
    let (page, trace_id) = address.split_once("/trace/").unwrap();
    assert!(get(&address).starts_with("<!doctype html>"));
    let list: Value = serde_json::from_str(&get(&format!("{page}/api/traces"))).unwrap();
    assert_eq!(list["traces"][0]["id"], trace_id);
    assert_eq!(list["traces"][0]["name"], "POST /orders");
    let trace: Value = serde_json::from_str(&get(&format!("{page}/api/traces/{trace_id}"))).unwrap();
    assert_eq!(trace["services"].as_array().unwrap().len(), 4);
    assert_eq!(trace["flaw"], Value::Null);

    // Each service says how it is, and the page's API what each said.
    let services = wait_for_services(page, |services| {
        services.len() == 4
            && services.iter().all(|service| service["counters"]["exported"].as_u64() > Some(0))
    });
    let names: Vec<_> = services.iter().map(|service| service["service"].as_str().unwrap()).collect();
    assert_eq!(names, ["inventory", "payments", "orders", "gateway"]);
    for service in &services {
        assert_eq!(
            (&service["health"], &service["why"]),
            (&Value::from("healthy"), &Value::Null),
            "{service}"
        );
        assert_eq!(service["answers"], true, "{service}");
    }

    let mut stderr = process.0.stderr.take().unwrap();
    drop(process);
    // The services write to the same pipe: it ends when the last of them is gone.
    let (gone, is_gone) = mpsc::channel();
    thread::spawn(move || gone.send(stderr.read_to_end(&mut Vec::new())));
    is_gone.recv_timeout(Duration::from_secs(20)).expect("no service outlives the mesh").unwrap();
}

#[test]
fn the_page_tells_why_the_traces_of_a_service_do_not_arrive_and_when_it_is_gone() {
    let mut payments = mesh();
    payments
        .args(["payments", "--listen", "127.0.0.1:0"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "the collector");
    let mut payments = Running(payments.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(payments.0.stdout.take().unwrap()).lines();
    let announced: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let status = announced["status"].as_str().unwrap();

    let any = "127.0.0.1:0";
    let mut collector = mesh();
    collector.args([
        "collector",
        "--listen",
        any,
        "--otlp-http",
        any,
        "--otlp-grpc",
        any,
        "--status-of",
        status,
    ]);
    let mut collector = Running(collector.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(collector.0.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let page = line.strip_prefix("page").unwrap().trim();

    let services = wait_for_services(page, |services| services[0]["answers"] == true);
    let [service] = &services[..] else { panic!("{services:?}") };
    assert_eq!((&service["service"], &service["health"]), (&"payments".into(), &"misconfigured".into()));
    let why = service["why"].as_str().unwrap();
    assert!(why.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT=\"the collector\": "), "{why}");

    drop(payments);
    let services = wait_for_services(page, |services| services[0]["answers"] == false);
    assert_eq!(services[0]["service"], "payments", "what it said last stays");
    assert!(services[0]["seen_ms"].is_u64(), "{services:?}");
}

/// What the API of a page tells of the services, once it is as wanted.
#[track_caller]
fn wait_for_services(page: &str, is_wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let start = Instant::now();
    loop {
        let services: Vec<Value> = serde_json::from_str(&get(&format!("{page}/api/services"))).unwrap();
        if is_wanted(&services) {
            return services;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{services:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Killed when it is dropped, without a chance to tell its services.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(url: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { reqwest::get(url).await.unwrap().text().await.unwrap() })
}
