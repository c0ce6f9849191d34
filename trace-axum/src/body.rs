//! The body of a response inside the span of its request, as axum has bodies.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use pin_project_lite::pin_project;
use trace_core::cold_path;
use trace_tower::server::{BodyCall, HttpServerCall, ResponseBody};

/// The body that axum gets: what is a [`Body`] already, and nobody watches, stays what it is.
#[inline(always)]
pub(crate) fn of_call<B>(inner: B, call: Option<BodyCall<HttpServerCall>>) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let inner = Body::new(inner);
    match call {
        // Boxed as axum boxes bodies: one that is so already is neither moved about nor wrapped for the sake of its errors.
        call @ Some(_) => Body::new(UnsyncBoxBody::new(Watched { body: ResponseBody::new(inner, call) })),
        None => {
            cold_path();
            inner
        }
    }
}

pin_project! {
    /// Its errors are axum's, which it hands on as they are.
    struct Watched {
        #[pin]
        body: ResponseBody<Body, HttpServerCall>,
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.project().body.poll_frame_with(cx, Body::poll_frame, |error| error)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
