//! The fields of `tracing` spans and events as attributes.
//!
//! Code of the user runs here: the `Debug` and `Display` of what is recorded. It may itself make spans and
//! events, or panic. So it never runs while a span that it could reach is locked: its text goes into a buffer
//! first.

use std::borrow::Cow;
use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Range;

use ::tracing::field::{Field, Visit};

use crate::export::chunk::SPAN_BYTES_MAX;
use crate::span::{append, text_of};
use crate::{Key, Span, SpanKind, SpanRef, StatusCode, Value};

const NAME: &str = "otel.name";
const KIND: &str = "otel.kind";
const STATUS_CODE: &str = "otel.status_code";
const STATUS_DESCRIPTION: &str = "otel.status_description";
const STATUS_MESSAGE: &str = "otel.status_message";

const ERROR_TYPE: &str = "error.type";
const EXCEPTION_TYPE: Key<'static> = Key::new("exception.type");
const EXCEPTION_MESSAGE: Key<'static> = Key::new("exception.message");

/// The conventions' word for an error whose type is not known.
pub(super) const OTHER: &str = "_OTHER";

/// A buffer that grew beyond this is not kept for the next use.
const KEPT_BYTES_MAX: usize = 8 * 1024;

thread_local! {
    static BUFFER: Cell<String> = const { Cell::new(String::new()) };
}

/// A buffer for text, kept by the thread. Code that runs meanwhile and wants one too gets a new one.
pub(super) struct Buffer(String);

impl Buffer {
    pub(super) fn take() -> Self {
        Self(BUFFER.try_with(Cell::take).unwrap_or_default())
    }

    pub(super) fn text(&mut self) -> &mut String {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() <= KEPT_BYTES_MAX {
            self.0.clear();
            let text = std::mem::take(&mut self.0);
            let _ = BUFFER.try_with(|buffer| buffer.set(text));
        }
    }
}

/// What the sampler may see of a span: its name and kind.
#[derive(Default)]
pub(super) struct Head {
    pub(super) name: Option<String>,
    pub(super) kind: SpanKind,
}

impl Visit for Head {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            NAME => self.name = Some(value.to_owned()),
            KIND => self.kind = kind(value),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if matches!(field.name(), NAME | KIND) {
            self.record_str(field, &text_of(format_args!("{value:?}")));
        }
    }
}

fn kind(text: &str) -> SpanKind {
    let kinds = [SpanKind::Server, SpanKind::Client, SpanKind::Producer, SpanKind::Consumer];
    kinds.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(text)).unwrap_or_default()
}

/// What attributes are set on: a span that nobody else knows yet, or one that is in use.
pub(super) trait Target {
    fn set(&mut self, key: Key<'_>, value: Value<'_>);

    /// Sets the text of a value that is formatted by code of the user.
    fn set_formatted(&mut self, key: Key<'_>, text: fmt::Arguments<'_>);

    fn update_name(&mut self, name: &str);

    fn set_status(&mut self, status: StatusCode);

    fn set_error(&mut self, error_type: &str);

    fn set_error_description(&mut self, description: &str);
}

impl Target for &mut Span {
    fn set(&mut self, key: Key<'_>, value: Value<'_>) {
        self.set_attribute(key, value);
    }

    fn set_formatted(&mut self, key: Key<'_>, text: fmt::Arguments<'_>) {
        // Nobody else can reach the span, so that the text may go straight into it.
        self.set_attribute(key, &text);
    }

    // It was started with its name.
    fn update_name(&mut self, _: &str) {}

    fn set_status(&mut self, status: StatusCode) {
        Span::set_status(self, status);
    }

    fn set_error(&mut self, error_type: &str) {
        Span::set_error(self, error_type);
    }

    fn set_error_description(&mut self, description: &str) {
        Span::set_error_description(self, description);
    }
}

impl Target for SpanRef<'_> {
    fn set(&mut self, key: Key<'_>, value: Value<'_>) {
        self.set_attribute(key, value);
    }

    fn set_formatted(&mut self, key: Key<'_>, text: fmt::Arguments<'_>) {
        let mut buffer = Buffer::take();
        append(buffer.text(), text);
        self.set_attribute(key, buffer.text().as_str());
    }

    fn update_name(&mut self, name: &str) {
        Self::update_name(self, name);
    }

    fn set_status(&mut self, status: StatusCode) {
        Self::set_status(self, status);
    }

    fn set_error(&mut self, error_type: &str) {
        Self::set_error(self, error_type);
    }

    fn set_error_description(&mut self, description: &str) {
        Self::set_error_description(self, description);
    }
}

