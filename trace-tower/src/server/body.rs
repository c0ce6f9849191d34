//! The body of a response: it is polled in the span, and ends it.

use std::pin::Pin;
use std::task::{Context, Poll};

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
    /// A body whose end is the end of the call; of a call that is over, or that nobody wants to know of, if there is none.
    #[inline]
    pub(super) const fn new(inner: B, open: Option<OpenCall<C>>, declared: Option<u64>) -> Self {
        Self { inner: Some(inner), open, declared, passed: 0 }
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
        // A frame is large: it is written where it is looked at, and moved from there once.
        let mut frame = Poll::Ready(None);
        let mut is_last = true;
        open.run(|| {
            if let Some(mut body) = this.inner.as_mut().as_pin_mut() {
                frame = body.as_mut().poll_frame(cx);
                is_last = match &frame {
                    Poll::Pending => false,
                    Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || body.is_end_stream(),
                    Poll::Ready(None | Some(Err(_))) => true,
                };
                if is_last {
                    // What it still holds is dropped inside the span.
                    this.inner.set(None);
                }
            }
        });
        match frame {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    *this.passed += data.remaining() as u64;
                } else if let Some(trailers) = frame.trailers_ref()
                    && open.span.is_recording()
                {
                    open.call.trailers(&mut open.span, trailers);
                }
                if is_last {
                    open.note(Ending::Complete);
                    *this.open = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                open.note(Ending::Complete);
                *this.open = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let error = error.into();
                open.note(Ending::BodyError(&*error));
                *this.open = None;
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
