//! Which `tracing` spans are entered on each thread, and what was current before each of them.
//!
//! Spans are mostly exited in the reverse order of their entering, but nothing makes them: two guards in one
//! scope may be dropped in any order, and a span may be entered twice, or on several threads at once. So each
//! thread keeps a list. A span that is taken out of its middle leaves what was current before it to the one that was
//! entered after it, unless scopes or guards lie between the two.

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
pub(crate) fn enter(id: u64, context: Context) {
    // A thread whose locals are gone is in no span.
    let _ = ENTERED.try_with(|entered| {
        entered.borrow_mut().0.push(Entered { id, attached: Attached::new(context) });
    });
}

/// Brings back what was current before a span was entered. Where something else was made current inside the span and is still so,
/// that stays current.
pub(crate) fn exit(id: u64) {
    let exited = ENTERED.try_with(|entered| {
        let Stack(entered) = &mut *entered.borrow_mut();
        let index = entered.iter().rposition(|entered| entered.id == id)?;
        let Entered { attached, .. } = entered.remove(index);
        Some(match entered.get_mut(index) {
            Some(after) => attached.make_way_for(&mut after.attached),
            None => Err(attached),
        })
    });
    // Not while the list is borrowed: a span may end with its context.
    drop(exited);
}

impl Drop for Stack {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}
