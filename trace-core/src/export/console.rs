//! Traces on standard output, each as a tree, for the developer who looks at them.
//!
//! A trace is printed when its local root has ended: the part of it that happened in this process. Spans that end after
//! their root are printed by themselves. What waits for its root takes bounded memory; beyond it the oldest trace is
//! printed as far as it got.
//!
//! Standard output may be a pipe that nobody reads, so it is written to from a thread that may wait, one batch after the
//! other.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Instant;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::chunk::Frame;
use super::retry::{Attempt, Problem, ProblemKind};
use super::transport::{Parcel, Transport, by, timed_out};
use crate::TraceId;
use crate::otlp::decode::{Scope, decode_span, trace_id_of};
use crate::otlp::{OwnedValue, TraceTree, TreeStyle};

pub(crate) struct Console {
    /// Who makes the spans.
    resource: Arc<Vec<(String, OwnedValue)>>,
    style: TreeStyle,
    out: Out,
    state: Mutex<State>,
}

type Out = Arc<StdMutex<dyn Write + Send>>;

#[derive(Default)]
struct State {
    held: Held,
    /// The text that is being written.
    writing: Option<JoinHandle<io::Result<()>>>,
}

/// The most bytes of encoded spans that wait for their root.
const HELD_BYTES_MAX: usize = 1 << 20;

/// How many printed traces are remembered, to know spans that come late.
const PRINTED_MAX: usize = 256;

impl Console {
    /// On standard output; in colours if it is a terminal, unless `NO_COLOR` is set.
    pub(crate) fn stdout(resource: Vec<(String, OwnedValue)>) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let coloured = io::stdout().is_terminal() && !no_color;
        let style = if coloured { TreeStyle::Ansi } else { TreeStyle::Plain };
        Self::new(resource, style, Arc::new(StdMutex::new(io::stdout())))
    }

    fn new(resource: Vec<(String, OwnedValue)>, style: TreeStyle, out: Out) -> Self {
        Self { resource: Arc::new(resource), style, out, state: Mutex::default() }
    }

    async fn try_attempt(&self, parcel: &mut Parcel, deadline: Instant) -> Result<Attempt, Attempt> {
        let mut state = by(deadline, OUTPUT, self.state.lock()).await?;
        // Nothing is taken while an earlier text waits, or texts would pile up.
        self.wait_for_writing(&mut state, deadline).await?;
        for frame in parcel.spans() {
            state.held.push(frame);
        }
        parcel.arrival.hand_over();
        let finished = state.held.take_finished();
        self.write(&mut state, finished);
        self.wait_for_writing(&mut state, deadline).await?;
        Ok(Attempt::Accepted { rejected: 0, warning: None })
    }

    fn write(&self, state: &mut State, traces: Vec<Trace>) {
        if traces.is_empty() {
            return;
        }
        let (resource, style, out) = (Arc::clone(&self.resource), self.style, Arc::clone(&self.out));
        state.writing = Some(tokio::task::spawn_blocking(move || {
            let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
            for trace in traces {
                // A line of its own between traces, and each in one piece.
                let mut text = String::new();
                let _ = writeln!(text, "{}", trace.tree(&resource).styled(style));
                out.write_all(text.as_bytes())?;
            }
            out.flush()
        }));
    }

    async fn wait_for_writing(&self, state: &mut State, deadline: Instant) -> Result<(), Attempt> {
        let Some(writing) = &mut state.writing else { return Ok(()) };
        let written = by(deadline, OUTPUT, writing).await?;
        state.writing = None;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(refused(&error.to_string())),
            Err(_) => Err(refused("its writer panicked")),
        }
    }

    async fn try_finish(&self, deadline: Instant) -> Result<(), Attempt> {
        let mut state = by(deadline, OUTPUT, self.state.lock()).await?;
        self.wait_for_writing(&mut state, deadline).await?;
        let rest = state.held.take_all();
        self.write(&mut state, rest);
        self.wait_for_writing(&mut state, deadline).await
    }
}

const OUTPUT: &str = "standard output";

fn refused(text: &str) -> Attempt {
    Attempt::Refused(Problem::new(ProblemKind::Output, text))
}

impl Transport for Console {
    fn attempt<'a>(
        &'a self,
        parcel: &'a mut Parcel,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Attempt> + Send + 'a>> {
        Box::pin(async move {
            if parcel.arrival.is_possible() {
                // It was taken, and is still being written.
                return timed_out(OUTPUT);
            }
            self.try_attempt(parcel, deadline).await.unwrap_or_else(|attempt| attempt)
        })
    }

    fn finish(&self, deadline: Instant) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        // Whoever does not read their output does not miss its end.
        Box::pin(async move { drop(self.try_finish(deadline).await) })
    }
}

/// The spans of traces whose root has not ended.
#[derive(Default)]
struct Held {
    traces: HashMap<TraceId, Trace>,
    /// By the arrival of their first span.
    order: VecDeque<TraceId>,
    bytes: usize,
    /// The traces whose root came since they were taken last.
    finished: Vec<TraceId>,
    /// The traces that were printed last.
    printed: VecDeque<TraceId>,
}

/// Spans of one trace, encoded.
struct Trace {
    id: TraceId,
    spans: Vec<Encoded>,
}

struct Encoded {
    span: Box<[u8]>,
    scope: &'static crate::Scope,
}

impl Held {
    fn push(&mut self, frame: Frame<'_>) {
        let span = frame.span();
        let Some(id) = trace_id_of(span) else { return };
        let trace = self.traces.entry(id).or_insert_with(|| {
            self.order.push_back(id);
            Trace { id, spans: Vec::new() }
        });
        trace.spans.push(Encoded { span: span.into(), scope: frame.scope });
        self.bytes += span.len() + size_of::<Encoded>();
        let late = trace.spans.len() == 1 && self.printed.contains(&id);
        if (frame.local_root || late) && !self.finished.contains(&id) {
            self.finished.push(id);
        }
    }

    /// The traces whose root has ended, in the order of that, and the oldest while all take too much memory.
    fn take_finished(&mut self) -> Vec<Trace> {
        let mut taken: Vec<_> =
            std::mem::take(&mut self.finished).into_iter().filter_map(|id| self.take(id)).collect();
        while self.bytes > HELD_BYTES_MAX
            && let Some(id) = self.order.front().copied()
        {
            taken.extend(self.take(id));
        }
        taken
    }

    fn take_all(&mut self) -> Vec<Trace> {
        self.finished.clear();
        let order = std::mem::take(&mut self.order);
        order.into_iter().filter_map(|id| self.take(id)).collect()
    }

    fn take(&mut self, id: TraceId) -> Option<Trace> {
        self.order.retain(|other| *other != id);
        let trace = self.traces.remove(&id)?;
        self.bytes -=
            trace.spans.iter().map(|encoded| encoded.span.len() + size_of::<Encoded>()).sum::<usize>();
        if self.printed.len() == PRINTED_MAX {
            self.printed.pop_front();
        }
        self.printed.push_back(id);
        Some(trace)
    }
}

impl Trace {
    fn tree(&self, resource: &Arc<Vec<(String, OwnedValue)>>) -> TraceTree {
        let spans = self.spans.iter().filter_map(|encoded| {
            let scope = Scope { name: encoded.scope.name(), version: encoded.scope.version() };
            // We encoded it ourselves.
            decode_span(&encoded.span, scope, resource).ok()
        });
        TraceTree::of(self.id, spans)
    }
}

#[cfg(test)]
mod tests;
