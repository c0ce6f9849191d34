//! One pipeline: what every part of it shares, and the handle by which it is reached.
//!
//! A pipeline's head lives as long as the process, so that spans and contexts refer to it without counting. Its memory
//! for spans goes back to the allocator at its shutdown; what stays is a few kilobytes.

use std::fmt;
use std::io::{self, Write};
use std::panic::RefUnwindSafe;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::Context;
use crate::clock::Clock;
use crate::config::{Compression, Config, ConfigError, ExporterConfig, Report, SpanLimits};
use crate::export::queue::{Queue, QueueLimits};
use crate::export::{self, FlushError, WorkerHandle};
use crate::propagation::Propagator;
use crate::sampler::{AnySampler, ParentKind, SamplingDecision, Settled};
use crate::span::{SpanBuilder, SpanName};
use crate::telemetry::{Components, Health, Stats};

pub(crate) struct Pipeline {
    pub(crate) queue: Queue,
    pub(crate) clock: Clock,
    pub(crate) sampler: AnySampler,
    /// What the sampler need not be asked.
    pub(crate) settled: Settled,
    pub(crate) limits: SpanLimits,
    /// Whether there is anybody to send spans to; if not, spans have ids and decisions, and nothing is recorded.
    pub(crate) records: bool,
    /// Whether spans are made at all (`OTEL_SDK_DISABLED`); if not, what came in goes out as it is.
    enabled: bool,
    propagator: Propagator,
    reports: Vec<Report>,
    /// How its parts are called in metrics.
    #[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "metrics alone have names"))]
    pub(crate) components: Components,
    /// What of the configuration keeps spans from where they should go.
    misconfigured: Option<Arc<str>>,
    /// Set once, right after the pipeline is made; never, where nothing is sent.
    worker: OnceLock<WorkerHandle>,
}

/// How a pipeline's memory is divided, in sixteenths: finished spans (some 40 000 of the default's 16 MiB), live spans
/// (some 2 500), and the rest for requests under way.
const FINISHED: usize = 10;
const LIVE: usize = 4;

/// What a compressor takes, whatever it compresses: counted at an allocator, 310 KiB.
const COMPRESSOR_BYTES: usize = 310 << 10;

/// The part of the bound that compression takes before anything is divided; never more than half, because a bound that is
/// lower than what it is for is a wish.
fn compressor_bytes(config: &Config) -> usize {
    match &config.exporter {
        ExporterConfig::Otlp(otlp) if otlp.compression == Compression::Gzip => {
            COMPRESSOR_BYTES.min(config.memory_bytes_max / 2)
        }
        _ => 0,
    }
}

impl Pipeline {
    fn new(config: &Config, reports: Vec<Report>, misconfigured: Option<Arc<str>>) -> &'static Self {
        let records = !config.disabled && !matches!(config.exporter, ExporterConfig::None);
        let sixteenth = (config.memory_bytes_max - compressor_bytes(config)) / 16;
        let limits = QueueLimits {
            chunk_bytes_max: FINISHED * sixteenth,
            live_bytes_max: LIVE * sixteenth,
            spans_max: config.batch.max_queue_spans,
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Box::leak(Box::new(Self {
            queue: Queue::new(limits, 2 * cores),
            clock: Clock::new(),
            sampler: config.sampler.clone(),
            settled: Settled::of(&config.sampler),
            limits: config.limits,
            records,
            enabled: !config.disabled,
            propagator: Propagator::from_names(&config.propagators),
            reports,
            components: Components::of(config),
            misconfigured,
            worker: OnceLock::new(),
        }))
    }

