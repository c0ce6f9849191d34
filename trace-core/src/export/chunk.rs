//! A chunk: a fixed piece of memory that carries finished spans from the request's threads to the worker.
//!
//! Spans lie in it one after the other, each already the field of an OTLP `ScopeSpans` message (tag, length, span), so
//! that a run of them is ready to be sent as it lies. What the worker must know of a span without reading it stands
//! in a frame header beside the bytes.

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::hint::cold_path;
use crate::otlp::tail::Tail;
use crate::otlp::wire;
use crate::span::Scope;

/// The bytes of spans in a chunk. Some forty spans with ten attributes: few enough that a chunk is full soon, enough
/// that what a chunk costs (two hand-overs, over lines that threads contend for) is little for each: with half of it a
/// span cost a seventh more on each of two threads.
pub(crate) const CHUNK_BYTES: usize = 16 * 1024;

/// The most spans in a chunk: the smallest span takes some 80 bytes, so that bytes run out first.
pub(crate) const CHUNK_SPANS: usize = 192;

/// The most bytes of one span; the span's own fields are cut to this before it gets here.
pub(crate) const SPAN_BYTES_MAX: usize = 64 * 1024;

pub(crate) struct Chunk {
    bytes: Vec<u8>,
    frames: Vec<FrameHeader>,
}

struct FrameHeader {
    end: u32,
    local_root: bool,
    scope: &'static Scope,
}

/// One finished span in a chunk.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    /// The span as a field of `ScopeSpans`: tag, length, span.
    pub(crate) field: &'a [u8],
    pub(crate) scope: &'static Scope,
    /// Whether the span is the first of its trace in this process: with its end, the local part of the trace is over.
    pub(crate) local_root: bool,
}

impl Chunk {
    pub(crate) fn new() -> Box<Self> {
        Self::with_capacity(CHUNK_BYTES, CHUNK_SPANS)
    }

    /// A chunk whose memory the system has given already: that costs a fault for every page, at the first touch.
    pub(crate) fn touched() -> Box<Self> {
        let mut chunk = Self::new();
        chunk.bytes.resize(CHUNK_BYTES, u8::MAX);
        chunk.bytes.clear();
        chunk
    }

    /// A chunk of its own for one span that is larger than a chunk.
    pub(crate) fn oversize(span: usize) -> Box<Self> {
        Self::with_capacity(span + wire::FIELD_HEAD_MAX, 1)
    }

    /// The memory of a chunk of full size, in bytes.
    pub(crate) const MEMORY: usize = size_of::<Self>() + CHUNK_BYTES + CHUNK_SPANS * size_of::<FrameHeader>();

    /// The memory of a chunk for one span of this size.
    pub(crate) const fn oversize_memory(span: usize) -> usize {
        size_of::<Self>() + span + wire::FIELD_HEAD_MAX + size_of::<FrameHeader>()
    }

    /// The memory of the smallest chunk there is, in bytes: that of a span which just does not fit into one of full size,
    /// which has room for many headers.
    pub(crate) const MEMORY_MIN: usize = Self::oversize_memory(CHUNK_BYTES - wire::FIELD_HEAD_MAX + 1);

    /// Whether a span of this size fits into an empty chunk of full size.
    pub(crate) const fn fits(span: usize) -> bool {
        span + wire::FIELD_HEAD_MAX <= CHUNK_BYTES
    }

    fn with_capacity(bytes: usize, spans: usize) -> Box<Self> {
        Box::new(Self { bytes: Vec::with_capacity(bytes), frames: Vec::with_capacity(spans) })
    }

