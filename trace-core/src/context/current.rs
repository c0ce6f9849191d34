//! The current context of each thread.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::mem;

use super::Context;

thread_local! {
    static CURRENT: RefCell<Context> = const { RefCell::new(Context::new()) };
}

/// Looks at the current context. Nothing that `f` does may change it: `f` is ours.
#[inline]
pub(crate) fn with_current<R>(f: impl FnOnce(&Context) -> R) -> R {
    let mut f = Some(f);
    let mut result = None;
    let _ = CURRENT.try_with(|current| {
        if let (Ok(current), Some(f)) = (current.try_borrow(), f.take()) {
            result = Some(f(&current));
        }
    });
    match (result, f) {
        (Some(result), _) => result,
        // A thread whose locals are gone is in no trace.
        (None, Some(f)) => f(&Context::new()),
        (None, None) => unreachable!("`f` is taken to make the result"),
    }
}

/// Exchanges a context with the current one.
#[inline]
pub(crate) fn swap(context: &mut Context) {
    // Without thread-locals there is nothing to set, and nothing that would look at it.
    let _ = CURRENT.try_with(|current| {
        if let Ok(mut current) = current.try_borrow_mut() {
            mem::swap(&mut *current, context);
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
