//! `mesh`: everything on loopback, one order through it, and its trace.

use std::env;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use trace_core::TraceId;
use trace_core::otlp::{TraceTree, TreeStyle};
use trace_core::{SpanKind, semconv};

use crate::collector::{Addresses, Collector, Limits};
use crate::service::{say, told_to_stop};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// End after the order.
    #[arg(long)]
    once: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    // Whoever has a collector wants the spans there.
    let collector = if is_set("OTEL_EXPORTER_OTLP_ENDPOINT") || is_set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
        None
    } else {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let addresses = Addresses { page: any, otlp_http: any, otlp_grpc: any };
        Some(Collector::start(addresses, Limits::default()).await?)
    };
    let mesh = Mesh::start(collector.as_ref()).await?;
    let shown = show_an_order(&mesh, collector.as_ref(), args.once).await;
    if shown.is_ok() && !args.once {
        told_to_stop(false).await;
    }
    let stopped = mesh.stop().await;
    shown.and(stopped)
}

fn is_set(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| !value.is_empty())
}

async fn show_an_order(mesh: &Mesh, collector: Option<&Collector>, once: bool) -> anyhow::Result<()> {
    // The first attempt at the payment fails, so that there is something to see.
    let order = json!({ "sku": "teapot", "quantity": 2, "payment_failures": 1 });
    let url = format!("{}/orders", mesh.gateway);
    let response = reqwest::Client::new().post(&url).json(&order).send().await?;
    let status = response.status();
    let trace_id = response.headers().get("x-trace-id").and_then(|id| TraceId::from_hex(id.as_bytes()));
    let is_sampled = is_sampled(response.headers());
    let answer: Value = response.json().await?;
    say(&format!("POST {url}\n{order}\n{status}\n{answer}\n"))?;

    let exporter = env::var("OTEL_TRACES_EXPORTER").unwrap_or_default();
    match (trace_id, collector) {
        (None, _) => say("no trace: the environment of the services switches tracing off")?,
        (Some(trace_id), _) if !is_sampled => {
            say(&format!("trace {trace_id}, which the services' sampler leaves out"))?;
        }
        (Some(trace_id), _) if !matches!(exporter.trim(), "" | "otlp") => {
            say(&format!("trace {trace_id}, which goes where OTEL_TRACES_EXPORTER={exporter} says"))?;
        }
        (Some(trace_id), None) => say(&format!("trace {trace_id}"))?,
        (Some(trace_id), Some(collector)) => {
            let style = if std::io::stdout().is_terminal() { TreeStyle::Ansi } else { TreeStyle::Plain };
            let tree = whole_trace(collector, trace_id).await?;
            say(&tree.styled(style).to_string())?;
            if !once {
                say(&format!("page  {}/trace/{trace_id}", collector.page()))?;
            }
        }
    }
    if !once {
        let more = json!({ "sku": "kettle", "quantity": 1 });
        say(&format!("more  curl -i {url} -H 'content-type: application/json' -d '{more}'"))?;
        say("end   ctrl-c")?;
    }
    Ok(())
}

/// Whether the trace that an answer names is recorded: the last digit of what `server-timing` says of it.
fn is_sampled(headers: &HeaderMap) -> bool {
    let timing = headers.get("server-timing").map_or(&[][..], |timing| timing.as_bytes());
    matches!(timing.last(), Some(b'1' | b'3'))
}

/// How long the services may take to send the spans of one order.
const TRACE_TIMEOUT: Duration = Duration::from_secs(10);

