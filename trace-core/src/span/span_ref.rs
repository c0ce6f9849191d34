//! A span that somebody else owns.

use super::attribute::with_texts;
use super::{Key, Life, Link, Recorder, Recording, SpanName, StatusCode, Value};
use crate::context::SpanContext;

/// The span of a context, to write to: a handler's view of the span that its middleware owns.
///
/// Writing to a span that is over, or not recorded, does nothing.
#[derive(Clone, Copy, Debug)]
pub struct SpanRef<'a> {
    recording: Option<&'a Recording>,
}

impl<'a> SpanRef<'a> {
    pub(crate) const fn new(recording: Option<&'a Recording>) -> Self {
        Self { recording }
    }

    /// Whether what is set here will be seen by anybody.
    pub fn is_recording(&self) -> bool {
        self.recording.is_some_and(|recording| recording.with(|recorder, _| !recorder.is_ended()))
    }

    /// Sets an attribute: see [`Span::set_attribute`](super::Span::set_attribute).
    pub fn set_attribute<'v>(&self, key: impl Into<Key<'v>>, value: impl Into<Value<'v>>) {
        if let Some(recording) = self.recording {
            recording.set_attribute_shared(key.into(), value.into());
        }
    }

    /// Adds something that happened now.
    pub fn add_event(&self, name: &str, attributes: &[(Key<'_>, Value<'_>)]) {
        if self.recording.is_some() {
            with_texts(attributes, |attributes| {
                self.record(|recorder, life| life.add_event(recorder, name, attributes));
            });
        }
    }

    /// Links the span to another one.
    pub fn add_link(&self, context: SpanContext, attributes: &[(Key<'_>, Value<'_>)]) {
        if self.recording.is_some() {
            with_texts(attributes, |attributes| {
                self.record(|recorder, life| {
                    let link = Link { context, trace_state: "", attributes };
                    recorder.add_link(&life.pipeline.queue, &life.pipeline.limits, &link);
                });
            });
        }
    }

    /// Gives the span another name.
    pub fn update_name<'n>(&self, name: impl Into<SpanName<'n>>) {
        let name = name.into();
        self.record(|recorder, life| recorder.set_name(&life.pipeline.queue, name));
    }

    /// Sets how the work went: see [`Span::set_status`](super::Span::set_status).
    pub fn set_status(&self, status: StatusCode) {
        self.record(|recorder, life| recorder.set_status(&life.pipeline.queue, status, ""));
    }

    /// Says that the work failed: see [`Span::set_error`](super::Span::set_error).
    pub fn set_error(&self, error_type: &str) {
        self.record(|recorder, life| life.set_error(recorder, error_type));
    }

    /// Says that the work failed with this error: see [`Span::record_error`](super::Span::record_error).
    pub fn record_error<E: ?Sized>(&self, error: &E) {
        let _ = error;
        self.set_error(std::any::type_name::<E>());
    }

    /// Describes the failure for a person: see [`Span::set_error_description`](super::Span::set_error_description).
    pub fn set_error_description(&self, description: &str) {
        self.record(|recorder, life| {
            recorder.set_status(&life.pipeline.queue, StatusCode::Error, description);
        });
    }

    fn record(&self, f: impl FnOnce(&mut Recorder, &Life)) {
        if let Some(recording) = self.recording {
            recording.with(|recorder, life| {
                if !recorder.is_ended() {
                    f(recorder, life);
                }
            });
        }
    }
}
