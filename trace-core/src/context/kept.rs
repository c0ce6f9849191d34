//! Contexts that stay where they are, whoever has them.

use std::cell::UnsafeCell;
use std::fmt;
use std::mem;
use std::ptr::{self, NonNull};

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
}

/// The spares of a thread.
struct Spares {
    first: Option<Box<Place>>,
    count: usize,
}

/// The most spares of a thread: more spans than that, one inside the other, are rare.
const SPARES_MAX: usize = 32;

thread_local! {
    static SPARES: UnsafeCell<Spares> = const { UnsafeCell::new(Spares { first: None, count: 0 }) };
}

/// Looks at the thread's spares; `None` where its locals are gone.
#[inline(always)]
fn with_spares<R>(f: impl FnOnce(&mut Spares) -> R) -> Option<R> {
    // SAFETY: the spares are this thread's, and `f`, of which there are two, below, runs no code that comes here again.
    SPARES.try_with(|spares| f(unsafe { &mut *spares.get() })).ok()
}

/// Puts something where there is nothing, which the compiler would make sure of by a call.
#[inline(always)]
fn put(place: &mut Option<Box<Place>>, with: Option<Box<Place>>) {
    let before = mem::replace(place, with);
    debug_assert!(before.is_none());
    mem::forget(before);
}

impl KeptContext {
    #[inline(always)]
    pub(crate) fn new(context: Context) -> Self {
        let spare = with_spares(|spares| {
            let mut first = spares.first.take()?;
            put(&mut spares.first, first.next.take());
            spares.count -= 1;
            Some(first)
        });
        let place = match spare.flatten() {
            Some(mut spare) => {
                // SAFETY: what is written over holds nothing.
                unsafe { ptr::write(&raw mut spare.context, context) };
                spare
            }
            None => Box::new(Place { context, next: None }),
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
        if place.context.recording.is_some() {
            place.context.recording = None;
        }
        let mut place = Some(place);
        with_spares(|spares| {
            if spares.count < SPARES_MAX
                && let Some(mut place) = place.take()
            {
                put(&mut place.next, spares.first.take());
                put(&mut spares.first, Some(place));
                spares.count += 1;
            }
        });
        // One too many is freed here, and not while the spares are looked at: allocators run code too.
    }
}

impl fmt::Debug for KeptContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
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
        let counted = with_spares(|spares| {
            let mut places = 0;
            let mut place = spares.first.as_deref();
            while let Some(spare) = place {
                assert!(spare.context.carried.is_none(), "nothing stays in a spare");
                places += 1;
                place = spare.next.as_deref();
            }
            assert_eq!(places, spares.count);
            places
        });
        counted.unwrap()
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
