use std::pin::pin;
use std::task::{Context as TaskContext, Poll, Waker};

use super::*;
use crate::{SpanId, TraceId};

fn context() -> Context {
    let span_context = SpanContext::new(TraceId::random(), SpanId::random(), TraceFlags::SAMPLED, true);
    Context::from_remote(span_context, TraceState::empty(), Baggage::new())
}

fn current_id() -> Option<SpanId> {
    Context::current().span_context().map(|context| context.span_id())
}

fn id(context: &Context) -> Option<SpanId> {
    context.span_context().map(|context| context.span_id())
}

/// Tells in which context it was dropped.
struct Dropped<'a>(&'a std::cell::Cell<Option<SpanId>>);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        self.0.set(current_id());
    }
}

#[test]
fn a_guard_brings_back_the_context_before_it() {
    let (outer, inner) = (context(), context());
    let outer_guard = outer.clone().attach();
    let inner_guard = inner.clone().attach();
    assert_eq!(current_id(), id(&inner));
    drop(inner_guard);
    assert_eq!(current_id(), id(&outer));
    drop(outer_guard);
    assert_eq!(current_id(), None);
}

#[test]
fn a_scope_is_left_by_a_panic_too() {
    let context = context();
    let caught = std::panic::catch_unwind(|| context.in_scope(|| panic!("in a scope")));
    assert!(caught.is_err());
    assert_eq!(current_id(), None);
}

#[test]
fn a_future_has_its_context_while_it_is_polled_and_no_longer() {
    let context = context();
    let mut polls = 0;
    let future = std::future::poll_fn(|_| {
        assert_eq!(current_id(), id(&context));
        polls += 1;
        if polls == 2 { Poll::Ready(()) } else { Poll::Pending }
    });
    let mut future = pin!(future.in_context(context.clone()));
    let mut cx = TaskContext::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    assert_eq!(current_id(), None);
    assert!(future.as_mut().poll(&mut cx).is_ready());
    assert_eq!(current_id(), None);
}

#[test]
fn what_a_future_holds_is_dropped_in_its_context_done_or_not() {
    let context = context();
    for is_done in [false, true] {
        let seen = std::cell::Cell::new(None);
        let held = Dropped(&seen);
        let future = async move {
            let _held = held;
            if !is_done {
                std::future::pending::<()>().await;
            }
        };
        {
            let mut future = pin!(future.in_context(context.clone()));
            let poll = future.as_mut().poll(&mut TaskContext::from_waker(Waker::noop()));
            assert_eq!(poll.is_ready(), is_done);
        }
        assert_eq!(seen.get(), id(&context), "done: {is_done}");
        assert_eq!(current_id(), None);
    }
}

#[test]
fn a_closure_carries_the_context_to_another_thread() {
    let context = context();
    let job = context.in_scope(|| carry(current_id));
    assert_eq!(std::thread::spawn(job).join().expect("no panic"), id(&context));
    let spawned = context.in_scope(|| spawn_thread(current_id));
    assert_eq!(spawned.join().expect("no panic"), id(&context));
}

#[test]
fn baggage_and_tracestate_are_replaced_one_without_the_other() {
    let state: TraceState = "vendor=1".parse().expect("a valid list");
    let baggage = Baggage::parse_lines(["tenant.id=acme"]);
    let context = context().with_trace_state(state.clone()).with_baggage(baggage.clone());
    assert_eq!((context.trace_state(), context.baggage()), (&state, &baggage));
    let without = context.clone().with_baggage(Baggage::new());
    assert_eq!((without.trace_state(), without.baggage().is_empty()), (&state, true));
    assert_eq!(context.clone().with_trace_state(TraceState::empty()).baggage(), &baggage);
    assert!(Context::new().carried.is_none(), "what is empty takes no memory");
    assert!(without.with_trace_state(TraceState::empty()).carried.is_none());
}

#[test]
fn contexts_and_spans_go_to_other_threads_and_across_panics() {
    const fn goes_anywhere<T: Send + Sync + std::panic::UnwindSafe + 'static>() {}
    goes_anywhere::<Context>();
    goes_anywhere::<crate::Span>();
    goes_anywhere::<InContext<std::future::Ready<()>>>();
    goes_anywhere::<crate::Tracer>();
}

#[test]
fn a_context_is_one_cache_line() {
    assert_eq!(size_of::<Context>(), 64);
}
