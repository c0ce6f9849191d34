//! What became of the spans, as metrics by the API of the `opentelemetry` crate.
//!
//! The names and attributes are those of OpenTelemetry's [convention for SDKs][convention]; where it knows no name for
//! what is worth knowing, the name begins with `trace_core`. Everything but the duration of operations is read from the
//! counters that the pipeline keeps anyway, when somebody collects: no request pays for it.
//!
//! [convention]: https://opentelemetry.io/docs/specs/semconv/otel/sdk-metrics/

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use crate::telemetry::operations::End;
use crate::telemetry::{ByParent, Component, Dropped};
use crate::{DropReason, Health, OPERATION_BOUNDS_SECONDS, Stats, Tracer};

const COMPONENT_NAME: &str = "otel.component.name";
const COMPONENT_TYPE: &str = "otel.component.type";
const ERROR_TYPE: &str = "error.type";
const PARENT_ORIGIN: &str = "otel.span.parent.origin";
const SAMPLING_RESULT: &str = "otel.span.sampling_result";

impl Tracer {
    /// Exports what the pipeline counts through a meter of the `opentelemetry` crate (0.33): [`stats`](Self::stats) and
    /// [`health`](Self::health) as metrics. To be called once for each meter.
    ///
    /// ```
    /// # fn example(meter: opentelemetry::metrics::Meter) {
    /// let traces = trace_core::init();
    /// traces.observe(&meter);
    /// # }
    /// ```
    ///
    /// | metric | kind, unit | attributes |
    /// |---|---|---|
    /// | `otel.sdk.span.live` | up-down counter, spans | `otel.span.sampling_result` |
    /// | `otel.sdk.span.started` | counter, spans | `otel.span.parent.origin`, `otel.span.sampling_result` |
    /// | `otel.sdk.processor.span.queue.size` | up-down counter, spans | component |
    /// | `otel.sdk.processor.span.queue.capacity` | up-down counter, spans; only where `OTEL_BSP_MAX_QUEUE_SIZE` bounds it | component |
    /// | `otel.sdk.processor.span.processed` | counter, spans | component, `error.type`: a [`DropReason`] |
    /// | `otel.sdk.exporter.span.inflight` | up-down counter, spans | component, server |
    /// | `otel.sdk.exporter.span.exported` | counter, spans | component, server, `error.type`: `rejected`, or a [`DropReason`] |
    /// | `otel.sdk.exporter.operation.duration` | histogram, seconds | component, server, `error.type`, `http.response.status_code`, `rpc.status_code`: see [`Operation`](crate::Operation) |
    /// | `trace_core.span.shed` | counter, spans | component |
    /// | `trace_core.memory.usage`, `trace_core.memory.limit` | up-down counters, bytes | component |
    /// | `trace_core.health` | gauge: 0 healthy, 1 degraded, 2 misconfigured | component |
    ///
    /// *Component* is `otel.component.name` and `otel.component.type`; *server* is `server.address` and `server.port`. A
    /// span counts as processed when it is handed over to be sent, and as exported when its batch is settled, after the
    /// last attempt. A shed trace counts as started with the result `DROP`. Spans that were on disk, or are, are not told
    /// apart here.
    ///
    /// A [disabled](Self::disabled) tracer has nothing to tell. Operations from before the call are not in the histogram.
    ///
    /// # Blocking
    /// It takes the meter's locks. So does the export thread, for each batch; no other thread does.
    pub fn observe(&self, meter: &Meter) {
        let tracer = *self;
        let Some(pipeline) = tracer.pipeline() else { return };
        let components = &pipeline.components;
        let processor = named(&components.processor);

        up_down(meter, "otel.sdk.span.live", "{span}", "Recorded spans that have not ended", move |tell| {
            tell(count(tracer.stats().live), &[KeyValue::new(SAMPLING_RESULT, "RECORD_AND_SAMPLE")]);
        });
        counter(meter, "otel.sdk.span.started", "Spans that were started", move |tell| {
            let stats = tracer.stats();
            for (spans, result) in
                [(stats.started_by_parent, "RECORD_AND_SAMPLE"), (stats.not_recorded_by_parent, "DROP")]
            {
                for (origin, spans) in origins(spans) {
                    let result = KeyValue::new(SAMPLING_RESULT, result);
                    tell(spans, &[KeyValue::new(PARENT_ORIGIN, origin), result]);
                }
            }
        });

        let of = processor.clone();
        up_down(
            meter,
            "otel.sdk.processor.span.queue.size",
            "{span}",
            "Spans that wait to be sent",
            move |tell| {
                let stats = tracer.stats();
                tell(count(stats.queued.saturating_sub(stats.in_flight)), &of);
            },
        );
        if let Some(max) = tracer.stats().queue_spans_max {
            let of = processor.clone();
            let what = "The most spans that may wait to be sent";
            up_down(meter, "otel.sdk.processor.span.queue.capacity", "{span}", what, move |tell| {
                tell(count(max), &of);
            });
        }
        let of = processor.clone();
        let what = "Spans that were handed over to be sent, or lost before";
        counter(meter, "otel.sdk.processor.span.processed", what, move |tell| {
            let stats = tracer.stats();
            tell(stats.submitted, &of);
            for (reason, spans) in lost_before(&stats) {
                tell(spans, &with_error(&of, reason.as_str()));
            }
        });

        let of = processor.clone();
        counter(meter, "trace_core.span.shed", "Traces left out because memory was short", move |tell| {
            tell(tracer.stats().shed, &of);
        });
        let of = processor.clone();
        up_down(meter, "trace_core.memory.usage", "By", "Memory that is taken for spans", move |tell| {
            tell(count(tracer.stats().memory_bytes), &of);
        });
        let of = processor.clone();
        up_down(meter, "trace_core.memory.limit", "By", "Memory that may be taken for spans", move |tell| {
            tell(count(tracer.stats().memory_bytes_max), &of);
        });
        meter
            .u64_observable_gauge("trace_core.health")
            .with_description("0: healthy, 1: degraded, 2: misconfigured")
            .with_callback(move |observer| {
                let health = match tracer.health() {
                    Health::Healthy => 0,
                    Health::Degraded(_) => 1,
                    Health::Misconfigured(_) => 2,
                };
                observer.observe(health, &processor);
            })
            .build();

        let Some(exporter) = &components.exporter else { return };
        let mut exporter = named(exporter).to_vec();
        if let Some((address, port)) = &components.server {
            exporter.push(KeyValue::new("server.address", address.clone()));
            exporter.push(KeyValue::new("server.port", i64::from(*port)));
        }
        let of = exporter.clone();
        let what = "Spans that are being sent";
        up_down(meter, "otel.sdk.exporter.span.inflight", "{span}", what, move |tell| {
            tell(count(tracer.stats().in_flight), &of);
        });
        let of = exporter.clone();
        counter(meter, "otel.sdk.exporter.span.exported", "Spans whose batch is settled", move |tell| {
            let stats = tracer.stats();
            tell(stats.exported, &of);
            if stats.rejected > 0 {
                tell(stats.rejected, &with_error(&of, "rejected"));
            }
            for (reason, spans) in lost(&stats.dropped_by_exporter) {
                tell(spans, &with_error(&of, reason.as_str()));
            }
        });
        let durations = meter
            .f64_histogram("otel.sdk.exporter.operation.duration")
            .with_unit("s")
            .with_description("How long it took to send a batch, all attempts included")
            .with_boundaries(OPERATION_BOUNDS_SECONDS.to_vec())
            .build();
        pipeline.queue.export.observers.add(Arc::new(move |end: End, took| {
            let mut of = exporter.clone();
            of.extend(end.error_type().map(|error| KeyValue::new(ERROR_TYPE, error)));
            let http = end.http_status().map(i64::from);
            of.extend(http.map(|status| KeyValue::new("http.response.status_code", status)));
            of.extend(end.rpc_status().map(|status| KeyValue::new("rpc.status_code", status)));
            durations.record(took.as_secs_f64(), &of);
        }));
    }
}