    fn start(
        config: &Config,
        reports: Vec<Report>,
        misconfigured: Option<Arc<str>>,
    ) -> Result<&'static Self, ConfigError> {
        let pipeline = Self::new(config, reports, misconfigured);
        if pipeline.records {
            let worker = export::start(&pipeline.queue, || pipeline.clock.publish(), config)?;
            // Nobody else has the pipeline yet.
            let _ = pipeline.worker.set(worker);
        }
        Ok(pipeline)
    }

    fn health(&self) -> Health {
        if let Some(why) = &self.misconfigured {
            return Health::Misconfigured(Arc::clone(why));
        }
        if self.worker.get().is_some_and(WorkerHandle::is_of_another_process) {
            return Health::Degraded("the process was forked, and what sends spans is its parent's".into());
        }
        self.queue.export.health.get()
    }
}

/// Whether a report is about where spans go: such a fault does not pass, however well they arrive elsewhere.
fn is_about_the_way(report: &Report) -> bool {
    match report.source().strip_prefix("OTEL_") {
        Some("TRACES_EXPORTER") => true,
        Some(variable) => variable.strip_prefix("EXPORTER_OTLP_").is_some_and(|what| {
            let what = what.strip_prefix("TRACES_").unwrap_or(what);
            const WAY: [&str; 7] = [
                "PROTOCOL",
                "ENDPOINT",
                "HEADERS",
                "INSECURE",
                "CERTIFICATE",
                "CLIENT_KEY",
                "CLIENT_CERTIFICATE",
            ];
            WAY.contains(&what)
        }),
        None => false,
    }
}

/// A panic leaves no part of a pipeline half changed that anybody looks at later: locks are recovered, and a span's bytes
/// are whole or cut back. So contexts and spans may cross a `catch_unwind`, as middlewares that catch panics need.
impl RefUnwindSafe for Pipeline {}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("sampler", &self.sampler).field("records", &self.records).finish()
    }
}

/// A handle to one pipeline: it makes spans, and tells what became of them.
///
/// Any number of pipelines may live in a process without mixing; every layer takes one, and uses the global one
/// ([`init`]) where it is given none.
///
/// ```
/// use std::time::Duration;
/// use trace_core::Tracer;
///
/// let traces = Tracer::builder().service_name("orders").build();
/// traces.span("start up").in_scope(|| { /* ... */ });
/// assert_eq!(traces.stats().started, 1);
/// # let _ = traces.blocking_shutdown(Duration::ZERO);
/// ```
#[derive(Clone, Copy)]
pub struct Tracer {
    /// The pipeline, or [`DISABLED`]. Not an `Option` of a reference, so that one of a tracer, which every context has, is as
    /// large as a pointer: contexts are copied for every span, and exchanged six times a request.
    pipeline: NonNull<Pipeline>,
}

/// Where no pipeline is: below the first page, and as a pipeline would be aligned.
const DISABLED: NonNull<Pipeline> = NonNull::dangling();

// SAFETY: a tracer is a shared reference to its pipeline, which any thread may use.
unsafe impl Send for Tracer where &'static Pipeline: Send {}
// SAFETY: as above.
unsafe impl Sync for Tracer where &'static Pipeline: Send {}

impl Tracer {
    fn of(pipeline: Option<&'static Pipeline>) -> Self {
        pipeline.map_or(Self::disabled(), |pipeline| Self { pipeline: NonNull::from(pipeline) })
    }

