//! What the four services have in common: how one starts, says where it is, ends, and accounts for its spans.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;
use trace_core::{Stats, Tracer};

/// Where a service listens, and with whom it ends.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Service {
    /// Where to listen. Port 0 is any free one; the service says which on its first line.
    #[arg(long, env = "MESH_LISTEN", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// Where to answer, under `/status`, how the service is and what became of its spans.
    #[arg(long, env = "MESH_STATUS_LISTEN", default_value = "127.0.0.1:0")]
    pub(crate) status_listen: SocketAddr,
    /// End when standard input ends, as it does when the parent process is gone, however it went.
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

/// How long requests may go on after the service was told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How long the last spans may take to leave.
const LAST_EXPORT: Duration = Duration::from_secs(5);

impl Service {
    /// Runs a service until it is told to stop.
    ///
    /// It writes two lines of JSON on standard output: `{"service":…,"listening":…,"status":…}` when it can be reached, and
    /// at the end `{"service":…,"counters":…}`: what became of every span that it started.
    pub(crate) async fn run<F, S>(self, name: &'static str, serve: F) -> anyhow::Result<()>
    where
        F: FnOnce(TcpListener, oneshot::Receiver<()>) -> S,
        S: Future<Output = anyhow::Result<()>>,
    {
        let named = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty());
        let tracer = Tracer::builder().from_env();
        let traces = if named.is_some() { tracer } else { tracer.service_name(name) }.init();
        let listener = TcpListener::bind(self.listen)
            .await
            .with_context(|| format!("{name} cannot listen on {}", self.listen))?;
        let status = TcpListener::bind(self.status_listen)
            .await
            .with_context(|| format!("{name} cannot listen on {}", self.status_listen))?;
        announce(name, listener.local_addr()?, status.local_addr()?)?;
        // On a port of its own, as in a cluster, where it is nothing for the outside; and no request for it makes a trace.
        let tracer = traces.tracer();
        let known_as = serde_json::Value::from(named.unwrap_or_else(|| name.to_owned()));
        let answer =
            move || async move { ([(CONTENT_TYPE, "application/json")], status_of(&known_as, tracer)) };
        tokio::spawn(axum::serve(status, Router::new().route("/status", get(answer))).into_future());

        let (stop, stopped) = oneshot::channel();
        let serving = serve(listener, stopped);
        tokio::pin!(serving);
        let served = tokio::select! {
            served = &mut serving => served,
            () = told_to_stop(self.with_parent) => {
                let _ = stop.send(());
                // Whoever still holds a connection after this has had its chance.
                timeout(GRACE, &mut serving).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = traces.shutdown(LAST_EXPORT).await {
            eprintln!("{name}: {error}");
        }
        account(name, &traces.stats())?;
        served
    }
}

fn announce(name: &str, address: SocketAddr, status: SocketAddr) -> anyhow::Result<()> {
    say(&format!(r#"{{"service":"{name}","listening":"{address}","status":"http://{status}/status"}}"#))
}

/// How a service is, as JSON; it is called as in its traces.
fn status_of(name: &serde_json::Value, tracer: Tracer) -> String {
    let health = tracer.health();
    let why = serde_json::Value::from(health.why());
    let (health, counters) = (health.as_str(), tracer.stats());
    format!(r#"{{"service":{name},"health":"{health}","why":{why},"counters":{counters}}}"#)
}

fn account(name: &str, stats: &Stats) -> anyhow::Result<()> {
    say(&format!(r#"{{"service":"{name}","counters":{stats}}}"#))
}

/// Writes a line at once, so that lines of processes that share a terminal stay whole. That nobody reads it is an error,
/// not a panic.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{text}\n").as_bytes())?;
    Ok(out.flush()?)
}

/// Returns on ctrl-c, on the signal by which Kubernetes ends a pod and, if asked to, when the parent is gone.
pub(crate) async fn told_to_stop(with_parent: bool) {
    let parent_gone = async {
        if with_parent {
            // Nothing is ever written to it; it ends with the parent's last handle.
            let _ = tokio::io::stdin().read(&mut [0]).await;
        } else {
            std::future::pending().await
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated() => {}
        () = parent_gone => {}
    }
}

#[cfg(unix)]
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};

    match signal(SignalKind::terminate()) {
        Ok(mut signals) => {
            signals.recv().await;
        }
        Err(error) => {
            eprintln!("mesh: SIGTERM cannot be waited for: {error}");
            std::future::pending().await
        }
    }
}

#[cfg(not(unix))]
async fn terminated() {
    std::future::pending().await
}