/// Registers a counter that is read when somebody collects.
fn counter(
    meter: &Meter,
    name: &'static str,
    description: &'static str,
    read: impl Fn(&mut dyn FnMut(u64, &[KeyValue])) + Send + Sync + 'static,
) {
    let builder = meter.u64_observable_counter(name).with_unit("{span}").with_description(description);
    builder.with_callback(move |observer| read(&mut |value, of| observer.observe(value, of))).build();
}

/// As [`counter`], for what goes up and down.
fn up_down(
    meter: &Meter,
    name: &'static str,
    unit: &'static str,
    description: &'static str,
    read: impl Fn(&mut dyn FnMut(i64, &[KeyValue])) + Send + Sync + 'static,
) {
    let builder = meter.i64_observable_up_down_counter(name).with_unit(unit).with_description(description);
    builder.with_callback(move |observer| read(&mut |value, of| observer.observe(value, of))).build();
}

fn named(component: &Component) -> [KeyValue; 2] {
    [KeyValue::new(COMPONENT_NAME, component.name.clone()), KeyValue::new(COMPONENT_TYPE, component.kind)]
}

fn with_error(of: &[KeyValue], error_type: &'static str) -> Vec<KeyValue> {
    of.iter().cloned().chain([KeyValue::new(ERROR_TYPE, error_type)]).collect()
}

fn origins(spans: ByParent) -> [(&'static str, u64); 3] {
    [("none", spans.none), ("local", spans.local), ("remote", spans.remote)]
}

/// What was lost, by the reasons for which something was.
fn lost(dropped: &Dropped) -> impl Iterator<Item = (DropReason, u64)> {
    DropReason::ALL.into_iter().map(|reason| (reason, dropped.count(reason))).filter(|(_, spans)| *spans > 0)
}

/// What was lost before it was handed over to be sent.
fn lost_before(stats: &Stats) -> impl Iterator<Item = (DropReason, u64)> {
    lost(&stats.dropped).filter_map(|(reason, spans)| {
        let before = spans.saturating_sub(stats.dropped_by_exporter.count(reason));
        (before > 0).then_some((reason, before))
    })
}

/// No count of spans or bytes of a process reaches the bound.
fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