    #[inline]
    fn get(self) -> Option<&'static Pipeline> {
        if self.pipeline == DISABLED {
            return None;
        }
        // SAFETY: whatever else is there came from a reference that lives as long as the process (`of`).
        Some(unsafe { self.pipeline.as_ref() })
    }

    /// A pipeline to be set up in code.
    pub fn builder() -> TracerBuilder {
        TracerBuilder::default()
    }

    /// A tracer that records nothing. Contexts still travel through it, as they came.
    pub const fn disabled() -> Self {
        Self { pipeline: DISABLED }
    }

    /// A pipeline without a worker: a test takes the chunks itself.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn detached(config: &Config) -> Self {
        Self::of(Some(Pipeline::new(config, Vec::new(), None)))
    }

    /// Begins a span of this pipeline, below the current context.
    pub fn span<'a>(&self, name: impl Into<SpanName<'a>>) -> SpanBuilder<'a> {
        SpanBuilder::new(name.into(), Some(*self))
    }

    /// Whether a span of this tracer in such a context may be recorded. `false` says that none is, whatever it is called, so that there is
    /// no need to find out its name; `true`, that it depends.
    ///
    /// It is the specification's `Enabled`
    /// ([Tracing API, Enabled](https://opentelemetry.io/docs/specs/otel/trace/api/#enabled)).
    ///
    /// ```
    /// use trace_core::{Baggage, Context, SpanContext, SpanId, TraceFlags, TraceId, TraceState, Tracer};
    ///
    /// let span = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::NONE, true);
    /// let not_sampled = Context::from_remote(span, TraceState::empty(), Baggage::new());
    /// assert!(!trace_core::tracer().may_record(&not_sampled));
    /// ```
    #[inline]
    pub fn may_record(&self, parent: &Context) -> bool {
        self.get().is_some_and(|pipeline| {
            let decision = pipeline.settled.decision(ParentKind::of(parent.span_context.as_ref()));
            pipeline.records && decision.is_none_or(SamplingDecision::is_sampled)
        })
    }

    /// How contexts travel.
    #[inline]
    pub fn propagator(&self) -> &'static Propagator {
        #[cold]
        fn default() -> &'static Propagator {
            static DEFAULT: OnceLock<Propagator> = OnceLock::new();
            DEFAULT.get_or_init(Propagator::default)
        }
        self.get().map_or_else(default, |pipeline| &pipeline.propagator)
    }

    /// What became of every span so far.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        if let Some(pipeline) = self.get() {
            pipeline.queue.read(&mut stats);
        }
        stats
    }

    /// Whether spans arrive where they should, and if not, why: for a readiness page, a dashboard, or whoever asks.
    ///
    /// It takes some nanoseconds and never waits. What it says is at most a second old.
    ///
    /// ```
    /// use trace_core::{Health, Tracer};
    ///
    /// match Tracer::disabled().health() {
    ///     Health::Healthy => {}
    ///     health => println!("tracing is {health}"),
    /// }
    /// ```
    ///
    /// A service whose tracing is not healthy serves as well as any; this is nothing to restart it for.
    pub fn health(&self) -> Health {
        self.get().map_or(Health::Healthy, Pipeline::health)
    }

    /// What was wrong with the configuration that the pipeline was started with, and what was used instead.
    pub fn reports(&self) -> &'static [Report] {
        self.get().map_or(&[], |pipeline| &pipeline.reports)
    }

    /// Sends what has ended so far, and returns when the collector has it, or at the latest after `timeout`.
    ///
    /// The future needs no particular executor. Dropping it changes nothing but that nobody waits.
    ///
    /// With a [spool](crate::config::SpoolConfig), this also waits for what is on disk, which is sent first.
    ///
    /// # Errors
    /// When the time is over, or something could not be sent; what is still queued stays queued.
    pub fn flush(&self, timeout: Duration) -> impl Future<Output = Result<(), FlushError>> + Send + use<> {
        let flush = self.worker().map(|worker| worker.flush(timeout));
        async {
            match flush {
                Some(flush) => flush.await,
                None => Ok(()),
            }
        }
    }

    /// As [`flush`](Self::flush), for code that is not async.
    ///
    /// # Blocking
    /// Up to `timeout`. It is safe on any thread, that of a runtime included.
    ///
    /// # Errors
    /// As for [`flush`](Self::flush).
    pub fn blocking_flush(&self, timeout: Duration) -> Result<(), FlushError> {
        self.worker().map_or(Ok(()), |worker| worker.blocking_flush(timeout))
    }

    /// Sends what has ended so far, and stops: spans that end later are dropped and counted. It returns when all is
    /// sent, or at the latest after `timeout`; what could not be sent by then is dropped and counted.
    ///
    /// With a [spool](crate::config::SpoolConfig), the last quarter of the time (two seconds at most) is kept for writing to
    /// disk what could not be sent.
    ///
    /// # Errors
    /// When something could not be sent, also if it is on disk now.
    pub fn shutdown(&self, timeout: Duration) -> impl Future<Output = Result<(), FlushError>> + Send + use<> {
        let shutdown = self.worker().map(|worker| worker.shutdown(timeout));
        async {
            match shutdown {
                Some(shutdown) => shutdown.await,
                None => Ok(()),
            }
        }
    }

    /// As [`shutdown`](Self::shutdown), for code that is not async.
    ///
    /// # Blocking
    /// Up to `timeout`. It is safe on any thread, that of a runtime included.
    ///
    /// # Errors
    /// As for [`shutdown`](Self::shutdown).
    pub fn blocking_shutdown(&self, timeout: Duration) -> Result<(), FlushError> {
        self.worker().map_or(Ok(()), |worker| worker.blocking_shutdown(timeout))
    }

    /// The pipeline, if it makes spans.
    #[inline]
    pub(crate) fn pipeline(&self) -> Option<&'static Pipeline> {
        self.get().filter(|pipeline| pipeline.enabled)
    }

    /// Whether both are handles to the same pipeline.
    #[inline]
    pub(crate) fn is(self, other: Self) -> bool {
        self.pipeline == other.pipeline
    }

    fn worker(&self) -> Option<&'static WorkerHandle> {
        self.get().and_then(|pipeline| pipeline.worker.get())
    }
}

