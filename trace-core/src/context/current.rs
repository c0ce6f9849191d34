//! The current context of each thread.
//!
//! It is set and brought back six times for a request that is served, so it is a pointer: to the context of a span or of a future,
//! which lends it while some of its work is done ([`Entered`]), or to one that a guard has put by ([`Attached`]).
//!
//! Why what it points to is there:
//! - Scopes nest: only [`enter`] makes an [`Entered`], and drops it before all that were there before it, and before the context
//!   that was entered goes. Whatever was current when a scope was entered is brought back when it is left.
//! - A guard may be kept beyond the scope in which it was made, leaked, or dropped in any order. It brings back what was current
//!   before it only where its own context is current. Then every scope is still entered that was so when it was made: one that was
//!   left since has brought back what came before that scope, and nobody brings back what comes after it.
//! - A context whose guard is dropped while another one is current may be what a scope or a guard will bring back. So it stays
//!   where it is, and is passed over by whoever brings it back, until nothing is current on the thread: then no scope is
//!   entered, and no guard's context will be current again.
//! - Where it is certain that one other guard, and nobody else, would bring it back, it goes at once, and that guard brings back
//!   what came before it: so spans of `tracing` that are exited in another order than they were entered do not pile up.

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
    static LATE: RefCell<AllLate> = const { RefCell::new(AllLate(Vec::new())) };
}

/// The contexts whose guards were dropped while another one was current.
struct AllLate(Vec<Late>);

struct Late {
    context: KeptContext,
    before: *const Context,
}

impl Drop for AllLate {
    fn drop(&mut self) {
        // The thread ends. There is no scope to return to, and guards that other locals hold may bring back none of these.
        CURRENT.set(ptr::null());
        IS_LATE.set(false);
    }
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

/// Looks at the current context. Nothing that `f` does may change which it is for as long as `f` looks at it: `f` is ours, and runs
/// no code of others, such as an allocator's, before it is done with the context.
#[inline(always)]
pub(crate) fn with_current<R>(f: impl FnOnce(&Context) -> R) -> R {
    static NONE: Context = Context::new();
    let current = CURRENT.get();
    // SAFETY: what is current is there (see above), and `f` lets nobody change that.
    f(unsafe { current.as_ref() }.unwrap_or(&NONE))
}

/// A context that is current while some of its work is done, until this is dropped, also by a panic.
struct Entered<'a> {
    before: *const Context,
    context: PhantomData<&'a Context>,
}

impl<'a> Entered<'a> {
    /// Makes a context current.
    ///
    /// # Safety
    /// This is dropped before whatever is entered earlier on this thread, and not leaked.
    #[inline(always)]
    unsafe fn new(context: &'a Context) -> Self {
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

    /// Drops this, as far as it can be: what is left is to be dropped where nothing is borrowed.
    ///
    /// If `after` became current when this was so, it will bring back what this would, and nobody else brings this one back.
    #[cfg(feature = "tracing")]
    pub(crate) fn make_way_for(mut self, after: &mut Self) -> Result<KeptContext, Self> {
        let own = self.context.as_ref().map_or(ptr::null(), |context| ptr::from_ref(context.get()));
        if after.before != own || CURRENT.get() == own {
            return Err(self);
        }
        after.before = self.before;
        self.context.take().ok_or(self)
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
        let _ = LATE.try_with(|all| {
            if let Ok(mut all) = all.try_borrow_mut() {
                all.0.extend(late.take());
                IS_LATE.set(true);
            }
        });
        // Left over where the thread's locals are gone, or where an allocator comes here from `extend`.
        mem::forget(late);
    }
}

/// Passes over contexts whose guards are gone, and drops them all where nothing is current.
#[cold]
fn pass_over() {
    let dropped = LATE.try_with(|late| {
        let Ok(mut late) = late.try_borrow_mut() else { return Vec::new() };
        while let Some(gone) = late.0.iter().find(|late| ptr::eq(late.context.get(), CURRENT.get())) {
            CURRENT.set(gone.before);
        }
        let is_over = CURRENT.get().is_null();
        IS_LATE.set(!is_over);
        if is_over { mem::take(&mut late.0) } else { Vec::new() }
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
