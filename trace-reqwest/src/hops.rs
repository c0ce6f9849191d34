//! The hops of a call: each is sent when the one before is over, and has the call's extensions meanwhile.
//!
//! A future made by `async` would do that without a line of this file, but keep the request until it is polled: some 260 bytes that
//! are moved into it and out again, just after they were written.

use std::marker::PhantomData;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{self, Poll};

use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::{Next, Result};

use crate::middleware::{Attempt, BoxFuture, Sending};

/// A hop under way.
pub(crate) enum Sent<'a> {
    Traced(Attempt<'a>),
    /// Somebody below makes the span.
    Untraced(BoxFuture<'a, Result<Response>>),
}

impl<'a> Sent<'a> {
    /// Sends a request, in a span that was started for it.
    #[inline(always)]
    fn new(span: Option<Sending>, request: Request, extensions: &'a mut Extensions, next: Next<'a>) -> Self {
        match span {
            Some(span) => Self::Traced(span.run(request, extensions, next)),
            None => Self::Untraced(next.run(request, extensions)),
        }
    }
}

/// The hop under way, and what the next one will need.
pub(crate) struct Hops<'a> {
    /// It may hold the extensions, which are not to be touched before it is gone.
    now: Option<Sent<'a>>,
    extensions: Lender<'a>,
    next: Next<'a>,
}

/// Who lends a call's extensions.
struct Lender<'a>(NonNull<Extensions>, PhantomData<&'a mut Extensions>);

// SAFETY: it stands for a `&mut Extensions`, which can be sent, as the function below says.
unsafe impl Send for Lender<'_> {}
const _: fn() = || {
    fn can_be_sent<T: Send>() {}
    can_be_sent::<&mut Extensions>();
};

impl<'a> Lender<'a> {
    /// # Safety
    /// What was lent before is gone.
    #[inline(always)]
    unsafe fn lend(&mut self) -> &'a mut Extensions {
        // SAFETY: this was made from a `&'a mut`, and is the only way to it that is left, but for what was lent.
        unsafe { self.0.as_mut() }
    }
}

impl<'a> Hops<'a> {
    /// Sends the first hop.
    #[inline(always)]
    pub(crate) fn first(
        span: Option<Sending>,
        request: Request,
        extensions: &'a mut Extensions,
        next: Next<'a>,
    ) -> Self {
        let mut extensions = Lender(NonNull::from(extensions), PhantomData);
        // SAFETY: nothing was lent so far.
        let lent = unsafe { extensions.lend() };
        Self { now: Some(Sent::new(span, request, lent, next.clone())), extensions, next }
    }

    /// Sends another hop; the one before is dropped.
    pub(crate) fn then(&mut self, span: Option<Sending>, request: Request) {
        self.now = None;
        // SAFETY: what was lent before is gone with the hop that had it. It was given to `Next::run`, which does with any lifetime
        // and so can put it nowhere but into what it returned, and what came out of that, be it a panic, is `'static`.
        let lent = unsafe { self.extensions.lend() };
        self.now = Some(Sent::new(span, request, lent, self.next.clone()));
    }

    /// The extensions, between two hops; the one before is dropped.
    pub(crate) fn extensions(&mut self) -> &mut Extensions {
        self.now = None;
        // SAFETY: as in `then`, and for no longer than this is borrowed.
        unsafe { self.extensions.lend() }
    }

    /// Polls the hop under way.
    #[inline(always)]
    pub(crate) fn poll(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<Response>> {
        match self.now.as_mut().expect("polled after completion") {
            Sent::Traced(hop) => Pin::new(hop).poll(cx),
            Sent::Untraced(hop) => hop.as_mut().poll(cx),
        }
    }
}
