//! `tracing` spans become spans, its events become their events, and log lines carry their ids.
//!
//! Most services log through [`tracing`](https://docs.rs/tracing) already. With this layer in their
//! subscriber, `#[instrument]` and `info_span!` make spans that nest with those of this crate both ways: the
//! current [`Context`](crate::Context) is the parent of a new `tracing` span, and an entered `tracing` span
//! is the current context.
//!
//! ```
//! use trace_core::bridge::tracing::{WithTraceIds, layer};
//! use tracing_subscriber::filter::LevelFilter;
//! use tracing_subscriber::prelude::*;
//!
//! let log_lines = tracing_subscriber::fmt::layer().map_event_format(WithTraceIds::text);
//! let subscriber = tracing_subscriber::registry().with(LevelFilter::INFO).with(layer()).with(log_lines);
//! # tracing::subscriber::with_default(subscriber, || tracing::info!("ready"));
//! // subscriber.init();
//! ```
//!
//! Without a filter everything becomes spans and events, the `TRACE` events of hyper and axum included. One like that
//! above holds for spans and log lines alike; one for this layer alone is given by
//! [`with_filter`](tracing_subscriber::Layer::with_filter).
//!
//! # Spans
//!
//! The fields of a span become attributes, those that are recorded later too. A whole number stays one
//! (beyond 64 bits signed it is written as text, as the specification wants), so do truth values, floating
//! point numbers, text and bytes; what is recorded by `?` or `%` becomes its text. `target`, `code.file.path`
//! and `code.line.number` say where the span was made.
//!
//! | field | sets |
//! |---|---|
//! | `otel.name` | the span's name, instead of the one in the source; also later |
//! | `otel.kind` | the span's kind: `server`, `client`, `producer`, `consumer` or `internal`, in upper or lower case; only where the span is made |
//! | `otel.status_code` | the status: `ok` or `error` |
//! | `otel.status_description`, `otel.status_message` | the status `error`, with this text |
//!
//! An error needs a type by the conventions: one that has no field `error.type` gets `_OTHER`.
//!
//! `parent: &span` and `parent: None` are followed; `follows_from` becomes a link. A span that a filter hides
//! from this layer is passed over, and its children are those of what encloses it.
//!
//! A span ends when `tracing` closes it, which is when all its handles **and all its children** are gone. A
//! span that was entered is given the time of its last exit as its end (or of what was recorded last), so
//! that a child that runs on does not stretch it.
//!
//! # Events
//!
//! An event becomes an event of the current span, be it a `tracing` one or one of this crate, or of its
//! explicit parent. It is called by its message, or else by its own name, and has its fields, `level`,
//! `target` and where it was made as attributes. Outside of any span it is left alone. Records of the `log`
//! crate that come through `tracing-log` are told by their own target and place.
//!
//! An event of the level `ERROR` does not change the status of its span unless
//! [`TracingLayer::error_events_fail_span`] is set: whether a request failed is for its middleware to say,
//! which knows the response. So `#[instrument(err)]` records an `Err` as an event, and leaves the status alone.
//!
//! # Errors
//!
//! What an error says may be private, so it does not leave the process unless [`TracingLayer::error_text`] is
//! set. This concerns values that are recorded as errors (`error = &e as &dyn Error`), and text in a field
//! named `error`, which is how `#[instrument(err)]` reports. All that is sent of them otherwise is
//! `exception.type`: the kind of the I/O error at the bottom if there is one, else `_OTHER`. Text in any other
//! field, and in messages, is sent as it is.
//!
//! # Limits
//!
//! One such layer a subscriber; of several the first makes the spans. What the export worker itself does is
//! never traced. A context guard of this crate that is opened inside an entered `tracing` span must be
//! dropped before the span is exited.

pub(crate) mod entered;
mod fields;
mod layer;
mod log_lines;

pub use layer::{TracingLayer, layer};
pub use log_lines::{WithTraceIds, span_context};

#[cfg(test)]
mod tests;