impl Default for Tracer {
    /// One that is [disabled](Tracer::disabled).
    fn default() -> Self {
        Self::disabled()
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").field("pipeline", &self.get()).finish()
    }
}

/// A pipeline to be set up in code: a [`Config`] and the ways to change it.
#[derive(Debug, Default)]
pub struct TracerBuilder {
    config: Config,
    reports: Vec<Report>,
    /// Whether the way that spans go is set in code, whatever the environment says of it.
    way_is_given: bool,
}

impl TracerBuilder {
    /// Takes over everything from the environment: see [`config`](crate::config) for the variables.
    #[must_use]
    pub fn from_env(mut self) -> Self {
        (self.config, self.reports) = Config::from_env();
        self.way_is_given = false;
        self
    }

    /// Takes over a whole configuration.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self.way_is_given = true;
        self
    }

    /// Sets `service.name`: the name of the service in the backend.
    #[must_use]
    pub fn service_name(mut self, name: impl Into<String>) -> Self {
        self.config.resource.set("service.name", name.into());
        self
    }

    /// Changes any part of the configuration.
    ///
    /// ```
    /// use std::time::Duration;
    /// use trace_core::Tracer;
    ///
    /// let builder = Tracer::builder().configure(|config| {
    ///     config.batch.schedule_delay = Duration::from_millis(200);
    ///     config.memory_bytes_max = 64 << 20;
    /// });
    /// ```
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Decides which spans are recorded.
    #[must_use]
    pub fn sampler(mut self, sampler: impl Into<AnySampler>) -> Self {
        self.config.sampler = sampler.into();
        self
    }

    /// Where finished spans go.
    #[must_use]
    pub fn exporter(mut self, exporter: ExporterConfig) -> Self {
        self.config.exporter = exporter;
        self.way_is_given = true;
        self
    }

    /// Starts the pipeline. What is wrong with the configuration is written to standard error, a line each, and
    /// replaced by what the line says; where nothing can replace it, contexts travel and nothing is recorded.
    pub fn build(self) -> Traces {
        for report in &self.reports {
            say(report);
        }
        let misconfigured = self.misconfigured();
        let Self { config, reports, .. } = self;
        let propagators = config.propagators.clone();
        let pipeline = Pipeline::start(&config, reports.clone(), misconfigured).or_else(|error| {
            let why = format!("{error}; nothing is recorded");
            say(&why);
            let config = Config { exporter: ExporterConfig::None, propagators, ..Config::default() };
            let reports = reports.into_iter().chain(error.reports().iter().cloned()).collect();
            Pipeline::start(&config, reports, Some(why.into()))
        });
        Traces { tracer: Tracer::of(pipeline.ok()) }
    }

    /// What keeps spans from where the environment wants them.
    fn misconfigured(&self) -> Option<Arc<str>> {
        let records = !self.config.disabled && !matches!(self.config.exporter, ExporterConfig::None);
        let report = self.reports.iter().find(|report| is_about_the_way(report))?;
        (records && !self.way_is_given).then(|| report.to_string().into())
    }

    /// Starts the pipeline as [`build`](Self::build) does, and makes it the one that serves the whole process: [`tracer`]
    /// and [`span`](crate::span) know it from now on. If there is one already, this is another handle to that one.
    ///
    /// ```no_run
    /// use trace_core::Tracer;
    ///
    /// let traces = Tracer::builder().from_env().service_name("orders").init();
    /// ```
    pub fn init(self) -> Traces {
        Traces { tracer: *GLOBAL.get_or_init(|| self.build().into_tracer()) }
    }

    /// Starts the pipeline, if its configuration is faultless.
    ///
    /// # Errors
    /// The faults of the configuration.
    pub fn try_build(self) -> Result<Traces, ConfigError> {
        let Self { config, reports, .. } = self;
        if let Some(error) = ConfigError::from_reports(reports) {
            return Err(error);
        }
        Ok(Traces { tracer: Tracer::of(Some(Pipeline::start(&config, Vec::new(), None)?)) })
    }
}

