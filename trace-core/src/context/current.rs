//! The current context of each thread.
//!
//! It is exchanged six times for a request that is served, so that a borrow that is counted would be half of the work.

use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::{mem, ptr};

use super::Context;
use crate::Tracer;

thread_local! {
    static CURRENT: UnsafeCell<Context> = const { UnsafeCell::new(Context::new()) };
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// From now on no span is recorded that this thread starts, whoever starts it, by whatever tracer, below whatever
/// context.
///
/// It is for threads that work for the exporter: a span made of what is done to send spans would have to be sent too. A
/// context that records nothing is not enough there. It is current as well, for what looks at contexts alone; but a
/// program's own code may run on these threads (a subscriber of logs, a panic hook, an allocator), and that code may
/// have a tracer or a context in its hands.
pub(crate) fn be_quiet() {
    QUIET.set(true);
    let context = Context { tracer: Some(Tracer::disabled()), ..Context::new() };
    // For as long as the thread lives.
    mem::forget(context.attach());
}

/// Whether nothing is recorded on this thread: see [`be_quiet`].
#[inline]
pub(crate) fn is_quiet() -> bool {
    QUIET.get()
}

/// Looks at the current context. Nothing that `f` does may change it: `f` is ours, and runs no code of others.
#[inline]
pub(crate) fn with_current<R>(f: impl FnOnce(&Context) -> R) -> R {
    let mut f = Some(f);
    let result = CURRENT.try_with(|current| {
        let f = f.take().expect("it is called once");
        // SAFETY: the context is this thread's, and is written by nothing but `swap`, which `f` does not call.
        f(unsafe { &*current.get() })
    });
    match (result, f) {
        (Ok(result), _) => result,
        // A thread whose locals are gone is in no trace.
        (Err(_), Some(f)) => f(&Context::new()),
        (Err(_), None) => unreachable!("where there are no locals, nothing was called"),
    }
}

/// Exchanges a context with the current one.
#[inline]
pub(crate) fn swap(context: &mut Context) {
    // Without thread-locals there is nothing to set, and nothing that would look at it.
    let _ = CURRENT.try_with(|current| {
        let current = current.get();
        // SAFETY: the context is this thread's, and whoever looks at it is done (`with_current`); the two are different
        // places, because nobody has a reference to the current one; each value is read and written once. Not by
        // `mem::swap`, which would go word by word.
        unsafe {
            let before = ptr::read(current);
            ptr::write(current, ptr::read(context));
            ptr::write(context, before);
        }
    });
}

/// Makes a context current and returns the one before.
pub(crate) fn replace(mut context: Context) -> Context {
    swap(&mut context);
    context
}

/// A context that changed places with the current one, until this is dropped, also by a panic.
pub(crate) struct Entered<'a>(&'a mut Context);

impl<'a> Entered<'a> {
    #[inline]
    pub(crate) fn new(context: &'a mut Context) -> Self {
        swap(context);
        Self(context)
    }
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        swap(self.0);
    }
}

/// Keeps a context current until it is dropped: see [`Context::attach`].
#[derive(Debug)]
pub struct ContextGuard {
    before: Context,
    /// A guard belongs to its thread.
    not_send: PhantomData<*const ()>,
}

impl ContextGuard {
    pub(super) fn new(context: Context) -> Self {
        Self { before: replace(context), not_send: PhantomData }
    }
}

impl Drop for ContextGuard {
    fn drop(&mut self) {
        replace(mem::take(&mut self.before));
    }
}
