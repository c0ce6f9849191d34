//! An export request on its way out, piece by piece, as often as it has to be sent.
//!
//! A request is never put together in memory. Its spans go to the connection as they lie in their chunks, many at a time; what
//! is short (what stands around the spans, and a few spans of one scope between those of others) is copied together, at most
//! [`PIECE_BYTES_MAX`] at a time. A compressed request is kept, because compressing it again for each attempt would cost more
//! than its memory.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::batch::Batch;
use crate::otlp::request::{Layout, Piece};

/// The most bytes of a piece that is copied: large enough that what a piece costs (an allocation, a part of a system call)
/// is little for its bytes, small enough that a batch in flight takes little memory.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Spans of so many bytes that lie together are a piece of their own, and not copied: to copy them would take longer.
const SHARED_BYTES_MIN: usize = 4 << 10;

/// A request: a batch and what stands around its spans.
#[derive(Debug)]
pub(crate) struct Message {
    batch: Arc<Batch>,
    layout: Layout,
}

/// A message as it goes over the wire.
#[derive(Clone, Debug)]
pub(crate) enum Wire {
    Plain(Arc<Message>),
    /// As it was read from disk.
    Stored(Bytes),
    #[cfg_attr(not(feature = "gzip"), expect(dead_code, reason = "only made by compressing"))]
    Gzip(Arc<[Bytes]>),
}

/// Whether a collector may have a batch although it did not say so.
///
/// A request whose last byte was never handed to the connection cannot have been understood.
#[derive(Debug, Default)]
pub(crate) struct Arrival {
    /// The attempt under way has handed over its last byte.
    handed_over: AtomicBool,
    /// An attempt before it ended without an answer, after its last byte was handed over.
    unknown: AtomicBool,
}

/// The body of one attempt to send a message.
#[derive(Debug)]
pub(crate) struct Body {
    wire: Wire,
    /// What precedes the message: nothing, or gRPC's five bytes.
    prefix: Bytes,
    piece: usize,
    /// How much of a piece that did not fit was given out already.
    offset: usize,
    left: usize,
    arrival: Arc<Arrival>,
}

impl Message {
    /// Lays out the request for a batch. `resource` is encoded as the field of `ResourceSpans`.
    pub(crate) fn new(batch: Arc<Batch>, resource: &[u8]) -> Self {
        let layout = Layout::new(resource, batch.runs());
        Self { batch, layout }
    }

    /// The number of spans.
    pub(crate) fn spans(&self) -> u32 {
        // A batch is far below 4 GiB, and so are its spans.
        self.batch.len() as u32
    }

    /// All bytes in order, in pieces of any length.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.layout.pieces().iter().map(|piece| self.bytes(piece))
    }

    /// The bytes of a piece.
    fn bytes(&self, piece: &Piece) -> &[u8] {
        match *piece {
            Piece::Head { from, to } => &self.layout.heads()[from as usize..to as usize],
            Piece::Spans(run) => self.batch.run(run),
        }
    }

    /// A piece of the layout if it is long enough to be shared where it lies.
    fn shared(&self, piece: usize) -> Option<Bytes> {
        match self.layout.pieces().get(piece) {
            Some(piece @ &Piece::Spans(run)) if is_long(piece) => self.batch.share(run),
            _ => None,
        }
    }
}

impl Wire {
    /// The length of the message as it goes over the wire, in bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Plain(message) => message.layout.len(),
            Self::Stored(message) => message.len(),
            Self::Gzip(pieces) => pieces.iter().map(Bytes::len).sum(),
        }
    }

    pub(crate) const fn is_compressed(&self) -> bool {
        matches!(self, Self::Gzip(_))
    }

    /// The body of an attempt to send the message, preceded by `prefix`.
    pub(crate) fn body(&self, prefix: Bytes, arrival: &Arc<Arrival>) -> Body {
        let left = prefix.len() + self.len();
        Body { wire: self.clone(), prefix, piece: 0, offset: 0, left, arrival: Arc::clone(arrival) }
    }
}

impl Arrival {
    /// An attempt begins, after one that ended with or without an answer.
    pub(crate) fn begin(&self) {
        self.handed_over.store(false, Ordering::Relaxed);
    }

    /// The attempt under way ended, and nobody knows whether the collector has the batch, if it was handed over.
    pub(crate) fn lose_sight(&self) {
        if self.handed_over.swap(false, Ordering::Relaxed) {
            self.unknown.store(true, Ordering::Relaxed);
        }
    }

    /// The attempt under way was answered: the collector does not have the batch from it.
    pub(crate) fn answered(&self) {
        self.handed_over.store(false, Ordering::Relaxed);
    }

    /// Whether the collector may have the batch.
    pub(crate) fn is_possible(&self) -> bool {
        self.unknown.load(Ordering::Relaxed) || self.handed_over.load(Ordering::Relaxed)
    }

    /// The transport hands the batch over by itself, without a [`Body`].
    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
    }
}

