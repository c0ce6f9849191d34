use std::pin::pin;
use std::task::{Context as TaskContext, Poll, Waker};

#[cfg(feature = "tracing")]
use proptest::strategy::Strategy as _;

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

#[test]
fn of_what_was_sent_along_only_the_number_is_shown() {
    let trace_state = TraceState::parse_lines(["vendor=opaque,other=hidden"]).unwrap();
    let context =
        context().with_trace_state(trace_state).with_baggage(Baggage::parse_lines(["token=secret,a=b,c=d"]));
    let ids = context.span_context().unwrap();
    let future = std::future::ready(()).in_context(context.clone());
    for shown in [format!("{context:?}"), format!("{future:?}"), format!("{context:#?}")] {
        assert!(shown.contains(&ids.span_id().to_string()), "{shown}");
        assert!(shown.contains("trace_state_members: 2") && shown.contains("baggage_members: 3"), "{shown}");
        for kept_back in ["vendor", "opaque", "hidden", "token", "secret"] {
            assert!(!shown.contains(kept_back), "{shown}");
        }
    }
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
fn a_guard_that_is_dropped_late_leaves_what_is_current() {
    let (first, second, third) = (context(), context(), context());
    let (one, two) = (first.clone().attach(), second.clone().attach());
    drop(one);
    assert_eq!(current_id(), id(&second));
    let three = third.clone().attach();
    drop(two);
    assert_eq!(current_id(), id(&third));
    drop(three);
    assert_eq!(current_id(), None, "what is gone is passed over");
    let guard = first.in_scope(|| second.clone().attach());
    assert_eq!(current_id(), None, "the scope has brought back what was before it");
    third.in_scope(|| {
        drop(guard);
        assert_eq!(current_id(), id(&third));
    });
    assert_eq!(current_id(), None);
}

#[test]
fn what_is_current_when_a_thread_ends_is_not_brought_back_by_its_locals() {
    /// Looks at what is current when the thread takes its locals down, after dropping what it holds.
    struct Local(std::cell::RefCell<Vec<ContextGuard>>);
    impl Drop for Local {
        fn drop(&mut self) {
            self.0.borrow_mut().clear();
            let _ = Context::current();
        }
    }
    thread_local! {
        static LOOKS: Local = const { Local(std::cell::RefCell::new(Vec::new())) };
        static HOLDS: Local = const { Local(std::cell::RefCell::new(Vec::new())) };
    }
    let thread = std::thread::spawn(|| {
        LOOKS.with(|_| {});
        HOLDS.with(|_| {});
        let (one, two) = (context().attach(), context().attach());
        drop(one);
        HOLDS.with(|holds| holds.0.borrow_mut().push(two));
    });
    assert!(thread.join().is_ok());
}

/// What a thread does with contexts.
#[cfg(feature = "tracing")]
#[derive(Clone, Copy, Debug)]
enum Step {
    Attach,
    /// Drops one of the guards.
    Drop(proptest::sample::Index),
    Leak(proptest::sample::Index),
    /// Enters a span of `tracing`.
    EnterSpan,
    /// Exits one of those.
    ExitSpan(proptest::sample::Index),
    /// Does in a scope what comes up to `Leave`.
    Enter,
    Leave,
}

/// What is current: the same said by lists, where nothing is ever freed.
#[cfg(feature = "tracing")]
#[derive(Default)]
struct Model {
    current: Option<usize>,
    /// The context before each.
    before: Vec<Option<usize>>,
    gone: Vec<bool>,
}

#[cfg(feature = "tracing")]
impl Model {
    fn make_current(&mut self) -> usize {
        self.before.push(self.current);
        self.gone.push(false);
        let made = self.before.len() - 1;
        self.current = Some(made);
        made
    }

    fn bring_back(&mut self, mut before: Option<usize>) {
        while let Some(gone) = before.filter(|before| self.gone[*before]) {
            before = self.before[gone];
        }
        self.current = before;
    }

    fn drop(&mut self, guard: usize) {
        self.gone[guard] = true;
        if self.current == Some(guard) {
            self.bring_back(self.before[guard]);
        }
    }
}

/// The contexts that were made, each with memory that tells whether it is still held.
#[cfg(feature = "tracing")]
struct Made {
    contexts: Vec<(SpanId, std::sync::Weak<Carried>)>,
    guards: Vec<(usize, ContextGuard)>,
    /// The spans of `tracing` that are entered.
    entered: Vec<usize>,
    leaked: usize,
    model: Model,
}

#[cfg(feature = "tracing")]
impl Made {
    fn make(&mut self) -> Context {
        let context = context().with_trace_state("made=1".parse().expect("a valid list"));
        let carried = context.carried.as_ref().expect("it is not empty");
        self.contexts.push((id(&context).expect("it has ids"), std::sync::Arc::downgrade(carried)));
        context
    }

    fn exit(&mut self, place: usize) {
        crate::bridge::tracing::entered::exit(place as u64);
        self.model.drop(place);
    }

    fn run(&mut self, steps: &mut std::slice::Iter<'_, Step>) {
        while let Some(step) = steps.next() {
            match step {
                Step::Attach => {
                    let guard = self.make().attach();
                    self.guards.push((self.model.make_current(), guard));
                }
                Step::Drop(index) if !self.guards.is_empty() => {
                    let (place, guard) = self.guards.remove(index.index(self.guards.len()));
                    drop(guard);
                    self.model.drop(place);
                }
                Step::Leak(index) if !self.guards.is_empty() => {
                    let (_, guard) = self.guards.remove(index.index(self.guards.len()));
                    std::mem::forget(guard);
                    self.leaked += 1;
                }
                Step::EnterSpan => {
                    let context = self.make();
                    let place = self.model.make_current();
                    crate::bridge::tracing::entered::enter(place as u64, context);
                    self.entered.push(place);
                }
                Step::ExitSpan(index) if !self.entered.is_empty() => {
                    let place = self.entered.remove(index.index(self.entered.len()));
                    self.exit(place);
                }
                Step::Drop(_) | Step::Leak(_) | Step::ExitSpan(_) => {}
                Step::Enter => {
                    let context = self.make();
                    let place = self.model.make_current();
                    context.in_scope(|| {
                        assert_eq!(current_id(), id(&context));
                        self.run(steps);
                    });
                    let before = self.model.before[place];
                    self.model.bring_back(before);
                }
                Step::Leave => return,
            }
            assert_eq!(current_id(), self.model.current.map(|current| self.contexts[current].0));
        }
    }
}

#[cfg(feature = "tracing")]
proptest::proptest! {
    #[test]
    fn whatever_becomes_of_guards_what_is_current_is_there(
        steps in proptest::collection::vec(
            proptest::prop_oneof![
                4 => proptest::strategy::Just(Step::Attach),
                4 => proptest::prelude::any::<proptest::sample::Index>().prop_map(Step::Drop),
                1 => proptest::prelude::any::<proptest::sample::Index>().prop_map(Step::Leak),
                4 => proptest::strategy::Just(Step::EnterSpan),
                4 => proptest::prelude::any::<proptest::sample::Index>().prop_map(Step::ExitSpan),
                3 => proptest::strategy::Just(Step::Enter),
                3 => proptest::strategy::Just(Step::Leave),
            ],
            0..60,
        ),
    ) {
        // On a thread of its own, which may be left with anything.
        let run = std::thread::spawn(move || {
            let mut made = Made { contexts: Vec::new(), guards: Vec::new(), entered: Vec::new(), leaked: 0, model: Model::default() };
            let mut steps = steps.iter();
            while !steps.as_slice().is_empty() {
                made.run(&mut steps);
            }
            // In the order of their making, which is the wrong one.
            for (place, guard) in made.guards.drain(..) {
                drop(guard);
                made.model.drop(place);
            }
            for place in std::mem::take(&mut made.entered) {
                made.exit(place);
            }
            let current = made.model.current.map(|current| made.contexts[current].0);
            assert_eq!(current_id(), current);
            let held = made.contexts.iter().filter(|(_, carried)| carried.strong_count() > 0).count();
            if current.is_none() {
                assert_eq!(held, made.leaked, "nothing else is held");
            }
            assert!(held >= made.leaked);
        });
        proptest::prop_assert!(run.join().is_ok());
    }
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
