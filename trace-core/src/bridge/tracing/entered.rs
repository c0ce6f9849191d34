//! Which `tracing` spans are entered on each thread, and what was current before each of them.
//!
//! Spans are mostly exited in the reverse order of their entering, but nothing makes them: two guards in one
//! scope may be dropped in any order, and a span may be entered twice, or on several threads at once. So each
//! thread keeps a list; taking a span out of its middle gives what was current before it to the one that was
//! entered after it.

use std::cell::RefCell;

use crate::SpanContext;
use crate::context::{Context, replace, with_current};

thread_local! {
    static ENTERED: RefCell<Vec<Entered>> = const { RefCell::new(Vec::new()) };
}

struct Entered {
    id: u64,
    span_context: Option<SpanContext>,
    before: Context,
}

/// Makes the context of a span current.
pub(super) fn enter(id: u64, context: Context) {
    // A thread whose locals are gone is in no span.
    let _ = ENTERED.try_with(|entered| {
        let span_context = context.span_context();
        let before = replace(context);
        entered.borrow_mut().push(Entered { id, span_context, before });
    });
}

/// Brings back what was current before a span was entered, as far as nothing else became current meanwhile.
pub(super) fn exit(id: u64) {
    let _ = ENTERED.try_with(|entered| {
        let mut entered = entered.borrow_mut();
        let Some(index) = entered.iter().rposition(|entered| entered.id == id) else { return };
        let Entered { span_context, before, .. } = entered.remove(index);
        match entered.get_mut(index) {
            Some(after) => after.before = before,
            None if with_current(|current| current.span_context() == span_context) => {
                replace(before);
            }
            // A scope of another kind was opened inside the span and outlives it: it stays current.
            None => {}
        }
    });
}
