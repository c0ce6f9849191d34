//! Every request traceable, from the ingress to the last query: ids, context, spans, and their way to a collector.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! # async fn load(order: u64) {}
//! # async fn serve() {}
//! #[tokio::main]
//! async fn main() {
//!     let traces = trace_core::init(); // as the OTEL_* variables say; never fails, never blocks
//!
//!     trace_core::span("warm up").run(load(7)).await;
//!     serve().await;
//!
//!     let _ = traces.shutdown(Duration::from_secs(5)).await; // sends what is left, within five seconds
//! }
//! ```
//!
//! A service rarely makes spans of its own: a layer makes one for each request, a client one for each call.
//! `trace-axum`, `trace-tonic`, `trace-reqwest` and `trace-tower` have them; this crate is what they share.
//!
//! # A span of your own
//!
//! ```
//! use trace_core::{Context, db};
//!
//! # async fn update(_: u64) -> Result<u64, std::io::Error> { Ok(2) }
//! # async fn print_label(_: u64) {}
//! async fn pick_items(order: u64) -> Result<(), std::io::Error> {
//!     let work = async {
//!         // A child; that of a database call has a name and attributes by the conventions.
//!         let items = db::query("sqlite").operation("UPDATE").collection("stock").try_run(update(order)).await?;
//!         // Whoever is called can write to the span it is called in.
//!         Context::current().span().set_attribute("shop.items", items);
//!         // Another task has to be given the context; `tokio::spawn` would leave it behind.
//!         trace_core::spawn(trace_core::span("print label").run(print_label(order)));
//!         Ok(())
//!     };
//!     // An `Err` makes the span an error, by the name of its type.
//!     trace_core::span("pick items").attribute("shop.order", order).try_run(work).await
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), std::io::Error> { pick_items(7).await }
//! ```
//!
//! # The story
//!
//! 1. **A request comes in.** A [`Propagator`] reads its headers into a [`Context`]: the caller's [`SpanContext`]
//!    (trace id, span id, flags), its [`TraceState`] and its [`Baggage`].
//! 2. **A span is started** in that context by [`span`] and its [`SpanBuilder`]. A [`sampler`] decides whether it is
//!    recorded; recorded or not, it has a [`SpanId`] of its own.
//! 3. **The work is done in it.** [`Span::run`] and [`Span::in_scope`] make its context current, so that spans started
//!    meanwhile are its children. A context follows a future wherever it is polled; into tasks and threads it is
//!    carried by [`spawn`], [`spawn_blocking`], [`spawn_thread`], [`carry`] and [`FutureExt::in_current_context`].
//! 4. **A call goes out.** The propagator writes the current context into the call's headers, and the next service is
//!    at step 1.
//! 5. **The span ends** when it is dropped. It is a run of OTLP bytes by then, encoded as its fields were set; they are
//!    appended to a chunk of fixed memory, and the request's thread is done with it.
//! 6. **It leaves.** A thread of its own, with a runtime of its own, takes full chunks (and after
//!    `OTEL_BSP_SCHEDULE_DELAY` the others), makes batches, compresses, sends and retries them.
//!
//! # When it cannot leave
//!
//! A request never waits for its trace, whatever the collector does. One batch at a time is tried, again and again with
//! growing pauses, until the collector has it, refuses it for good, or `OTEL_BSP_EXPORT_TIMEOUT` (30 s) is over; then it
//! is dropped, and the next one has its turn. The others wait meanwhile: an outage that is shorter costs nothing, a
//! longer one a batch (up to some 2 000 spans) each time.
//!
//! Memory is fixed ([`Config::memory_bytes_max`], 16 MiB). When it runs short, new traces are left out whole; when it is
//! used up, spans are dropped.
//!
//! What is wrong is told, each kind of trouble at most once a minute, and at most once a minute what was lost: to the
//! program's `tracing` subscriber, if it has one and the feature `tracing` is on (target `trace_core`, level `WARN` where
//! nothing is lost and `ERROR` where something is), else on standard error. [`Tracer::health`] tells the same to whoever
//! asks: healthy, degraded or misconfigured, and why.
//!
//! Every span is counted, and every lost one by its [`DropReason`]: [`Tracer::stats`] gives the counts, and at rest
//! `started = live + held + queued + spooled + exported + rejected + dropped`. With the feature `metrics`,
//! `Tracer::observe` exports them as OpenTelemetry's `otel.sdk.*` metrics.
//!
//! What the exporter does makes no spans itself, on any of its threads, whatever else in the process makes some.
//!
//! # What to look for where
//!
//! | to | see |
//! |---|---|
//! | set a service up, and choose where traces go | [`init`], [`config`] |
//! | set up several pipelines, or one in code | [`Tracer::builder`] |
//! | trace a unit of work | [`span`], [`Span`] |
//! | trace a database call | [`db`] |
//! | add to the span of the request in a handler | [`Context::span`] |
//! | pass the context through a queue or another protocol | [`propagation`] |
//! | pass data on to every service below | [`Baggage`] |
//! | use `tracing`'s `#[instrument]`, and have ids in log lines | `bridge::tracing`, with the feature `tracing` |
//! | know whether traces arrive, and what became of every span | [`Tracer::health`], [`Tracer::stats`] |
//! | see in a test what was sent | `testing`, with the feature of that name |
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `http` | yes | OTLP over HTTP, by `hyper` |
//! | `grpc` | | OTLP over gRPC, by `tonic` |
//! | `gzip` | yes | `OTEL_EXPORTER_OTLP_COMPRESSION=gzip` |
//! | `tls` | yes | `https` endpoints, by `rustls` |
//! | `tracing` | | spans and log lines of the `tracing` crate |
//! | `metrics` | | `Tracer::observe`: what became of the spans, as metrics of the `opentelemetry` crate |
//! | `testing` | | a collector in the test's own process |
//!
//! Features add, and never change what is there.
//!
//! [`Config::memory_bytes_max`]: config::Config::memory_bytes_max

pub mod bridge;
mod clock;
pub mod config;
mod context;
mod export;
#[cfg(any(test, fuzzing))]
#[cfg(all(feature = "grpc", feature = "http", feature = "testing"))]
#[doc(hidden)]
pub mod fuzz;
mod hint;
mod id;
pub mod otlp;
mod pipeline;
pub mod propagation;
mod resource;
pub mod sampler;
pub mod semconv;
mod span;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

pub use context::{
    Baggage, BaggageError, BaggageMember, Context, ContextGuard, FutureExt, InContext, SpanContext,
    TraceFlags, TraceState, TraceStateError, carry, spawn, spawn_blocking, spawn_thread,
};
pub use export::FlushError;
#[doc(hidden)]
pub use hint::cold_path;
pub use id::{Hex, ParseIdError, SpanId, TraceId};
pub use pipeline::{Tracer, TracerBuilder, Traces, init, tracer, try_init};
pub use propagation::{Extractor, Injector, Propagator};
pub use resource::Resource;
pub use span::{
    Attributes, EncodedAttributes, Key, Pieces, Run, Scope, Span, SpanBuilder, SpanKind, SpanName, SpanRef,
    StatusCode, Value, db, display, span,
};
pub use telemetry::{ByParent, DropReason, Dropped, Health, OPERATION_BOUNDS_SECONDS, Operation, Stats};
