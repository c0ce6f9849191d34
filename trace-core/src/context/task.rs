//! The context carried to where other work is done: tasks, blocking threads, threads, closures.

use tokio::task::JoinHandle;

use super::{Context, FutureExt};

/// [`tokio::spawn`], with the current context.
///
/// # Panics
/// Outside a Tokio runtime, as `tokio::spawn` does.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future.in_current_context())
}

/// [`tokio::task::spawn_blocking`], with the current context.
///
/// # Panics
/// Outside a Tokio runtime, as `tokio::task::spawn_blocking` does.
pub fn spawn_blocking<F, R>(f: F) -> JoinHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    tokio::task::spawn_blocking(carry(f))
}

/// [`std::thread::spawn`], with the current context.
///
/// # Panics
/// When the operating system has no more threads, as `std::thread::spawn` does.
pub fn spawn_thread<F, R>(f: F) -> std::thread::JoinHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    std::thread::spawn(carry(f))
}

/// The same closure, which will run with the context that is current now: for thread pools and callbacks.
///
/// ```
/// use trace_core::carry;
///
/// let job = carry(|| trace_core::span("resize").in_scope(|| { /* ... */ }));
/// # fn hand_to_a_pool(job: impl FnOnce() + Send + 'static) { job() }
/// hand_to_a_pool(job);
/// ```
pub fn carry<F, R>(f: F) -> impl FnOnce() -> R
where
    F: FnOnce() -> R,
{
    let context = Context::current();
    move || context.in_scope(f)
}
