//! Batches: which finished spans leave together.
//!
//! A batch refers to the chunks that its spans lie in, and copies nothing. A chunk goes back to its queue when the last
//! batch that refers to it is settled, and no connection has spans of it still to send.

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use bytes::Bytes;

use super::chunk::{CHUNK_BYTES, CHUNK_SPANS, Chunk};
use super::queue::Queue;
use crate::otlp::request::Run;
use crate::span::Scope;

/// A chunk that is out of its queue, and goes back there when it is dropped.
pub(crate) struct Lease {
    queue: &'static Queue,
    /// Empty only while it is dropped.
    chunk: Option<Box<Chunk>>,
}

/// Some spans of a chunk.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    chunk: Arc<Lease>,
    frames: Range<usize>,
    bytes: usize,
}

/// The fields of some spans of a chunk.
struct Fields {
    chunk: Arc<Lease>,
    frames: Range<usize>,
}

impl AsRef<[u8]> for Fields {
    fn as_ref(&self) -> &[u8] {
        self.chunk.run(self.frames.clone())
    }
}

/// Spans that are sent together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    parts: Vec<Part>,
    spans: usize,
    bytes: usize,
}

/// How large a batch may be; a batch has at least one span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    /// The bytes of its spans.
    pub(crate) bytes_max: usize,
    /// The number of its spans.
    pub(crate) spans_max: usize,
}

/// Spans on their way into batches, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Waiting {
    limits: BatchLimits,
    parts: VecDeque<Part>,
    spans: usize,
    bytes: usize,
    /// The memory of the parts' chunks: a chunk that is nearly empty takes as much as a full one.
    memory: usize,
}

impl Lease {
    pub(crate) fn new(queue: &'static Queue, chunk: Box<Chunk>) -> Self {
        Self { queue, chunk: Some(chunk) }
    }
}

impl Deref for Lease {
    type Target = Chunk;

    fn deref(&self) -> &Chunk {
        self.chunk.as_ref().expect("a lease holds its chunk until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(chunk) = self.chunk.take() {
            self.queue.recycle(chunk);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("spans", &self.len()).finish_non_exhaustive()
    }
}

impl Part {
    /// All spans of a chunk.
    pub(crate) fn whole(chunk: Lease) -> Self {
        Self { frames: 0..chunk.len(), bytes: chunk.bytes(), chunk: Arc::new(chunk) }
    }

    /// The number of spans.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Splits off the first `spans`.
    fn split_first(&mut self, spans: usize) -> Self {
        let first = self.frames.start..self.frames.start + spans.min(self.len());
        let bytes = self.chunk.run(first.clone()).len();
        self.frames.start = first.end;
        self.bytes -= bytes;
        Self { chunk: Arc::clone(&self.chunk), frames: first, bytes }
    }
}

impl Batch {
    /// The number of spans.
    pub(crate) const fn len(&self) -> usize {
        self.spans
    }

    /// The fields of the spans of a run.
    pub(crate) fn run(&self, run: Run) -> &[u8] {
        match self.parts.get(run.part as usize) {
            Some(part) => part.chunk.run(run.from as usize..run.to as usize),
            None => &[],
        }
    }

    /// The same, to be kept: the chunk goes back to its queue when they are dropped, too.
    pub(crate) fn share(&self, run: Run) -> Option<Bytes> {
        let part = self.parts.get(run.part as usize)?;
        let frames = run.from as usize..run.to as usize;
        Some(Bytes::from_owner(Fields { chunk: Arc::clone(&part.chunk), frames }))
    }

    /// The spans in runs of the same scope, in the order in which they came.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (&'static Scope, Run)> {
        self.parts.iter().enumerate().flat_map(|(index, part)| {
            let mut next = part.frames.start;
            std::iter::from_fn(move || {
                let from = next;
                let first = (from < part.frames.end).then(|| part.chunk.frame(from)).flatten()?;
                let mut bytes = 0;
                while next < part.frames.end
                    && let Some(frame) = part.chunk.frame(next)
                    && std::ptr::eq(frame.scope, first.scope)
                {
                    bytes += frame.field.len();
                    next += 1;
                }
                // A batch is far below 4 GiB.
                let run = Run { part: index as u32, from: from as u32, to: next as u32, bytes: bytes as u32 };
                Some((first.scope, run))
            })
        })
    }