    /// Appends a span of at most [`SPAN_BYTES_MAX`], if there is room.
    #[inline(always)]
    pub(crate) fn push(&mut self, span: &[u8], scope: &'static Scope, local_root: bool) -> bool {
        let room = self.bytes.capacity() - self.bytes.len();
        let field = span.len() + wire::FIELD_HEAD_MAX;
        if room < field || self.frames.len() == self.frames.capacity() {
            return false;
        }
        // SAFETY: a tag, a length of at most three bytes (a span is at most 64 KiB), and the span.
        let mut tail = unsafe { Tail::new(&mut self.bytes, field) };
        match span.len() {
            // Nearly always: two bytes of seven bits.
            len @ 0x80..0x4000 => tail.array([wire::SCOPE_SPANS_SPANS, len as u8 | 0x80, (len >> 7) as u8]),
            len => {
                cold_path();
                tail.byte(wire::SCOPE_SPANS_SPANS);
                tail.varint(len as u64);
            }
        }
        tail.bytes(span);
        tail.finish();
        // The capacity is far below 4 GiB.
        self.frames.push(FrameHeader { end: self.bytes.len() as u32, local_root, scope });
        // The next span is as large as this one, more often than not.
        fetch_for_writing(self.bytes.spare_capacity_mut(), field);
        true
    }

    /// The number of spans.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The bytes of all the spans' fields.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the next trace, if it is as most are, would find no room for all of its spans.
    pub(crate) fn is_nearly_full(&self) -> bool {
        let (bytes, spans) =
            (self.bytes.capacity() - self.bytes.len(), self.frames.capacity() - self.frames.len());
        bytes < CHUNK_BYTES / 8 || spans < CHUNK_SPANS / 8
    }

    /// Whether the chunk was made for one large span, and goes back to the allocator after it.
    pub(crate) fn is_oversize(&self) -> bool {
        self.bytes.capacity() > CHUNK_BYTES
    }

    /// The memory that the chunk takes, in bytes.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity() + self.frames.capacity() * size_of::<FrameHeader>()
    }

    pub(crate) fn frame(&self, index: usize) -> Option<Frame<'_>> {
        let header = self.frames.get(index)?;
        let field = &self.bytes[self.end_before(index)..header.end as usize];
        Some(Frame { field, scope: header.scope, local_root: header.local_root })
    }

    /// The fields of several spans in one piece; empty if there are not so many.
    pub(crate) fn run(&self, frames: Range<usize>) -> &[u8] {
        match frames.end.checked_sub(1).and_then(|last| self.frames.get(last)) {
            Some(last) if !frames.is_empty() => &self.bytes[self.end_before(frames.start)..last.end as usize],
            _ => &[],
        }
    }

    /// Where a span begins: the end of the one before it.
    fn end_before(&self, index: usize) -> usize {
        match index {
            0 => 0,
            _ => self.frames[index - 1].end as usize,
        }
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn frames(&self) -> impl ExactSizeIterator<Item = Frame<'_>> {
        (0..self.len()).map(|i| self.frame(i).expect("an index below the length"))
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.frames.clear();
    }
}

/// Has the processor fetch the first so many bytes, and one line more, to be written soon.
///
/// The lines of a chunk were read last by the worker, on another core as a rule. A span that is copied there would have to
/// wait for each of them, and whatever its thread writes next would wait behind it: a request that axum serves took 15 ns
/// longer. So they come while the next span is made.
#[inline]
fn fetch_for_writing(memory: &mut [MaybeUninit<u8>], bytes: usize) {
    const LINE: usize = 64;
    #[cfg(target_arch = "x86_64")]
    {
        // By addresses, because a slice that is cut anew for each line takes four times as many instructions.
        let mut line = memory.as_ptr().cast::<i8>();
        let end = line.wrapping_add(memory.len().min(bytes + LINE));
        while line < end {
            // Two at a time, of which the last may be one too many.
            // SAFETY: a prefetch reads nothing and never faults; processors without it take it for none.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_ET0>(line);
                _mm_prefetch::<_MM_HINT_ET0>(line.wrapping_add(LINE));
            }
            line = line.wrapping_add(2 * LINE);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (memory, bytes);
}

impl Frame<'_> {
    /// The encoded span, without the field's tag and length.
    pub(crate) fn span(&self) -> &[u8] {
        let head = wire::len_field_head(self.field.len());
        &self.field[head..]
    }
}
