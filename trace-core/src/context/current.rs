//! The current context of each thread.
//!
//! It is set and brought back six times for a request that is served, so it is a pointer: to the context of a span or of a future,
//! which lends it while some of its work is done ([`Entered`]), or to one that a guard has put by ([`Attached`]).
//!
//! Why what it points to is there:
//! - Scopes nest: only this crate makes an [`Entered`], and drops it before all that were there before it, and before the context
//!   that was entered goes. Whatever was current when a scope was entered is brought back when it is left.
//! - A guard may be kept beyond the scope in which it was made, leaked, or dropped in any order. It brings back what was current
//!   before it only where its own context is current. Then every scope is still entered that was so when it was made: one that was
//!   left since has brought back what came before that scope, and nobody brings back what comes after it.
//! - A context whose guard is dropped while another one is current may be what a scope or a guard will bring back. So it stays
//!   where it is, and is passed over by whoever brings it back, until nothing is current on the thread: then no scope is
//!   entered, and no guard's context will be current again.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::{mem, ptr};

use super::Context;
use super::kept::KeptContext;
use crate::Tracer;

thread_local! {
    /// Null where there is none.
    static CURRENT: Cell<*const Context> = const { Cell::new(ptr::null()) };
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

thread_local! {
    /// Whether anything is in `LATE`.
    static IS_LATE: Cell<bool> = const { Cell::new(false) };
}

thread_local! {
    /// The contexts whose guards were dropped while another one was current.
    static LATE: RefCell<Vec<Late>> = const { RefCell::new(Vec::new()) };
}

struct Late {
    context: KeptContext,
    before: *const Context,
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

/// Looks at the current context. Nothing that `f` does may change which it is: `f` is ours, and runs no code of others.
#[inline(always)]
pub(crate) fn with_current<R>(f: impl FnOnce(&Context) -> R) -> R {
    static NONE: Context = Context::new();
    let current = CURRENT.get();
    // SAFETY: what is current is there (see above), and `f` lets nobody change that.
    f(unsafe { current.as_ref() }.unwrap_or(&NONE))
}

/// A context that is current while some of its work is done, until this is dropped, also by a panic.
pub(crate) struct Entered<'a> {
    before: *const Context,
    context: PhantomData<&'a Context>,
}

impl<'a> Entered<'a> {
    /// Makes a context current.
    ///
    /// # Safety
    /// This is dropped before whatever is entered earlier on this thread, and not leaked.
    #[inline(always)]
    pub(crate) unsafe fn new(context: &'a Context) -> Self {
        Self { before: CURRENT.replace(context), context: PhantomData }
    }
}

impl Drop for Entered<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        bring_back(self.before);
    }
}

#[inline(always)]
fn bring_back(before: *const Context) {
    CURRENT.set(before);
    if IS_LATE.get() {
        pass_over();
    }
}

/// Does something in a context.
#[inline(always)]
pub(crate) fn enter<R>(context: &Context, f: impl FnOnce() -> R) -> R {
    // SAFETY: it is dropped when `f` is done, and with it all scopes that are entered in it.
    let _entered = unsafe { Entered::new(context) };
    f()
}

/// A context that is current until this is dropped, unless another one is so then.
#[derive(Debug)]
pub(crate) struct Attached {
    /// None once it is dropped.
    context: Option<KeptContext>,
    before: *const Context,
}

impl Attached {
    pub(crate) fn new(context: Context) -> Self {
        let context = KeptContext::new(context);
        let before = CURRENT.replace(context.get());
        Self { context: Some(context), before }
    }

    /// Drops this, and `after` will bring back what this would.
    #[cfg(feature = "tracing")]
    pub(crate) fn make_way_for(self, after: &mut Self) {
        after.before = self.before;
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let Some(context) = self.context.take() else { return };
        let current = CURRENT.get();
        if current.is_null() {
            return;
        }
        if ptr::eq(current, context.get()) {
            return bring_back(self.before);
        }
        let mut late = Some(Late { context, before: self.before });
        let _ = LATE.try_with(|all| all.borrow_mut().extend(late.take()));
        IS_LATE.set(true);
        // A thread whose locals are gone does nothing more that would take memory.
        mem::forget(late);
    }
}

/// Passes over contexts whose guards are gone, and drops them all where nothing is current.
#[cold]
fn pass_over() {
    let dropped = LATE.try_with(|late| {
        let mut late = late.borrow_mut();
        while let Some(gone) = late.iter().find(|late| ptr::eq(late.context.get(), CURRENT.get())) {
            CURRENT.set(gone.before);
        }
        let is_over = CURRENT.get().is_null();
        IS_LATE.set(!is_over);
        if is_over { mem::take(&mut *late) } else { Vec::new() }
    });
    // Not while the list is borrowed: a span may end with its context.
    drop(dropped);
}

/// Keeps a context current until it is dropped: see [`Context::attach`].
#[derive(Debug)]
pub struct ContextGuard {
    _attached: Attached,
    /// A guard belongs to its thread.
    not_send: PhantomData<*const ()>,
}

impl ContextGuard {
    pub(super) fn new(context: Context) -> Self {
        Self { _attached: Attached::new(context), not_send: PhantomData }
    }
}