    /// Every span as it is encoded, with its scope and whether it is a local root.
    pub(crate) fn spans(&self) -> impl Iterator<Item = super::chunk::Frame<'_>> {
        self.parts.iter().flat_map(|part| part.frames.clone().filter_map(|index| part.chunk.frame(index)))
    }

    fn push(&mut self, part: Part) {
        self.spans += part.len();
        self.bytes += part.bytes;
        self.parts.push(part);
    }
}

impl Waiting {
    pub(crate) const fn new(limits: BatchLimits) -> Self {
        Self { limits, parts: VecDeque::new(), spans: 0, bytes: 0, memory: 0 }
    }

    /// The number of spans.
    pub(crate) const fn len(&self) -> usize {
        self.spans
    }

    /// The memory of the chunks that spans wait in, in bytes.
    pub(crate) const fn memory(&self) -> usize {
        self.memory
    }

    pub(crate) fn push(&mut self, part: Part) {
        if part.len() > 0 {
            self.count(&part);
            self.parts.push_back(part);
        }
    }

    /// Takes back a batch, which was the first that left.
    pub(crate) fn put_back(&mut self, batch: Batch) {
        for part in batch.parts.into_iter().rev() {
            self.count(&part);
            self.parts.push_front(part);
        }
    }

    fn count(&mut self, part: &Part) {
        self.spans += part.len();
        self.bytes += part.bytes;
        self.memory += part.chunk.memory();
    }

    /// Whether there is enough for a batch as large as batches may be.
    pub(crate) const fn is_full(&self) -> bool {
        self.spans >= self.limits.spans_max || self.bytes >= self.limits.bytes_max
    }

    /// How many more chunks make a batch full, at the least.
    pub(crate) const fn chunks_missing(&self) -> usize {
        let bytes = self.limits.bytes_max.saturating_sub(self.bytes).div_ceil(CHUNK_BYTES);
        let spans = self.limits.spans_max.saturating_sub(self.spans).div_ceil(CHUNK_SPANS);
        if bytes < spans { bytes } else { spans }
    }