impl Body {
    /// The next piece; empty at the end.
    pub(crate) fn next_piece(&mut self) -> Bytes {
        let piece = match &self.wire {
            Wire::Plain(_) => self.gather(),
            Wire::Stored(_) | Wire::Gzip(_) if !self.prefix.is_empty() => std::mem::take(&mut self.prefix),
            Wire::Stored(message) => {
                let rest = self.offset..(self.offset + PIECE_BYTES_MAX).min(message.len());
                self.offset = rest.end;
                message.slice(rest)
            }
            Wire::Gzip(pieces) => {
                self.piece += 1;
                pieces.get(self.piece - 1).cloned().unwrap_or_default()
            }
        };
        self.left -= piece.len();
        if self.left == 0 {
            self.arrival.hand_over();
        }
        piece
    }

    /// The next piece of a message in memory: many spans as they lie, or short pieces copied together.
    fn gather(&mut self) -> Bytes {
        let Wire::Plain(message) = &self.wire else { return Bytes::new() };
        if self.prefix.is_empty()
            && let Some(shared) = message.shared(self.piece)
        {
            self.piece += 1;
            return shared;
        }
        let short = || message.layout.pieces()[self.piece..].iter().take_while(|piece| !is_long(piece));
        let mut wanted = self.prefix.len();
        for piece in short() {
            wanted += piece.len();
            if wanted >= PIECE_BYTES_MAX + self.offset {
                break;
            }
        }
        let mut memory = Memory::take((wanted - self.offset).min(PIECE_BYTES_MAX));
        let out = &mut memory.0;
        out.extend_from_slice(&std::mem::take(&mut self.prefix));
        for piece in short() {
            let bytes = &message.bytes(piece)[self.offset..];
            let room = PIECE_BYTES_MAX - out.len();
            if bytes.len() > room {
                out.extend_from_slice(&bytes[..room]);
                self.offset += room;
                break;
            }
            out.extend_from_slice(bytes);
            self.piece += 1;
            self.offset = 0;
        }
        Bytes::from_owner(memory)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let body = self.get_mut();
        if body.left == 0 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(body.next_piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

/// The memory of a piece, which is used again: a third of the worker's time went into pages that the allocator had given
/// back to the system after each batch.
struct Memory(Vec<u8>);

thread_local! {
    /// What the worker's thread has ready.
    static READY: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The most pieces that are kept: those of a batch whose spans of different scopes are mixed, so that all of it is copied.
const READY_MAX: usize = 16;

/// A piece of fewer bytes has memory of its own, of its own size: there may be many, between spans that are not copied.
const READY_BYTES_MIN: usize = PIECE_BYTES_MAX / 2;

impl Memory {
    fn take(bytes: usize) -> Self {
        if bytes < READY_BYTES_MIN {
            return Self(Vec::with_capacity(bytes));
        }
        let ready = READY.try_with(|ready| ready.borrow_mut().pop()).ok().flatten();
        Self(ready.unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES_MAX)))
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.0);
        if memory.capacity() < PIECE_BYTES_MAX {
            return;
        }
        memory.clear();
        // A thread whose locals are gone keeps nothing.
        let _ = READY.try_with(|ready| {
            let mut ready = ready.borrow_mut();
            if ready.len() < READY_MAX {
                ready.push(memory);
            }
        });
    }
}

/// Whether a piece is one of a body, too, where it lies.
const fn is_long(piece: &Piece) -> bool {
    match piece {
        Piece::Spans(run) => run.bytes as usize >= SHARED_BYTES_MIN,
        Piece::Head { .. } => false,
    }
}

/// A message as it is, or compressed.
pub(crate) async fn wire(plain: Wire, compress: bool) -> Wire {
    if compress { gzip::compress(plain).await } else { plain }
}

#[cfg(feature = "gzip")]
mod gzip {
    use std::io::{self, Write};

    use bytes::{BufMut, BytesMut};
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// Compresses piece by piece, and lets the worker do other things in between.
    pub(super) async fn compress(plain: Wire) -> Wire {
        // Spans of a service resemble each other so much that the fastest level makes them six times smaller.
        let mut encoder = GzEncoder::new(Pieces::default(), Compression::fast());
        let mut body = plain.body(Bytes::new(), &Arc::default());
        loop {
            let piece = body.next_piece();
            // Writing to memory does not fail.
            if piece.is_empty() || encoder.write_all(&piece).is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        match encoder.finish() {
            Ok(pieces) => Wire::Gzip(pieces.finish()),
            Err(_) => plain,
        }
    }

    /// Memory that grows by pieces, so that no byte is ever copied to make room.
    #[derive(Default)]
    struct Pieces {
        full: Vec<Bytes>,
        open: BytesMut,
    }

    impl Pieces {
        fn finish(mut self) -> Arc<[Bytes]> {
            self.full.push(self.open.freeze());
            self.full.into()
        }
    }

    impl Write for Pieces {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.open.len() >= PIECE_BYTES_MAX {
                self.full.push(std::mem::take(&mut self.open).freeze());
            }
            if self.open.capacity() == 0 {
                self.open.reserve(PIECE_BYTES_MAX);
            }
            let taken = bytes.len().min(PIECE_BYTES_MAX - self.open.len());
            self.open.put_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(not(feature = "gzip"))]
mod gzip {
    use super::Wire;

    /// Without the feature, the configuration never asks for compression.
    pub(super) async fn compress(plain: Wire) -> Wire {
        plain
    }
}

#[cfg(test)]
mod tests;
