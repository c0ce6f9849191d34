//! Which `tracing` spans are entered on each thread, and what was current before each of them.
//!
//! Spans are mostly exited in the reverse order of their entering, but nothing makes them: two guards in one
//! scope may be dropped in any order, and a span may be entered twice, or on several threads at once. So each
//! thread keeps a list; taking a span out of its middle gives what was current before it to the one that was
//! entered after it.

use std::cell::RefCell;

use crate::context::{Attached, Context};

thread_local! {
    static ENTERED: RefCell<Stack> = const { RefCell::new(Stack(Vec::new())) };
}

/// The last one is the innermost.
struct Stack(Vec<Entered>);

struct Entered {
    id: u64,
    attached: Attached,
}

/// Makes the context of a span current.
pub(super) fn enter(id: u64, context: Context) {
    // A thread whose locals are gone is in no span.
    let _ = ENTERED.try_with(|entered| {
        entered.borrow_mut().0.push(Entered { id, attached: Attached::new(context) });
    });
}

/// Brings back what was current before a span was entered. Where a scope of another kind was opened inside the span and outlives
/// it, that stays current.
pub(super) fn exit(id: u64) {
    let exited = ENTERED.try_with(|entered| {
        let Stack(entered) = &mut *entered.borrow_mut();
        let index = entered.iter().rposition(|entered| entered.id == id)?;
        let exited = entered.remove(index);
        match entered.get_mut(index) {
            Some(after) => {
                exited.attached.make_way_for(&mut after.attached);
                None
            }
            None => Some(exited),
        }
    });
    // Not while the stack is borrowed: a span may end with its context.
    drop(exited);
}

impl Drop for Stack {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}