    /// The next batch, as large as it may be; `None` when nothing waits.
    ///
    /// A batch is cut within a chunk only where it is bounded in spans. Bytes may pass their bound by less than a
    /// span where one span alone does.
    pub(crate) fn take_batch(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        while let Some(front) = self.parts.front_mut() {
            let room = self.limits.spans_max.max(1) - batch.spans;
            let fits = batch.spans == 0 || batch.bytes + front.bytes <= self.limits.bytes_max;
            if room == 0 || !fits {
                break;
            }
            let part = if front.len() > room {
                Some(front.split_first(room))
            } else {
                self.memory -= front.chunk.memory();
                self.parts.pop_front()
            };
            part.into_iter().for_each(|part| batch.push(part));
        }
        self.spans -= batch.spans;
        self.bytes -= batch.bytes;
        (batch.spans > 0).then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::fixture::{SCOPE, chunk, queue};
    use super::*;

    fn waiting(limits: BatchLimits, chunks: &[Vec<usize>]) -> Waiting {
        let mut waiting = Waiting::new(limits);
        for sizes in chunks {
            waiting.push(Part::whole(Lease::new(queue(), chunk(sizes))));
        }
        waiting
    }

    fn sizes(batch: &Batch) -> Vec<usize> {
        batch.spans().map(|frame| frame.span().len()).collect()
    }

    proptest! {
        #[test]
        fn every_span_leaves_once_in_order_and_batches_keep_their_bounds(
            chunks in vec(vec(1usize..100, 0..8), 0..12),
            bytes_max in 1usize..1_000,
            spans_max in 1usize..20,
        ) {
            let mut waiting = waiting(BatchLimits { bytes_max, spans_max }, &chunks);
            let mut seen = Vec::new();
            while let Some(batch) = waiting.take_batch() {
                let sizes = sizes(&batch);
                prop_assert_eq!(batch.len(), sizes.len());
                prop_assert!(batch.len() <= spans_max);
                let bytes: usize = batch.runs().map(|(_, run)| batch.run(run).len()).sum();
                prop_assert_eq!(bytes, batch.bytes);
                prop_assert!(bytes <= bytes_max || batch.parts.len() == 1);
                seen.extend(sizes);
            }
            prop_assert_eq!(seen, chunks.concat());
            prop_assert_eq!((waiting.spans, waiting.bytes, waiting.parts.len(), waiting.memory), (0, 0, 0, 0));
        }
    }

    #[test]
    fn a_batch_that_is_put_back_is_the_next_again() {
        let mut waiting = waiting(BatchLimits { bytes_max: 1_000, spans_max: 3 }, &[vec![1, 2], vec![3, 4]]);
        let before = (waiting.spans, waiting.bytes);
        let batch = waiting.take_batch().unwrap();
        assert_eq!(sizes(&batch), [1, 2, 3]);
        assert!(waiting.memory() < 2 * Chunk::MEMORY, "one chunk is still referred to");
        waiting.put_back(batch);
        assert_eq!((waiting.spans, waiting.bytes), before);
        assert_eq!(sizes(&waiting.take_batch().unwrap()), [1, 2, 3]);
        assert_eq!(sizes(&waiting.take_batch().unwrap()), [4]);
        assert_eq!(waiting.memory(), 0);
    }

    #[test]
    fn a_batch_is_full_by_spans_or_by_bytes() {
        let limits = BatchLimits { bytes_max: 100, spans_max: 3 };
        assert!(!waiting(limits, &[vec![10, 10]]).is_full());
        assert!(waiting(limits, &[vec![10, 10], vec![10]]).is_full());
        assert!(waiting(limits, &[vec![99]]).is_full());
    }

    #[test]
    fn chunks_that_are_missing_are_never_overestimated() {
        let limits = BatchLimits { bytes_max: 800 << 10, spans_max: usize::MAX };
        assert_eq!(waiting(limits, &[]).chunks_missing(), (800 << 10) / CHUNK_BYTES);
        assert_eq!(waiting(limits, &[vec![100]]).chunks_missing(), (800 << 10) / CHUNK_BYTES);
        let limits = BatchLimits { bytes_max: 800 << 10, spans_max: 512 };
        assert_eq!(waiting(limits, &[vec![1; 90]]).chunks_missing(), (512usize - 90).div_ceil(CHUNK_SPANS));
    }

    #[test]
    fn a_chunk_goes_back_when_the_last_batch_that_refers_to_it_is_dropped() {
        let mut waiting = Waiting::new(BatchLimits { bytes_max: 1_000, spans_max: 2 });
        waiting.push(Part::whole(Lease::new(queue(), chunk(&[1, 2, 3]))));
        let (first, second) = (waiting.take_batch().unwrap(), waiting.take_batch().unwrap());
        let lease = Arc::downgrade(&first.parts[0].chunk);
        drop(first);
        assert!(lease.upgrade().is_some());
        drop(second);
        assert!(lease.upgrade().is_none());
    }

    #[test]
    fn a_chunk_stays_for_as_long_as_somebody_has_spans_of_it() {
        let mut waiting = Waiting::new(BatchLimits { bytes_max: 1_000, spans_max: 2 });
        waiting.push(Part::whole(Lease::new(queue(), chunk(&[1, 2, 3]))));
        let (first, second) = (waiting.take_batch().unwrap(), waiting.take_batch().unwrap());
        let lease = Arc::downgrade(&first.parts[0].chunk);
        let (_, run) = second.runs().next().unwrap();
        let (kept, bytes) = (second.share(run).unwrap(), second.run(run).to_vec());
        drop((first, second));
        assert_eq!(kept, bytes);
        assert!(lease.upgrade().is_some());
        drop(kept);
        assert!(lease.upgrade().is_none());
    }

    #[test]
    fn runs_join_neighbours_of_the_same_scope() {
        static OTHER: Scope = Scope::new("b", "1");
        let mut mixed = Chunk::new();
        for scope in [&SCOPE, &SCOPE, &OTHER, &SCOPE] {
            assert!(mixed.push(&[7; 5], scope, false));
        }
        let mut waiting = Waiting::new(BatchLimits { bytes_max: 1_000, spans_max: 10 });
        waiting.push(Part::whole(Lease::new(queue(), mixed)));
        let batch = waiting.take_batch().unwrap();
        let runs: Vec<_> = batch.runs().map(|(scope, run)| (scope.name(), run.from..run.to)).collect();
        assert_eq!(runs, [("a", 0..2), ("b", 2..3), ("a", 3..4)]);
    }
}
