//! Futures and streams with a context of their own.

use std::pin::Pin;
use std::task::{self, Poll};

use futures_core::Stream;
use pin_project_lite::pin_project;

use super::{Context, enter};

/// Gives futures and streams a context.
///
/// ```
/// use trace_core::{Context, FutureExt};
///
/// async fn charge() { /* ... */ }
///
/// # async fn example() {
/// // The task is not run inside the caller, so that it has to be given the context.
/// tokio::spawn(charge().in_current_context());
/// # }
/// ```
pub trait FutureExt: Sized {
    /// Sets the context while this is polled, and while it is dropped.
    fn in_context(self, context: Context) -> InContext<Self> {
        InContext { inner: Some(self), context }
    }

    /// Sets the context that is current now while this is polled, and while it is dropped.
    fn in_current_context(self) -> InContext<Self> {
        self.in_context(Context::current())
    }
}

impl<F> FutureExt for F {}

pin_project! {
    /// A future or stream with a context of its own: see [`FutureExt`].
    ///
    /// # Cancel safety
    /// Dropping it drops what is inside, with the context set: what a `select!` abandons still knows its trace.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless they are polled"]
    pub struct InContext<F> {
        #[pin]
        inner: Option<F>,
        context: Context,
    }

    impl<F> PinnedDrop for InContext<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.inner.is_some() {
                enter(this.context, || this.inner.set(None));
            }
        }
    }
}

impl<F> InContext<F> {
    /// The context that is set while this is polled.
    pub const fn context(&self) -> &Context {
        &self.context
    }
}

impl<F: Future> Future for InContext<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        enter(this.context, || {
            let poll = this.inner.as_mut().as_pin_mut().expect("polled after completion").poll(cx);
            if poll.is_ready() {
                // What the future still holds is dropped inside its context, and not again later.
                this.inner.set(None);
            }
            poll
        })
    }
}

impl<S: Stream> Stream for InContext<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        enter(this.context, || match this.inner.as_pin_mut() {
            Some(inner) => inner.poll_next(cx),
            None => Poll::Ready(None),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.as_ref().map_or((0, Some(0)), Stream::size_hint)
    }
}
