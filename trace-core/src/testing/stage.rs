//! A thread and a runtime of its own for whatever a test talks to: a test may block its only thread (`#[tokio::test]` has
//! one) while the exporter under test waits for an answer.

use std::{io, thread};

use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;

/// Ends, with all that runs on it, when it is dropped.
#[derive(Debug)]
pub(super) struct Stage {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Stage {
    pub(super) fn start(name: &str) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            crate::context::be_quiet();
            // The sender is dropped, never used.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    pub(super) const fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // Its panic, if there was one, has been printed on its own thread.
            let _ = thread.join();
        }
    }
}