/// One line on standard error. `eprintln` would panic where that is closed.
fn say(line: &dyn fmt::Display) {
    let _ = writeln!(io::stderr(), "trace-core: {line}");
}

/// What [`init`] returns: the tracer, and a last flush.
///
/// Dropping it flushes for at most a second and stops nothing, so that `let _ = trace_core::init();` does no harm; nor does
/// it do anything where a forked process has it from its parent. A service that ends in good order calls [`shutdown`](Tracer::shutdown) instead.
#[derive(Debug)]
#[must_use = "dropping it flushes, which is for the end of the process"]
pub struct Traces {
    tracer: Tracer,
}

/// How long a dropped [`Traces`] waits for the collector: long enough for one that is alive, short enough that nobody
/// takes the process for hung.
const DROP_FLUSH: Duration = Duration::from_secs(1);

impl Traces {
    /// The tracer, to be given away.
    pub const fn tracer(&self) -> Tracer {
        self.tracer
    }
}

impl std::ops::Deref for Traces {
    type Target = Tracer;

    fn deref(&self) -> &Tracer {
        &self.tracer
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // Whoever wants to know calls `flush`.
        let _ = self.tracer.blocking_flush(DROP_FLUSH);
    }
}

static GLOBAL: OnceLock<Tracer> = OnceLock::new();

