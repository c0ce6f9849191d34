//! What the tests of the export path start from.

use super::batch::{Lease, Part};
use super::chunk::Chunk;
use super::queue::{Queue, QueueLimits};
use crate::span::Scope;

pub(super) static SCOPE: Scope = Scope::new("a", "1");

/// A queue with more room than any test needs.
pub(super) fn queue() -> &'static Queue {
    let limits = QueueLimits { chunk_bytes_max: 16 << 20, live_bytes_max: 1 << 20, spans_max: None };
    Box::leak(Box::new(Queue::new(limits, 1)))
}

/// A chunk with spans of these sizes.
pub(super) fn chunk(sizes: &[usize]) -> Box<Chunk> {
    let mut chunk = Chunk::new();
    for &size in sizes {
        assert!(chunk.push(&vec![size as u8; size], &SCOPE, false));
    }
    chunk
}

/// So many spans of one byte.
pub(super) fn part(spans: usize) -> Part {
    Part::whole(Lease::new(queue(), chunk(&vec![1; spans])))
}