/// Sets the fields of a span as its attributes.
pub(super) struct SpanFields<T> {
    target: T,
    error_text: bool,
    status: StatusCode,
    description: Option<String>,
    has_error_type: bool,
}

impl<T: Target> SpanFields<T> {
    /// `has_error_type` is whether the span got an `error.type` before.
    pub(super) fn new(target: T, error_text: bool, has_error_type: bool) -> Self {
        Self { target, error_text, status: StatusCode::Unset, description: None, has_error_type }
    }

    /// Sets what depends on several fields; tells whether the span has an `error.type`.
    pub(super) fn finish(mut self) -> bool {
        if self.status == StatusCode::Error || self.description.is_some() {
            if !self.has_error_type {
                self.target.set_error(OTHER);
                self.has_error_type = true;
            }
            match &self.description {
                Some(description) => self.target.set_error_description(description),
                None => self.target.set_status(StatusCode::Error),
            }
        } else if self.status == StatusCode::Ok {
            self.target.set_status(StatusCode::Ok);
        }
        self.has_error_type
    }

    /// Whether the field was one of those that set something else than an attribute.
    fn is_special(&mut self, field: &Field, text: &dyn Fn() -> String) -> bool {
        match field.name() {
            NAME => self.target.update_name(&text()),
            // What the kind is, the span was told at its start.
            KIND => {}
            STATUS_CODE => {
                self.status = match text() {
                    code if code.eq_ignore_ascii_case("ok") => StatusCode::Ok,
                    code if code.eq_ignore_ascii_case("error") => StatusCode::Error,
                    _ => StatusCode::Unset,
                }
            }
            STATUS_DESCRIPTION | STATUS_MESSAGE => self.description = Some(text()),
            ERROR_TYPE => {
                self.has_error_type = true;
                return false;
            }
            _ => return false,
        }
        true
    }

    fn error(&mut self, error_type: &str, text: fmt::Arguments<'_>) {
        self.target.set(EXCEPTION_TYPE, error_type.into());
        if self.error_text {
            self.target.set_formatted(EXCEPTION_MESSAGE, text);
        }
    }

    fn number<N: TryInto<i64> + fmt::Display + Copy>(&mut self, field: &Field, value: N) {
        match value.try_into() {
            Ok(number) => self.target.set(field.name().into(), Value::I64(number)),
            Err(_) => self.target.set_formatted(field.name().into(), format_args!("{value}")),
        }
    }
}

