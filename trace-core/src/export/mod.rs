//! What leaves: chunks of finished spans, and the worker that sends them.
//!
//! In the order in which a span passes: [`chunk`] and [`queue`], written by the request's threads; [`worker`], the
//! thread that takes over; [`schedule`], which decides what it does when; [`batch`] and [`message`], what is sent
//! together and as which bytes; [`retry`], how often; [`transport`](mod@transport), and the ways there are; [`spool`], where
//! spans wait that could not be sent.

// Without OTLP, what prints to the console needs less of these.
#[cfg_attr(not(any(feature = "http", feature = "grpc")), allow(dead_code))]
mod batch;
pub(crate) mod chunk;
#[cfg(any(feature = "http", feature = "grpc"))]
mod connect;
mod console;
#[cfg(test)]
mod fixture;
#[cfg(feature = "grpc")]
pub(crate) mod grpc;
#[cfg(feature = "http")]
pub(crate) mod http;
#[cfg_attr(not(any(feature = "http", feature = "grpc")), allow(dead_code))]
mod message;
pub(crate) mod queue;
#[cfg(test)]
mod queue_model;
#[cfg(test)]
mod queue_tests;
pub(crate) mod report;
#[cfg_attr(not(all(feature = "http", feature = "grpc")), allow(dead_code))]
pub(crate) mod retry;
mod schedule;
pub(crate) mod spool;
mod sync;
#[cfg(any(feature = "http", feature = "grpc"))]
mod tls;
#[cfg_attr(not(any(feature = "http", feature = "grpc")), allow(dead_code))]
mod transport;
mod try_lock;
mod worker;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::batch::BatchLimits;
use self::chunk::SPAN_BYTES_MAX;
use self::console::Console;
use self::queue::Queue;
use self::retry::RetryLimits;
use self::schedule::{STALLED, SpoolLimits};
use self::transport::Transport;
use self::worker::{SpoolSetup, WorkerConfig};
use crate::config::{Config, ConfigError, ExporterConfig, OtlpConfig, Report};
use crate::otlp::request::resource_field;

pub(crate) use self::worker::WorkerHandle;

/// Why a flush or a shutdown did not deliver everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlushError {
    /// The time was over first.
    Timeout,
    /// Something could not be sent: [`Stats`](crate::Stats) tells how much, and what became of it.
    Failed,
}

impl fmt::Display for FlushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "the time was over before all spans were sent",
            Self::Failed => "some spans could not be sent",
        })
    }
}

impl Error for FlushError {}

/// The bytes of spans in a batch: some 2 048 spans, at 120 ns each to send; with 512 it was 205 ns.
const BATCH_BYTES: usize = 800 << 10;

/// The longest that a span waits to be printed: somebody looks at the terminal.
const CONSOLE_DELAY: Duration = Duration::from_millis(500);

/// Starts the worker that sends what comes into the queue, as the configuration says. `tick` is called at once, soon
/// after, and then every second.
///
/// # Errors
/// This build has no such exporter, or the system gives us no thread.
pub(crate) fn start(
    queue: &'static Queue,
    tick: impl Fn() + Send + 'static,
    config: &Config,
) -> Result<WorkerHandle, ConfigError> {
    let transport = transport(config)?;
    let (attempt_timeout, schedule_delay) = match &config.exporter {
        ExporterConfig::Otlp(otlp) => (otlp.timeout, config.batch.schedule_delay),
        ExporterConfig::Console | ExporterConfig::None => {
            (config.batch.export_timeout, config.batch.schedule_delay.min(CONSOLE_DELAY))
        }
    };
    let worker = WorkerConfig {
        batch: BatchLimits {
            // A sixteenth of all memory: a compressed batch may take as much again, besides its chunks.
            bytes_max: BATCH_BYTES.min(config.memory_bytes_max / 16),
            spans_max: config.batch.max_batch_spans.unwrap_or(usize::MAX),
        },
        schedule_delay,
        retry: RetryLimits { attempt_timeout, batch_timeout: config.batch.export_timeout },
        // A quarter of the chunks' memory, if each is as large as a chunk can be.
        wake_chunks_max: queue.chunk_bytes_max() / 4 / SPAN_BYTES_MAX,
    };
    worker::start(queue, worker, transport, spool(queue, config), tick)
        .map_err(|error| fault("thread", format!("the export thread could not be started: {error}")))
}

/// The spool that the configuration asks for. The console needs none.
fn spool(queue: &Queue, config: &Config) -> Option<SpoolSetup> {
    let ExporterConfig::Otlp(_) = config.exporter else { return None };
    Some(SpoolSetup {
        config: config.spool.clone()?,
        // So that what is left lasts while a disk is slow.
        limits: SpoolLimits { waiting_bytes_max: queue.chunk_bytes_max() / 4, stalled_after: STALLED },
        resource: resource_field(config.resource.iter()),
    })
}

fn transport(config: &Config) -> Result<Arc<dyn Transport>, ConfigError> {
    match &config.exporter {
        ExporterConfig::Otlp(otlp) => self::otlp(otlp, resource_field(config.resource.iter())),
        ExporterConfig::None => Err(fault("exporter", "there is nothing to export to".to_owned())),
        ExporterConfig::Console => {
            let resource = config.resource.iter().map(|(key, value)| (key.to_owned(), value.clone()));
            Ok(Arc::new(Console::stdout(resource.collect())))
        }
    }
}

fn otlp(config: &OtlpConfig, resource: Vec<u8>) -> Result<Arc<dyn Transport>, ConfigError> {
    match config.protocol {
        #[cfg(feature = "http")]
        crate::config::Protocol::HttpProtobuf => Ok(Arc::new(http::Http::new(config.clone(), resource))),
        #[cfg(feature = "grpc")]
        crate::config::Protocol::Grpc => Ok(Arc::new(grpc::Grpc::new(config.clone(), resource))),
        #[allow(unreachable_patterns, reason = "what is left depends on the features")]
        protocol => {
            drop(resource);
            Err(fault("exporter", format!("this build of trace-core cannot export by {protocol}")))
        }
    }
}

fn fault(source: &str, problem: String) -> ConfigError {
    ConfigError::from(Report::new(source, problem, "no spans are exported"))
}
