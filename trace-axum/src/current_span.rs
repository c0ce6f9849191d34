//! The span of the request, for handlers.

use std::convert::Infallible;
use std::ops::Deref;

use axum::extract::FromRequestParts;
use http::request::Parts;
use trace_core::{Context, Key, TraceId, Value};

/// The span of the request, to write to and to tell its ids.
///
/// ```
/// use axum::Router;
/// use axum::extract::Path;
/// use axum::http::StatusCode;
/// use axum::routing::get;
/// use trace_axum::{CurrentSpan, TraceLayer};
///
/// async fn order(span: CurrentSpan, Path(id): Path<u64>) -> Result<String, (StatusCode, String)> {
///     span.set_attribute("shop.order", id);
///     if id == 0 {
///         span.set_error("no_such_order");
///         let text = format!("Please tell us this number: {}", span.trace_id_text());
///         return Err((StatusCode::NOT_FOUND, text));
///     }
///     Ok(format!("order {id}"))
/// }
///
/// let app: Router = Router::new().route("/orders/{id}", get(order)).layer(TraceLayer::new());
/// ```
///
/// Where there is no span (the request is left out, or there is no [`TraceLayer`](crate::TraceLayer)) or it is not recorded,
/// what is written to it is lost, as for any other.
///
/// It is the [`Context`] of the request, and stays so when it is moved elsewhere; a span that is over can no longer be
/// written to.
#[derive(Clone, Debug)]
pub struct CurrentSpan(Context);

impl CurrentSpan {
    /// Sets an attribute of the span.
    pub fn set_attribute<'a>(&self, key: impl Into<Key<'a>>, value: impl Into<Value<'a>>) {
        self.0.span().set_attribute(key, value);
    }

    /// Adds something that happened now.
    pub fn add_event(&self, name: &str, attributes: &[(Key<'_>, Value<'_>)]) {
        self.0.span().add_event(name, attributes);
    }

    /// Says that the request failed, and of which class the failure is; it stands, whatever the response is.
    pub fn set_error(&self, error_type: &str) {
        self.0.span().set_error(error_type);
    }

    /// The trace, if the request is in one.
    pub fn trace_id(&self) -> Option<TraceId> {
        self.0.span_context().map(|span| span.trace_id())
    }

    /// The trace's id, for a page or a message that a person reads: 32 hexadecimal digits, or nothing.
    pub fn trace_id_text(&self) -> String {
        self.trace_id().map_or_else(String::new, |id| id.to_string())
    }
}

impl Deref for CurrentSpan {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.0
    }
}

impl<S: Sync> FromRequestParts<S> for CurrentSpan {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(Context::current()))
    }
}

#[cfg(test)]
mod tests {
    use trace_core::{Baggage, SpanContext, SpanId, TraceFlags, TraceState};

    use super::*;

    #[test]
    fn what_was_sent_along_is_not_shown() {
        let span_context = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::SAMPLED, true);
        let trace_state = TraceState::parse_lines(["vendor=opaque"]).unwrap();
        let baggage = Baggage::parse_lines(["token=secret"]);
        let span = CurrentSpan(Context::from_remote(span_context, trace_state, baggage));
        let shown = format!("{span:?}");
        assert!(shown.contains(&span.trace_id_text()), "{shown}");
        for kept_back in ["vendor", "opaque", "token", "secret"] {
            assert!(!shown.contains(kept_back), "{shown}");
        }
    }
}
