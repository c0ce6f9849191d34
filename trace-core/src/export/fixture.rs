//! What the tests of the export path start from.

use std::sync::LazyLock;

use super::batch::{Lease, Part};
use super::chunk::Chunk;
use super::queue::{Queue, QueueLimits};
use crate::span::Scope;

pub(super) static SCOPE: Scope = Scope::new("a", "1");

/// A queue for chunks to go back to, which nothing is taken from.
pub(super) fn queue() -> &'static Queue {
    static QUEUE: LazyLock<Queue> = LazyLock::new(|| {
        Queue::new(QueueLimits { chunk_bytes_max: 1 << 20, live_bytes_max: 1 << 20, spans_max: None }, 1)
    });
    &QUEUE
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
