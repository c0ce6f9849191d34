//! Where the lines go that the exporter writes about itself: to the program's `tracing` subscriber if it has one, else
//! to standard error; never to both.
//!
//! A subscriber is somebody's code, and standard error may be a pipe that nobody reads. So a line is written on a
//! thread that is there to be held up ([`LineWriter`]): one at a time, so that a reader that hangs takes one thread and no
//! more. Lines that come meanwhile wait, a few of them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::context::be_quiet;

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
pub(crate) struct LineWriter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<Lines>,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    waiting: VecDeque<Line>,
    /// Whether somebody is writing.
    is_busy: bool,
}

/// The most lines that wait. More would be old news by the time they are read.
const WAITING_MAX: usize = 16;

impl LineWriter {
    /// Writes a line, and those that come meanwhile, on a thread of its own; if there is one already, the line is left to
    /// that one.
    pub(crate) fn write(&self, line: Line) {
        self.write_by(line, say);
    }

    fn write_by(&self, line: Line, say: impl Fn(&Line) + Send + 'static) {
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
        let started = thread::Builder::new().name("trace-export".to_owned()).spawn(move || {
            be_quiet();
            while let Some(line) = writer.next() {
                // What a subscriber panics about, its panic hook has said.
                let _ = catch_unwind(AssertUnwindSafe(|| say(&line)));
            }
        });
        if started.is_err() {
            // What waits is written together with the next line, if there is a thread by then.
            self.lock().is_busy = false;
        }
    }

    /// Waits until everything is written, at most for `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        let lines = self.lock();
        // A lock that is poisoned is nobody's fault here, and the lines are not worth more time.
        let _ = self.0.idle.wait_timeout_while(lines, timeout, |lines| lines.is_busy);
    }

    fn next(&self) -> Option<Line> {
        let mut lines = self.lock();
        let line = lines.waiting.pop_front();
        if line.is_none() {
            lines.is_busy = false;
            self.0.idle.notify_all();
        }
        line
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
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
    use std::sync::mpsc;

    use super::*;

    fn line(text: &str) -> Line {
        Line { severity: Severity::Warning, text: text.to_owned(), error_type: None }
    }

    #[test]
    fn one_thread_writes_all_lines_and_only_a_few_wait_for_it() {
        let writer = LineWriter::default();
        let (written, lines) = mpsc::channel();
        let (let_go, gate) = mpsc::channel::<()>();
        // Whoever writes first is held up until the gate's other end is gone.
        let gate = Arc::new(Mutex::new(gate));
        for number in 0..1_000 {
            let (gate, written) = (Arc::clone(&gate), written.clone());
            writer.write_by(line(&number.to_string()), move |line| {
                let _ = gate.lock().unwrap().recv();
                written.send((thread::current().id(), line.text.clone())).unwrap();
            });
        }
        assert!(writer.lock().waiting.len() >= WAITING_MAX - 1);
        writer.wait(Duration::from_millis(1));
        assert!(writer.lock().is_busy, "nobody waits for longer than he wants to");
        drop(let_go);
        writer.wait(Duration::from_secs(60));
        assert!(writer.lock().waiting.is_empty() && !writer.lock().is_busy);
        let lines: Vec<_> = lines.try_iter().collect();
        assert!((WAITING_MAX..=WAITING_MAX + 1).contains(&lines.len()), "{lines:?}");
        assert!(lines.iter().all(|(thread, _)| *thread == lines[0].0), "one thread wrote them all");
        assert_eq!((&*lines[0].1, &*lines[1].1), ("0", "1"), "the cause comes before what follows");
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