/// Starts the pipeline that serves the whole process, as the environment says: every `OTEL_*` variable that concerns
/// traces ([`config`](crate::config)), and with nothing set, OTLP over HTTP to `localhost:4318`.
///
/// It never fails and never blocks: a value that cannot be used is reported on standard error, once, with what is used
/// instead. [`try_init`] is for those who want the error. The first call makes the pipeline; a later one returns
/// another handle to it.
///
/// # When the process ends
/// What has ended is sent by a [`shutdown`](Tracer::shutdown), or by dropping what this returns, also where a panic leaves
/// `main`. `std::process::exit`, an abort and a signal that nobody handles do neither: then what ended within the last
/// `OTEL_BSP_SCHEDULE_DELAY` is lost, and nothing else. No end of a process waits for a collector for longer than it was
/// told to, and no exit code changes.
///
/// # Fork
/// A process that forks, as daemons do, calls it afterwards: `fork` copies one thread, and not the one that sends. What
/// a child would send by its parent's pipeline is never sent, and a flush says so at once; a pipeline that the child makes
/// ([`Tracer::builder`]) works. Its ids and its `service.instance.id` are its own. As with every lock, a span that another
/// thread was just writing to when the process forked cannot be written to by the child.
///
/// # Panics of others
/// A panic in a handler ends its spans and leaves the thread's context as it was. One in a sampler, or in the text of an
/// attribute, is the caller's, and costs no other span. One in the exporter costs its batch, which is counted.
///
/// ```no_run
/// # use std::time::Duration;
/// # #[tokio::main]
/// # async fn main() {
/// let traces = trace_core::init();
/// // ... serve ...
/// let _ = traces.shutdown(Duration::from_secs(5)).await;
/// # }
/// ```
pub fn init() -> Traces {
    Tracer::builder().from_env().init()
}

/// As [`init`], for those who would rather not start than run with a configuration that is not what they wrote.
///
/// # Errors
/// The faults of the configuration.
pub fn try_init() -> Result<Traces, ConfigError> {
    let traces = match GLOBAL.get() {
        Some(tracer) => *tracer,
        None => {
            let tracer = Tracer::builder().from_env().try_build()?.into_tracer();
            *GLOBAL.get_or_init(|| tracer)
        }
    };
    Ok(Traces { tracer: traces })
}

/// The tracer that [`init`] made; before that, one that records nothing.
pub fn tracer() -> Tracer {
    global()
}

#[inline]
pub(crate) fn global() -> Tracer {
    GLOBAL.get().copied().unwrap_or_default()
}

impl Traces {
    /// The tracer without the last flush.
    fn into_tracer(self) -> Tracer {
        let tracer = self.tracer;
        std::mem::forget(self);
        tracer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is built from an environment.
    fn built(environment: &[(&str, &str)], change: impl FnOnce(TracerBuilder) -> TracerBuilder) -> Traces {
        let (config, reports) = Config::from_lookup(
            |name| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()),
            environment.iter().map(|(name, _)| name.into()),
        );
        change(TracerBuilder { config, reports, way_is_given: false }).build()
    }

    #[test]
    fn a_configuration_that_sends_spans_elsewhere_than_it_says_is_told_as_long_as_the_process_lives() {
        for (variable, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector at home"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://collector"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier pigeon"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api key=1"),
            ("OTEL_TRACES_EXPORTER", "jager"),
        ] {
            let traces = built(&[(variable, value)], |builder| builder);
            let health = traces.health();
            assert_eq!(health.as_str(), "misconfigured", "{variable}");
            assert_eq!(health.why(), Some(&*traces.reports()[0].to_string()));
            assert!(health.why().is_some_and(|why| why.starts_with(variable)), "{health}");
            let _ = traces.blocking_shutdown(Duration::ZERO);
            assert_eq!(traces.health(), health);
        }
    }

    #[test]
    fn a_fault_elsewhere_in_the_configuration_or_one_that_does_not_matter_is_none() {
        let elsewhere = [("OTEL_BSP_SCHEDULE_DELAY", "soon"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "late")];
        let bad = ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector at home");
        let built = [
            built(&elsewhere, |builder| builder),
            built(&[bad, ("OTEL_SDK_DISABLED", "true")], |builder| builder),
            built(&[bad, ("OTEL_TRACES_EXPORTER", "none")], |builder| builder),
            built(&[bad], |builder| builder.exporter(ExporterConfig::Console)),
        ];
        for traces in built {
            assert!(!traces.reports().is_empty());
            assert_eq!(traces.health(), Health::Healthy, "{:?}", traces.reports());
            let _ = traces.blocking_shutdown(Duration::ZERO);
        }
    }
}
