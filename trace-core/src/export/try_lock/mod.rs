//! A lock that is only ever tried: taken by one exchange, given back by one store.
//!
//! A mutex has to know whether somebody sleeps for it, so that giving it back is an exchange too, which takes as long as
//! writing the attributes of a span. Nobody ever sleeps for this one.

mod lock;
#[cfg(test)]
mod model;
mod sync;
#[cfg(test)]
mod tests;

pub(super) use lock::{TryLock, TryLockGuard};
