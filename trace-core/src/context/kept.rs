//! Contexts that stay where they are, whoever has them.

use std::cell::Cell;
use std::fmt;
use std::mem;
use std::ptr::NonNull;

use super::Context;

/// A context behind a pointer, which does not move with this. The memory comes from the thread's spares, if there are some, and
/// goes to those of the thread on which this is dropped.
pub(crate) struct KeptContext {
    place: NonNull<Place>,
}

// SAFETY: this is a box of a context, which is `Send`; the other spares are only there while it is one itself.
unsafe impl Send for KeptContext {}
// SAFETY: as above; a context is `Sync`.
unsafe impl Sync for KeptContext {}

/// A context, or a spare of a thread.
struct Place {
    /// It holds nothing that is to be dropped while it is a spare.
    context: Context,
    /// The other spares.
    next: Option<Box<Self>>,
    /// How many these are.
    others: usize,
}

/// The most spares of a thread: more spans than that, one inside the other, are rare.
const SPARES_MAX: usize = 32;

thread_local! {
    static SPARES: Cell<Option<Box<Place>>> = const { Cell::new(None) };
}

impl KeptContext {
    #[inline(always)]
    pub(crate) fn new(context: Context) -> Self {
        // A thread whose locals are gone has no spares.
        let spare = SPARES.try_with(|spares| {
            let mut first = spares.take()?;
            replace_none(spares, first.next.take());
            Some(first)
        });
        let place = match spare.ok().flatten() {
            Some(mut spare) => {
                spare.context = context;
                spare
            }
            None => Box::new(Place { context, next: None, others: 0 }),
        };
        Self { place: NonNull::from(Box::leak(place)) }
    }

    #[inline]
    pub(crate) const fn get(&self) -> &Context {
        // SAFETY: the place is this one's alone, and written to by nobody else.
        unsafe { &self.place.as_ref().context }
    }
}

impl Drop for KeptContext {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: it came from a box in `new`, and is not looked at again.
        let mut place = unsafe { Box::from_raw(self.place.as_ptr()) };
        // What is in it is dropped first: nobody knows what that does, and it may end another span.
        place.context.carried = None;
        place.context.recording = None;
        let _ = SPARES.try_with(|spares| {
            let rest = spares.take();
            place.others = rest.as_ref().map_or(0, |first| first.others + 1);
            if place.others < SPARES_MAX {
                mem::forget(mem::replace(&mut place.next, rest));
                replace_none(spares, Some(place));
            } else {
                replace_none(spares, rest);
            }
        });
    }
}

impl fmt::Debug for KeptContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// Puts something where there is nothing, which the compiler would make sure of by a call.
#[inline(always)]
fn replace_none(spares: &Cell<Option<Box<Place>>>, with: Option<Box<Place>>) {
    let before = spares.replace(with);
    debug_assert!(before.is_none());
    mem::forget(before);
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::context::{Baggage, SpanContext, TraceFlags, TraceState};
    use crate::{SpanId, TraceId};

    fn context() -> Context {
        let mut baggage = Baggage::new();
        baggage.insert("a", "1").unwrap();
        let span = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::NONE, false);
        Context::from_remote(span, TraceState::empty(), baggage)
    }

    fn spares() -> usize {
        SPARES.with(|spares| {
            let rest = spares.take();
            let count = rest.as_ref().map_or(0, |first| first.others + 1);
            let mut place = rest.as_deref();
            for _ in 0..count {
                let spare = place.expect("as many as are counted");
                assert!(spare.context.carried.is_none(), "nothing stays in a spare");
                place = spare.next.as_deref();
            }
            assert!(place.is_none(), "as many as are counted");
            spares.set(rest);
            count
        })
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
