//! An order across four services, as one trace.
//!
//! ```text
//! POST /orders ─► gateway ─HTTP─► orders ─gRPC─► inventory
//!                                   │ └───HTTP─► payments   (with retries)
//!                                   └─SQL──► SQLite
//! ```
//!
//! `mesh` alone starts everything on loopback, each service as a process of its own, sends an order through and shows
//! its trace. `mesh gateway` and so on start a single one; what a service needs to know beside its address, it reads
//! from the environment, as in a cluster.

mod collector;
mod demo;
mod gateway;
mod inventory;
mod orders;
mod payments;
mod service;

use std::net::SocketAddr;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "mesh", version, about = "An order across four services, as one trace")]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: demo::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The ingress: takes orders from outside.
    Gateway(gateway::Args),
    /// Keeps the orders, and sees them through.
    Orders(orders::Args),
    /// Reserves and picks items.
    Inventory(inventory::Args),
    /// Charges cards.
    Payments(payments::Args),
    /// Receives traces over OTLP, keeps the recent ones, and shows them on a page.
    Collector(CollectorArgs),
}

#[derive(Debug, clap::Args)]
struct CollectorArgs {
    /// Where the page is.
    #[arg(long, default_value = "127.0.0.1:4320")]
    listen: SocketAddr,
    /// Where OTLP/HTTP is received.
    #[arg(long, default_value = "127.0.0.1:4318")]
    otlp_http: SocketAddr,
    /// Where OTLP/gRPC is received.
    #[arg(long, default_value = "127.0.0.1:4317")]
    otlp_grpc: SocketAddr,
    /// Where a service says how it is, to be shown on the page: the address that it names when it starts, with `/status`.
    /// May be given several times.
    #[arg(long = "status-of", value_name = "URL")]
    status_of: Vec<String>,
    /// How many traces are kept.
    #[arg(long, default_value_t = collector::Limits::default().traces_max)]
    traces: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.command {
        None => demo::run(args.demo).await,
        Some(Command::Gateway(args)) => gateway::run(args).await,
        Some(Command::Orders(args)) => orders::run(args).await,
        Some(Command::Inventory(args)) => inventory::run(args).await,
        Some(Command::Payments(args)) => payments::run(args).await,
        Some(Command::Collector(args)) => collect(args).await,
    }
}

async fn collect(args: CollectorArgs) -> anyhow::Result<()> {
    let addresses =
        collector::Addresses { page: args.listen, otlp_http: args.otlp_http, otlp_grpc: args.otlp_grpc };
    let limits = collector::Limits { traces_max: args.traces, ..collector::Limits::default() };
    let collector = collector::Collector::start(addresses, limits).await?;
    args.status_of.into_iter().for_each(|address| collector.watch(address));
    println!("page       {}", collector.page());
    println!("OTLP/HTTP  {}", collector.http_endpoint());
    println!("OTLP/gRPC  {}", collector.grpc_endpoint());
    service::told_to_stop(false).await;
    Ok(())
}