impl<T: Target> Visit for SpanFields<T> {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.target.set(field.name().into(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.target.set(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.number(field, value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.number(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.target.set(field.name().into(), value.into());
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        self.target.set(field.name().into(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if self.is_special(field, &|| value.to_owned()) {
            return;
        }
        match field.name() {
            "error" => self.error(OTHER, format_args!("{value}")),
            name => self.target.set(name.into(), value.into()),
        }
    }

    fn record_error(&mut self, _: &Field, value: &(dyn Error + 'static)) {
        self.error(&error_type(value), format_args!("{}", Chain(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.is_special(field, &|| text_of(format_args!("{value:?}"))) {
            return;
        }
        match field.name() {
            "error" => self.error(OTHER, format_args!("{value:?}")),
            name => self.target.set_formatted(name.into(), format_args!("{value:?}")),
        }
    }
}

/// Collects the fields of an event.
pub(super) struct EventFields<'a> {
    text: &'a mut String,
    error_text: bool,
    message: Option<Range<usize>>,
    fields: Vec<(&'static str, Collected)>,
    error_type: Option<Cow<'static, str>>,
    error_message: Option<Range<usize>>,
    log: LogRecord,
}

/// What `tracing-log` says of a record of the `log` crate.
#[derive(Default)]
struct LogRecord {
    target: Option<Range<usize>>,
    file: Option<Range<usize>>,
    line: Option<i64>,
}

enum Collected {
    Bool(bool),
    I64(i64),
    F64(f64),
    Text(Range<usize>),
    Bytes(Vec<u8>),
}

/// An event, ready to be added to a span.
pub(super) struct EventParts<'a> {
    pub(super) message: Option<&'a str>,
    /// The place of a record of the `log` crate.
    pub(super) target: Option<&'a str>,
    pub(super) file: Option<&'a str>,
    pub(super) line: Option<i64>,
    pub(super) error_type: Option<&'a str>,
    pub(super) attributes: Vec<(Key<'a>, Value<'a>)>,
}

impl<'a> EventFields<'a> {
    pub(super) fn new(text: &'a mut String, fields: usize, error_text: bool) -> Self {
        Self {
            text,
            error_text,
            message: None,
            fields: Vec::with_capacity(fields),
            error_type: None,
            error_message: None,
            log: LogRecord::default(),
        }
    }

    pub(super) fn parts(&self) -> EventParts<'_> {
        let text = |range: &Option<Range<usize>>| range.as_ref().map(|range| &self.text[range.clone()]);
        // Four more: level, target, file and line.
        let mut attributes = Vec::with_capacity(self.fields.len() + 6);
        for (name, value) in &self.fields {
            let value = match value {
                Collected::Bool(value) => Value::Bool(*value),
                Collected::I64(value) => Value::I64(*value),
                Collected::F64(value) => Value::F64(*value),
                Collected::Text(range) => Value::Str(&self.text[range.clone()]),
                Collected::Bytes(value) => Value::Bytes(value),
            };
            attributes.push((Key::new(name), value));
        }
        if let Some(error_type) = &self.error_type {
            attributes.push((EXCEPTION_TYPE, Value::Str(error_type)));
        }
        if let Some(message) = text(&self.error_message) {
            attributes.push((EXCEPTION_MESSAGE, Value::Str(message)));
        }
        EventParts {
            message: text(&self.message),
            target: text(&self.log.target),
            file: text(&self.log.file),
            line: self.log.line,
            error_type: self.error_type.as_deref(),
            attributes,
        }
    }

    fn text(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        match field.name() {
            "message" => self.message = Some(append(self.text, text)),
            "error" => self.error(OTHER.into(), text),
            "log.target" => self.log.target = Some(append(self.text, text)),
            "log.file" => self.log.file = Some(append(self.text, text)),
            "log.module_path" => {}
            name => {
                let range = append(self.text, text);
                self.fields.push((name, Collected::Text(range)));
            }
        }
    }

    fn error(&mut self, error_type: Cow<'static, str>, text: fmt::Arguments<'_>) {
        self.error_type = Some(error_type);
        if self.error_text {
            self.error_message = Some(append(self.text, text));
        }
    }

    fn number<N: TryInto<i64> + fmt::Display + Copy>(&mut self, field: &Field, value: N) {
        match (value.try_into(), field.name()) {
            (Ok(line), "log.line") => self.log.line = Some(line),
            (Ok(number), name) => self.fields.push((name, Collected::I64(number))),
            (Err(_), _) => self.text(field, format_args!("{value}")),
        }
    }
}

impl Visit for EventFields<'_> {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.push((field.name(), Collected::Bool(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.number(field, value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.number(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.fields.push((field.name(), Collected::F64(value)));
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        let kept = &value[..value.len().min(SPAN_BYTES_MAX)];
        self.fields.push((field.name(), Collected::Bytes(kept.to_owned())));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, format_args!("{value}"));
    }

    fn record_error(&mut self, _: &Field, value: &(dyn Error + 'static)) {
        self.error(error_type(value), format_args!("{}", Chain(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format_args!("{value:?}"));
    }
}

/// The kind of the I/O error among an error and its sources; the type of any other is not known from outside.
fn error_type(error: &(dyn Error + 'static)) -> Cow<'static, str> {
    let mut errors = std::iter::successors(Some(error), |error| (*error).source());
    match errors.find_map(|error| error.downcast_ref::<io::Error>()) {
        Some(error) => format!("{:?}", error.kind()).into(),
        None => OTHER.into(),
    }
}

/// An error and its sources, each after a colon.
struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        std::iter::successors(self.0.source(), |error| (*error).source())
            .try_for_each(|error| write!(f, ": {error}"))
    }
}
