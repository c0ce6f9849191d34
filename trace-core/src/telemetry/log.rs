//! Where the lines go that the exporter writes about itself: to the program's `tracing` subscriber if it has one, else
//! to standard error; never to both.
//!
//! A subscriber is somebody's code, and standard error may be a pipe that nobody reads. So a line is written on a
//! thread that is there to be held up ([`LineWriter`]): one at a time, so that a reader that hangs takes one thread, and
//! no name is left unresolved for want of one. Lines that come meanwhile wait, a few of them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A line for whoever runs the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) severity: Severity,
    /// Without control characters.
    pub(crate) text: String,
    /// What it is about, as metrics name it.
    pub(crate) error_type: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Nothing is lost yet.
    Warning,
    /// Spans are lost.
    Error,
}

/// The lines that are waiting to be written.
#[derive(Clone, Debug, Default)]
pub(crate) struct LineWriter(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    waiting: VecDeque<Line>,
    /// Whether somebody is writing.
    is_busy: bool,
}

/// The most lines that wait. More would be old news by the time they are read.
const WAITING_MAX: usize = 16;

impl LineWriter {
    /// Writes a line, and those that came meanwhile, on a thread that `spawn` finds; if another one is at it, the line
    /// is left to that one.
    pub(crate) fn write(&self, line: Line, spawn: impl FnOnce(Box<dyn FnOnce() + Send>)) {
        {
            let mut lines = self.lock();
            if lines.waiting.len() < WAITING_MAX {
                lines.waiting.push_back(line);
            }
            if std::mem::replace(&mut lines.is_busy, true) {
                return;
            }
        }
        let writer = self.clone();
        spawn(Box::new(move || writer.write_all()));
    }

    fn write_all(&self) {
        while let Some(line) = self.next() {
            // What a subscriber panics about, its panic hook has said.
            let _ = catch_unwind(AssertUnwindSafe(|| say(&line)));
        }
    }

    fn next(&self) -> Option<Line> {
        let mut lines = self.lock();
        let line = lines.waiting.pop_front();
        lines.is_busy = line.is_some();
        line
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a line where it belongs.
///
/// # Blocking
/// As long as a subscriber likes, or whoever reads standard error.
pub(crate) fn say(line: &Line) {
    if !subscriber::tell(line) {
        // There is nobody to tell that standard error is closed; `eprintln` would panic there.
        let _ = writeln!(io::stderr(), "trace-core: {}", line.text);
    }
}

#[cfg(feature = "tracing")]
mod subscriber {
    use ::tracing::subscriber::NoSubscriber;
    use ::tracing::{dispatcher, error, warn};

    use super::{Line, Severity};

    /// Tells the subscriber of this thread, or that of the program; `false` if there is none. One that filters the line
    /// out has been told.
    pub(super) fn tell(line: &Line) -> bool {
        if dispatcher::get_default(|dispatch| dispatch.is::<NoSubscriber>()) {
            return false;
        }
        let error_type = line.error_type.as_deref();
        match line.severity {
            Severity::Warning => warn!(target: "trace_core", { "error.type" = error_type }, "{}", line.text),
            Severity::Error => error!(target: "trace_core", { "error.type" = error_type }, "{}", line.text),
        }
        true
    }
}

#[cfg(not(feature = "tracing"))]
mod subscriber {
    use super::Line;

    /// This build knows of no subscriber.
    pub(super) fn tell(_: &Line) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn line(text: &str) -> Line {
        Line { severity: Severity::Warning, text: text.to_owned(), error_type: None }
    }

    #[test]
    fn one_thread_writes_all_lines_and_only_a_few_wait_for_it() {
        let writer = LineWriter::default();
        let spawned = RefCell::new(Vec::new());
        for _ in 0..1_000 {
            writer.write(line("held up"), |work| spawned.borrow_mut().push(work));
        }
        assert_eq!(spawned.borrow().len(), 1, "the others are left to the one that writes");
        assert_eq!(writer.lock().waiting.len(), WAITING_MAX);
        // What is written here goes to standard error, or to the subscriber of this thread.
        spawned.take().into_iter().for_each(|work| work());
        assert!(writer.lock().waiting.is_empty() && !writer.lock().is_busy);
        let again = Cell::new(false);
        writer.write(line("once more"), |_| again.set(true));
        assert!(again.get(), "the next line finds a thread again");
    }

    #[cfg(feature = "tracing")]
    #[test]
    fn a_subscriber_is_told_at_the_level_and_with_the_fields_of_the_line_and_nobody_else() {
        use std::fmt::{self, Write};
        use std::sync::{Arc, Mutex};

        use ::tracing::field::{Field, Visit};
        use ::tracing::{Event, Subscriber};
        use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

        #[derive(Clone, Default)]
        struct Told(Arc<Mutex<String>>);

        struct Fields<'a>(&'a mut String);

        impl Visit for Fields<'_> {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                write!(self.0, " {}={value:?}", field.name()).unwrap();
            }
        }

        impl<S: Subscriber> Layer<S> for Told {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                let mut told = self.0.lock().unwrap();
                write!(told, "{} {}", event.metadata().level(), event.metadata().target()).unwrap();
                event.record(&mut Fields(&mut told));
            }
        }

        let told = Told::default();
        let subscriber = tracing_subscriber::registry().with(told.clone());
        let line = Line {
            severity: Severity::Error,
            text: "the collector answered 503".to_owned(),
            error_type: Some("503".to_owned()),
        };
        assert!(::tracing::subscriber::with_default(subscriber, || subscriber::tell(&line)));
        let text = told.0.lock().unwrap().clone();
        assert!(text.starts_with("ERROR trace_core "), "{text}");
        assert!(text.contains("message=the collector answered 503"), "{text}");
        assert!(text.contains("error.type=\"503\""), "{text}");
        let nobody = ::tracing::subscriber::NoSubscriber::default();
        assert!(!::tracing::subscriber::with_default(nobody, || subscriber::tell(&line)));
    }
}
