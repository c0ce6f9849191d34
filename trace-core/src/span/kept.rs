//! The context of a span that is not recorded.

use std::cell::RefCell;
use std::mem::ManuallyDrop;

use crate::context::Context;

/// A context behind a pointer, so that its span is as small as one that is recorded. The memory comes from the thread's spares,
/// if there are some, and goes to those of the thread on which the span ends.
pub(super) struct KeptContext {
    context: ManuallyDrop<Box<Context>>,
}

/// The most spares of a thread: more spans than that, one inside the other, are rare.
const SPARES_MAX: usize = 32;

thread_local! {
    /// Empty contexts.
    static SPARES: RefCell<Vec<Box<Context>>> = const { RefCell::new(Vec::new()) };
}

impl KeptContext {
    #[inline]
    pub(super) fn new(context: Context) -> Self {
        // A thread whose locals are gone has none.
        let spare = SPARES.try_with(|spares| spares.borrow_mut().pop()).ok().flatten();
        let context = match spare {
            Some(mut spare) => {
                *spare = context;
                spare
            }
            None => Box::new(context),
        };
        Self { context: ManuallyDrop::new(context) }
    }

    #[inline]
    pub(super) fn get(&self) -> &Context {
        &self.context
    }

    #[inline]
    pub(super) fn get_mut(&mut self) -> &mut Context {
        &mut self.context
    }
}

impl Drop for KeptContext {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: it is taken once, and not looked at again.
        let mut context = unsafe { ManuallyDrop::take(&mut self.context) };
        // What is in it is dropped first: nobody knows what that does, and it may end another span.
        *context = Context::new();
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARES_MAX {
                spares.push(context);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::context::{Baggage, SpanContext, TraceFlags};
    use crate::{SpanId, TraceId};

    fn context() -> Context {
        let mut baggage = Baggage::new();
        baggage.insert("a", "1").unwrap();
        let span = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::NONE, false);
        Context::from_remote(span, crate::context::TraceState::empty(), baggage)
    }

    fn spares() -> usize {
        SPARES.with_borrow(Vec::len)
    }

    #[test]
    fn what_is_kept_is_what_came_and_its_memory_is_used_again() {
        for _ in 0..3 {
            let here = context();
            let kept = KeptContext::new(here.clone());
            assert_eq!(kept.get().span_context(), here.span_context());
            assert_eq!(kept.get().baggage(), here.baggage());
            drop(kept);
            assert_eq!(spares(), 1);
            assert!(SPARES.with_borrow(|spares| spares[0].baggage().is_empty()), "nothing stays in it");
        }
    }

    #[test]
    fn a_thread_keeps_a_bounded_number() {
        let kept: Vec<_> = (0..3 * SPARES_MAX).map(|_| KeptContext::new(context())).collect();
        thread::spawn(move || {
            drop(kept);
            assert_eq!(spares(), SPARES_MAX);
        })
        .join()
        .unwrap();
        assert_eq!(spares(), 0);
    }
}
