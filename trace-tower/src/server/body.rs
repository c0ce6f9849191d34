//! The body of a response: it is polled in the span, and ends it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::call::{BoxError, Call, Ending, OpenCall};

pin_project! {
    /// The body of a response inside the span of its call.
    ///
    /// # Cancel safety
    /// Dropping it drops the body inside the span, and ends the span: as complete, if the declared length has passed
    /// or the body says that it is at its end, else as [cancelled](Ending::Cancelled).
    #[derive(Debug)]
    pub struct ResponseBody<B, C>
    where
        B: Body,
        C: Call,
    {
        // None when it is over.
        #[pin]
        inner: Option<B>,
        // None when nothing is left to watch, or nothing was from the beginning.
        open: Option<OpenCall<C>>,
        declared: Option<u64>,
        passed: u64,
    }

    impl<B, C> PinnedDrop for ResponseBody<B, C>
    where
        B: Body,
        C: Call,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if this.open.is_none() {
                return;
            }
            let over = this.declared.is_some_and(|declared| *this.passed >= declared)
                || this.inner.as_ref().as_pin_ref().is_none_or(|inner| inner.is_end_stream());
            let ending = if over { Ending::Complete } else { Ending::Cancelled };
            OpenCall::abandon(this.open, this.inner, ending);
        }
    }
}

impl<B: Body, C: Call> ResponseBody<B, C> {
    /// A body whose end is the end of the call.
    pub(super) const fn watched(inner: B, open: OpenCall<C>, declared: Option<u64>) -> Self {
        Self { inner: Some(inner), open: Some(open), declared, passed: 0 }
    }

    /// A body of a call that is over, or that nobody wants to know of.
    pub(super) const fn untouched(inner: B) -> Self {
        Self { inner: Some(inner), open: None, declared: None, passed: 0 }
    }

    /// The body inside, if there is nothing left to watch: for those who would box what wraps it.
    ///
    /// # Errors
    /// The body as it was, if its call is not over.
    pub fn try_into_inner(mut self) -> Result<B, Self> {
        match self.inner.take() {
            Some(inner) if self.open.is_none() => Ok(inner),
            inner => {
                self.inner = inner;
                Err(self)
            }
        }
    }
}

impl<B, C> Body for ResponseBody<B, C>
where
    B: Body,
    B::Error: Into<BoxError>,
    C: Call,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let Some(open) = this.open else {
            let Some(inner) = this.inner.as_pin_mut() else { return Poll::Ready(None) };
            return inner.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)));
        };
        let (frame, done) = ready!(open.run(|| {
            let Some(mut inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready((None, true)) };
            let frame = ready!(inner.as_mut().poll_frame(cx));
            let done = match &frame {
                None | Some(Err(_)) => true,
                Some(Ok(frame)) => frame.is_trailers() || inner.is_end_stream(),
            };
            if done {
                // What the body still holds is dropped inside the span.
                this.inner.set(None);
            }
            Poll::Ready((frame, done))
        }));
        let frame = frame.map(|frame| frame.map_err(Into::into));
        if let Some(Ok(frame)) = &frame {
            if let Some(data) = frame.data_ref() {
                *this.passed += data.remaining() as u64;
            } else if let Some(trailers) = frame.trailers_ref()
                && open.span.is_recording()
            {
                open.call.trailers(&mut open.span, trailers);
            }
        }
        if done && let Some(open) = this.open.take() {
            match &frame {
                Some(Err(error)) => open.end(Ending::BodyError(&**error)),
                _ => open.end(Ending::Complete),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
