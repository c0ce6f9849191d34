use std::time::Duration;

use super::*;
use crate::export::batch::{Batch, BatchLimits, Lease, Part, Waiting};
use crate::export::chunk::Chunk;
use crate::export::fixture::{SCOPE, queue};
use crate::export::message::Arrival;
use crate::export::transport::Content;
use crate::otlp::sample;
use crate::{SpanId, SpanKind};
use prost::Message;

/// A span with this name, of the trace and with the parent of these numbers.
fn encoded(trace: u128, span: u64, parent: u64, name: &str) -> Vec<u8> {
    let mut data = sample::plain_span(name);
    data.trace_id = TraceId::from_u128(trace).unwrap();
    data.span_id = SpanId::from_u64(span).unwrap();
    data.parent_span_id = SpanId::from_u64(parent);
    data.kind = SpanKind::Server;
    sample::to_span(&data).encode_to_vec()
}

fn batch(spans: &[(Vec<u8>, bool)]) -> Batch {
    let mut waiting = Waiting::new(BatchLimits { bytes_max: usize::MAX, spans_max: usize::MAX });
    let mut chunk = Chunk::new();
    for (span, local_root) in spans {
        if !chunk.push(span, &SCOPE, *local_root) {
            waiting.push(Part::whole(Lease::new(queue(), std::mem::replace(&mut chunk, Chunk::new()))));
            assert!(chunk.push(span, &SCOPE, *local_root));
        }
    }
    waiting.push(Part::whole(Lease::new(queue(), chunk)));
    waiting.take_batch().unwrap()
}

fn content(spans: &[(Vec<u8>, bool)]) -> Content {
    Content::Spans(Arc::new(batch(spans)))
}

fn resource() -> Vec<(String, OwnedValue)> {
    vec![("service.name".to_owned(), "orders".into())]
}

/// The names of the spans in each trace, as they were taken.
fn names(traces: Vec<Trace>) -> Vec<Vec<String>> {
    let names = |trace: &Trace| {
        let tree = trace.tree(&Arc::new(resource()));
        tree.spans().iter().map(|span| span.name.clone()).collect()
    };
    traces.iter().map(names).collect()
}

#[test]
fn a_trace_is_whole_when_its_local_root_has_ended() {
    let mut held = Held::default();
    let push =
        |held: &mut Held, spans: &[(Vec<u8>, bool)]| batch(spans).spans().for_each(|frame| held.push(frame));
    push(&mut held, &[(encoded(1, 2, 1, "child"), false), (encoded(2, 2, 1, "other"), false)]);
    assert_eq!(names(held.take_finished()), [[""; 0]; 0]);
    push(&mut held, &[(encoded(1, 1, 9, "root"), true)]);
    assert_eq!(names(held.take_finished()), [["child", "root"]]);
    // What comes after its root is not held back.
    push(&mut held, &[(encoded(1, 3, 1, "late"), false)]);
    assert_eq!(names(held.take_finished()), [["late"]]);
    assert_eq!(names(held.take_all()), [["other"]]);
    assert_eq!(held.bytes, 0);
}

#[test]
fn traces_that_wait_for_their_root_take_bounded_memory() {
    let mut held = Held::default();
    let mut taken = 0;
    for trace in 1..20_000 {
        batch(&[(encoded(trace, 1, 9, "endless"), false)]).spans().for_each(|frame| held.push(frame));
        taken += held.take_finished().len();
        assert!(held.bytes <= HELD_BYTES_MAX);
    }
    assert!(taken > 0);
    assert_eq!(taken + held.take_all().len(), 19_999);
    assert_eq!((held.bytes, held.order.len(), held.traces.len()), (0, 0, 0));
}

#[tokio::test]
async fn the_tree_is_written_to_the_output() {
    let out = Arc::new(StdMutex::new(Vec::new()));
    let console = Console::new(resource(), TreeStyle::Plain, Arc::clone(&out) as Out);
    let spans = [
        (encoded(1, 2, 1, "child"), false),
        (encoded(1, 1, 9, "root"), true),
        (encoded(7, 2, 1, "unfinished"), false),
    ];
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut parcel = Parcel::new(content(&spans), Arc::default());
    assert_eq!(
        console.attempt(&mut parcel, deadline).await,
        Attempt::Accepted { rejected: 0, warning: None }
    );
    let text = || String::from_utf8(out.lock().unwrap().clone()).unwrap();
    assert!(
        text().contains("root") && text().contains("└─ child") && text().contains("orders"),
        "{}",
        text()
    );
    assert!(!text().contains("unfinished"));
    console.finish(deadline).await;
    assert!(text().contains("unfinished"));
}

/// An output that nobody reads.
struct Stuck(std::sync::mpsc::Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_output_that_nobody_reads_holds_up_nobody() {
    let (unstick, stuck) = std::sync::mpsc::channel();
    let console = Console::new(resource(), TreeStyle::Plain, Arc::new(StdMutex::new(Stuck(stuck))));
    let attempt = async |arrival: &Arc<Arrival>| {
        let mut parcel = Parcel::new(content(&[(encoded(1, 1, 9, "root"), true)]), Arc::clone(arrival));
        console.attempt(&mut parcel, Instant::now() + Duration::from_millis(10)).await
    };
    let (first, second) = (Arc::default(), Arc::default());
    assert!(matches!(attempt(&first).await, Attempt::Failed { .. }));
    assert!(matches!(attempt(&second).await, Attempt::Failed { .. }));
    assert!(first.is_possible(), "it is on its way");
    assert!(!second.is_possible(), "it was not taken");
    drop(unstick);
}

/// An output that is closed.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_a_closed_output_does_not_take_is_refused() {
    let console = Console::new(resource(), TreeStyle::Plain, Arc::new(StdMutex::new(Closed)));
    let mut parcel = Parcel::new(content(&[(encoded(1, 1, 9, "root"), true)]), Arc::default());
    let attempt = console.attempt(&mut parcel, Instant::now() + Duration::from_secs(10)).await;
    assert!(matches!(attempt, Attempt::Refused(Problem { kind: ProblemKind::Output, .. })));
}
