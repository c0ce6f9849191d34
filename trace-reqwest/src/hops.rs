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
        let call = next.run(request, extensions);
        match span {
            Some(span) => Self::Traced(span.run(call)),
            None => Self::Untraced(call),
        }
    }
}

/// The hop under way, and what the next one will need.
pub(crate) struct Hops<'a> {
    /// It may hold the extensions, which are not to be touched before it is gone.
    now: Option<Sent<'a>>,
    extensions: NonNull<Extensions>,
    lender: PhantomData<&'a mut Extensions>,
    next: Next<'a>,
}

// SAFETY: all but the pointer can be sent by itself, and the pointer stands for a `&mut Extensions`, which can be sent too.
unsafe impl Send for Hops<'_> {}
const _: fn() = || {
    fn can_be_sent<T: Send>() {}
    can_be_sent::<(Option<Sent<'_>>, &mut Extensions, Next<'_>)>();
};

impl<'a> Hops<'a> {
    /// Sends the first hop.
    #[inline(always)]
    pub(crate) fn first(
        span: Option<Sending>,
        request: Request,
        extensions: &'a mut Extensions,
        next: Next<'a>,
    ) -> Self {
        let mut extensions = NonNull::from(extensions);
        // SAFETY: this is the `&'a mut` that was given, which nobody else has; see `Self::now` for how long it is lent.
        let lent = unsafe { extensions.as_mut() };
        let now = Some(Sent::new(span, request, lent, next.clone()));
        Self { now, extensions, lender: PhantomData, next }
    }

    /// Sends another hop; the one before is dropped.
    pub(crate) fn then(&mut self, span: Option<Sending>, request: Request) {
        self.now = None;
        // SAFETY: what was lent before is gone with the hop that had it: it could be put nowhere else, because `Next::run` does with
        // any lifetime.
        let lent = unsafe { self.extensions.as_mut() };
        self.now = Some(Sent::new(span, request, lent, self.next.clone()));
    }

    /// The extensions, between two hops; the one before is dropped.
    pub(crate) fn extensions(&mut self) -> &mut Extensions {
        self.now = None;
        // SAFETY: as in `then`, and for no longer than this is borrowed.
        unsafe { self.extensions.as_mut() }
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