async fn whole_trace(collector: &Collector, trace_id: TraceId) -> anyhow::Result<TraceTree> {
    let deadline = Instant::now() + TRACE_TIMEOUT;
    loop {
        let tree = collector.trace(trace_id);
        if let Some(tree) = &tree
            && is_whole(tree)
        {
            return Ok(tree.clone());
        }
        if Instant::now() > deadline {
            let Some(tree) = tree else {
                bail!("the trace {trace_id} did not come within {TRACE_TIMEOUT:?}")
            };
            eprintln!("mesh: after {TRACE_TIMEOUT:?} the trace is still not whole");
            return Ok(tree);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// A missing leaf leaves no gap in a tree. Here every call's other end sends its span too, but for the database's.
fn is_whole(tree: &TraceTree) -> bool {
    tree.check().is_ok()
        && tree.spans().iter().all(|span| {
            span.kind != SpanKind::Client
                || span.attribute(semconv::DB_SYSTEM_NAME.as_str()).is_some()
                || tree.children(span.span_id).next().is_some()
        })
}

/// The four services, each a process of its own.
struct Mesh {
    gateway: String,
    services: Vec<Running>,
}

struct Running {
    name: &'static str,
    process: Child,
    /// Passes on what the process still writes.
    output: JoinHandle<()>,
}

impl Mesh {
    async fn start(collector: Option<&Collector>) -> anyhow::Result<Self> {
        let (inventory, inventory_url) = start("inventory", &[], collector).await?;
        let (payments, payments_url) = start("payments", &[], collector).await?;
        let behind = [("INVENTORY_URL", &inventory_url[..]), ("PAYMENTS_URL", &payments_url)];
        let (orders, orders_url) = start("orders", &behind, collector).await?;
        let (gateway, gateway_url) = start("gateway", &[("ORDERS_URL", &orders_url)], collector).await?;
        Ok(Self { gateway: gateway_url, services: vec![gateway, orders, payments, inventory] })
    }

    /// Ends the services by closing what they read, as the end of this process would, and waits for their last spans.
    async fn stop(self) -> anyhow::Result<()> {
        let mut stopping = JoinSet::new();
        for mut service in self.services {
            drop(service.process.stdin.take());
            stopping.spawn(service.stop());
        }
        stopping.join_all().await.into_iter().collect()
    }
}

impl Running {
    async fn stop(mut self) -> anyhow::Result<()> {
        let Ok(status) = timeout(STOP_TIMEOUT, self.process.wait()).await else {
            self.process.kill().await?;
            bail!("{} did not end within {STOP_TIMEOUT:?}", self.name);
        };
        // Its last line is the account of its spans.
        let _ = timeout(STOP_TIMEOUT, self.output).await;
        match status? {
            status if status.success() => Ok(()),
            status => bail!("{} ended with {status}", self.name),
        }
    }
}

/// Longer than a service takes for its last requests and its last spans together.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

const START_TIMEOUT: Duration = Duration::from_secs(30);

async fn start(
    name: &'static str,
    behind: &[(&str, &str)],
    collector: Option<&Collector>,
) -> anyhow::Result<(Running, String)> {
    let mut command = Command::new(env::current_exe()?);
    command
        .args([name, "--with-parent", "--listen", "127.0.0.1:0"])
        .envs(behind.iter().copied())
        .env("OTEL_SERVICE_NAME", name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    if let Some(collector) = collector {
        let grpc = env::var("OTEL_EXPORTER_OTLP_PROTOCOL").is_ok_and(|protocol| protocol == "grpc");
        let endpoint = if grpc { collector.grpc_endpoint() } else { collector.http_endpoint() };
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        if !is_set("OTEL_BSP_SCHEDULE_DELAY") {
            // Somebody is waiting for the trace.
            command.env("OTEL_BSP_SCHEDULE_DELAY", "100");
        }
    }
    let mut process = command.spawn().with_context(|| format!("{name} cannot be started"))?;
    let stdout = process.stdout.take().context("standard output is a pipe")?;
    let mut lines = BufReader::new(stdout).lines();
    let announced = match timeout(START_TIMEOUT, lines.next_line()).await {
        Ok(line) => match line? {
            Some(line) => serde_json::from_str::<Announcement>(&line)
                .with_context(|| format!("{name} begins with {line:?}"))?,
            None => bail!("{name} ended with {}", process.wait().await?),
        },
        Err(_) => bail!("{name} did not start within {START_TIMEOUT:?}"),
    };
    if let Some(collector) = collector {
        collector.watch(announced.status);
    }
    let output = tokio::spawn(pass_on(lines));
    Ok((Running { name, process, output }, format!("http://{}", announced.listening)))
}

#[derive(Deserialize)]
struct Announcement {
    listening: SocketAddr,
    /// Where it says how it is.
    status: String,
}

async fn pass_on(mut lines: Lines<BufReader<ChildStdout>>) {
    while let Ok(Some(line)) = lines.next_line().await {
        if say(&line).is_err() {
            return;
        }
    }
}
