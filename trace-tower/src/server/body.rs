//! The body of a response: it is polled in the span, and ends it.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use trace_core::cold_path;

use crate::call::{BoxError, Call, Ending, OpenCall};

pin_project! {
    /// The body of a response inside the span of its call.
    ///
    /// # Cancel safety
    /// Dropping it drops the body inside the span, and ends the span: as complete, if the declared length has passed
    /// or the body says that it is at its end, else as [cancelled](Ending::Cancelled). While the thread panics the body is not asked.
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
        // How many bytes are still to come, `UNKNOWN` if nobody knows.
        left: u64,
    }

    impl<B, C> PinnedDrop for ResponseBody<B, C>
    where
        B: Body,
        C: Call,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let Some(open) = this.open.as_ref() else { return };
            // It is asked where the answer matters, and never in the midst of a panic: another one would end the process.
            let may_ask = !open.is_over() && !thread::panicking();
            let over = *this.left == 0
                || this.inner.as_ref().as_pin_ref().is_none_or(|inner| may_ask && inner.is_end_stream());
            let ending = if over { Ending::Complete } else { Ending::Cancelled };
            OpenCall::abandon(this.open, this.inner, ending);
        }
    }
}

/// As many bytes no body has.
const UNKNOWN: u64 = u64::MAX;

/// What is left of a call when the head of its response is there: how its body ends, which a [`ResponseBody`] notices. Dropped without
/// one it ends the span, and does not say how the call ended.
#[must_use = "without a body that takes it nobody notices how the call ends"]
pub struct BodyCall<C> {
    open: OpenCall<C>,
    left: u64,
}

impl<C: Call> BodyCall<C> {
    /// A call whose body has the declared length, if that is known.
    #[inline]
    pub(super) fn new(open: OpenCall<C>, declared: Option<u64>) -> Self {
        Self { open, left: declared.unwrap_or(UNKNOWN) }
    }
}

impl<C> fmt::Debug for BodyCall<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyCall")
    }
}

impl<B: Body, C: Call> ResponseBody<B, C> {
    /// A body whose end is the end of the call; of a call that is over, or that nobody wants to know of, if there is none.
    #[inline(always)]
    pub fn new(inner: B, call: Option<BodyCall<C>>) -> Self {
        match call {
            Some(BodyCall { open, left }) => Self { inner: Some(inner), open: Some(open), left },
            None => Self { inner: Some(inner), open: None, left: UNKNOWN },
        }
    }

    /// Whether its end is still to be noticed.
    #[cfg(test)]
    pub(super) const fn is_watched(&self) -> bool {
        self.open.is_some()
    }

    /// Polls the body inside the span, for bodies with errors of another type than [`BoxError`]: `poll` says which one they are, and
    /// `as_error` what they say. What `poll` answers is handed on as it is.
    ///
    /// # Panics
    /// When the body does, after the panic is noted. The span ends with this body.
    #[inline]
    pub fn poll_frame_with<E>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut B>, &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, E>>>,
        as_error: impl FnOnce(&E) -> &(dyn Error + 'static),
    ) -> Poll<Option<Result<Frame<B::Data>, E>>> {
        let this = self.project();
        match this.open {
            Some(_) => poll_watched(this.inner, this.open, this.left, cx, poll, as_error),
            None => {
                cold_path();
                match this.inner.as_pin_mut() {
                    Some(inner) => poll(inner, cx),
                    None => Poll::Ready(None),
                }
            }
        }
    }
}

/// Polls a body that is watched. A frame is large: it is written to where it is returned to, and looked at there.
#[inline(always)]
fn poll_watched<B: Body, C: Call, E>(
    mut inner: Pin<&mut Option<B>>,
    call: &mut Option<OpenCall<C>>,
    left: &mut u64,
    cx: &mut Context<'_>,
    poll: impl FnOnce(Pin<&mut B>, &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, E>>>,
    as_error: impl FnOnce(&E) -> &(dyn Error + 'static),
) -> Poll<Option<Result<Frame<B::Data>, E>>> {
    let open = call.as_mut().expect("it is watched");
    let frame = open.run(|| match inner.as_mut().as_pin_mut() {
        Some(inner) => poll(inner, cx),
        None => Poll::Ready(None),
    });
    let is_last = match &frame {
        Poll::Pending => false,
        Poll::Ready(Some(Ok(frame))) => {
            if let Some(data) = frame.data_ref() {
                if *left != UNKNOWN {
                    *left = left.saturating_sub(data.remaining() as u64);
                }
            } else if let Some(trailers) = frame.trailers_ref()
                && open.span.is_recording()
            {
                open.call.trailers(&mut open.span, trailers);
            }
            let is_trailers = frame.is_trailers();
            open.run(|| {
                let is_last =
                    is_trailers || inner.as_ref().as_pin_ref().is_none_or(|inner| inner.is_end_stream());
                if is_last {
                    // What it still holds is dropped inside the span.
                    inner.set(None);
                }
                is_last
            })
        }
        Poll::Ready(None | Some(Err(_))) => {
            open.run(|| inner.set(None));
            true
        }
    };
    if is_last {
        open.note(match &frame {
            Poll::Ready(Some(Err(error))) => Ending::BodyError(as_error(error)),
            _ => Ending::Complete,
        });
        *call = None;
    }
    frame
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
        let poll = |inner: Pin<&mut B>, cx: &mut Context<'_>| {
            inner.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
        };
        self.poll_frame_with(cx, poll, |error| &**error)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
