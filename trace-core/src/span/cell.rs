//! The memory of a live span: pooled, counted by its references, and taken back by the last one.
//!
//! A span holds two references: its own, by which it is ended, and the one in its context, which is lent to whoever works
//! in the span. For as long as there is no third, which is nearly always, it reaches the recorder without a lock: a context
//! is pointed to, not cloned, while it is current. Whoever cloned the context (a handler that adds an attribute to its
//! request's span) goes through a lock that only such writers of the same span ever meet at.
//!
//! The span's context lies here too, so that a span is one pointer: futures and bodies carry it along, and are moved several
//! times a request.
//!
//! This is an `Arc` with three differences: the last owner hands the memory to the pipeline's pool, uniqueness is told by
//! one load, because there are no weak references, and one field is that of a distinguished owner alone.

use std::cell::UnsafeCell;
use std::fmt::{self, Write};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::panic::RefUnwindSafe;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Mutex, PoisonError};

use super::attribute::{Known, text_of};
use super::recorder::Recorder;
use super::row::{Pieces, Row};
use super::{EncodedAttributes, Key, Scope, Value};
use crate::clock::Anchor;
use crate::context::Context;
use crate::hint::cold_path;
use crate::pipeline::Pipeline;
use crate::semconv;

pub(crate) struct SpanCell {
    references: AtomicUsize,
    life: Option<Life>,
    /// The context of the span's work. It is the [`Own`]'s, and does not change before the span's end.
    context: UnsafeCell<Context>,
    recorder: Mutex<Recorder>,
}

// A panic leaves a context as it is.
impl RefUnwindSafe for SpanCell {}

/// What is fixed while a span lives.
#[derive(Clone, Copy)]
pub(crate) struct Life {
    pub(crate) pipeline: &'static Pipeline,
    /// The clock of the local root, and of every span below it.
    pub(crate) anchor: Anchor,
    /// The code that made the span.
    pub(crate) scope: &'static Scope,
    /// Whether the span is the first of its trace in this process.
    pub(crate) local_root: bool,
}

impl SpanCell {
    /// The memory of the cell itself, in bytes.
    pub(crate) const SIZE: usize = size_of::<Self>();

    /// The memory of a new cell, in bytes.
    pub(crate) const MEMORY: usize = Self::SIZE + Recorder::HEAP;

    pub(crate) fn boxed() -> Box<Self> {
        Box::new(Self {
            references: AtomicUsize::new(0),
            life: None,
            context: UnsafeCell::new(Context::new()),
            recorder: Mutex::new(Recorder::new()),
        })
    }

    /// The memory that the cell takes, in bytes.
    pub(crate) fn memory(&mut self) -> usize {
        Self::SIZE + self.recorder().heap()
    }

    /// Makes a used cell as new, and tells how many bytes of memory it gave back.
    #[inline]
    pub(crate) fn reset(&mut self) -> usize {
        self.life = None;
        self.recorder().reset()
    }

    /// The span of a cell that was in use, with what there is to know of it.
    #[inline]
    pub(crate) fn ended(&mut self) -> Option<(&Life, &[u8])> {
        let Self { life, recorder, .. } = self;
        let recorder = recorder.get_mut().unwrap_or_else(PoisonError::into_inner);
        life.as_ref().map(|life| (life, recorder.bytes()))
    }

    #[inline(always)]
    pub(crate) fn recorder(&mut self) -> &mut Recorder {
        self.recorder.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A live span's own reference to its cell, of which there is one. The span ends when it is dropped.
pub(super) struct Own {
    cell: NonNull<SpanCell>,
}

/// A reference to a live span's cell.
pub(crate) struct Recording {
    cell: NonNull<SpanCell>,
}

// SAFETY: a `Recording` gives shared access to its cell, whose fields are an atomic, `Life` (which is `Send` and `Sync`
// and is written only while the cell is a `Box`) and a mutex, but not to the context; and exclusive access only to whoever
// has all references.
unsafe impl Send for Recording {}
// SAFETY: as above.
unsafe impl Sync for Recording {}

// SAFETY: as above; an `Own` gives access to the context too, which is `Send` and `Sync`, by the rules of its own borrows.
unsafe impl Send for Own {}
// SAFETY: as above.
unsafe impl Sync for Own {}

impl Own {
    /// The first two references to a cell: this, and the one that is lent to its context.
    #[inline(always)]
    pub(super) fn new(mut cell: Box<SpanCell>, life: Life, context: Context) -> Self {
        *cell.references.get_mut() = 2;
        cell.life = Some(life);
        let cell = NonNull::from(Box::leak(cell));
        let own = Self { cell };
        // SAFETY: nobody else has a reference to the cell yet. What is written over is as a span left it whose end took what it
        // held.
        unsafe { own.cell().context.get().write(Context { recording: Some(Recording { cell }), ..context }) }
        own
    }

    #[inline(always)]
    fn cell(&self) -> &SpanCell {
        // SAFETY: the cell lives until its last reference is dropped, and this is one.
        unsafe { self.cell.as_ref() }
    }

    /// The context of the span's work.
    #[inline(always)]
    pub(super) fn context(&self) -> &Context {
        // SAFETY: nobody writes to the context but `end_in_place`, which borrows this exclusively.
        unsafe { &*self.cell().context.get() }
    }

    /// The span, to write to.
    #[inline(always)]
    pub(super) fn owned(&mut self) -> Owned<'_> {
        Owned { cell: self.cell, is_sole: self.is_sole(), exclusive: PhantomData }
    }

    /// Whether this and the lent one are all references.
    #[inline(always)]
    fn is_sole(&self) -> bool {
        // Acquire: what the other references wrote before they were dropped is seen from here on.
        self.cell().references.load(Ordering::Acquire) == 2
    }

    /// Ends the span: its bytes go to the queue, and its memory back to the pool as soon as nobody looks at it.
    pub(super) fn end(self, unix_nanos: u64) {
        ManuallyDrop::new(self).end_in_place(Some(unix_nanos));
    }

    /// Ends the span, now if it is not said when. To be called once, instead of dropping this.
    #[inline(never)]
    fn end_in_place(&mut self, unix_nanos: Option<u64>) {
        let unix_nanos = unix_nanos.unwrap_or_else(|| {
            let anchor = self.cell().life().anchor;
            anchor.unix_nanos(anchor.ticks())
        });
        let is_sole = self.is_sole();
        // SAFETY: nobody but this looks at the context, and it is borrowed exclusively; while it is current, the span is borrowed.
        let context = unsafe { &mut *self.cell().context.get() };
        context.carried = None;
        if is_sole {
            std::mem::forget(context.recording.take());
            // SAFETY: the cell came from a `Box` in `new`, and of both references, which are all there are, one is forgotten and
            // the other never dropped.
            let mut cell = unsafe { Box::from_raw(self.cell.as_ptr()) };
            cell.recorder().end(unix_nanos);
            if let Some(Life { pipeline, .. }) = cell.life {
                pipeline.queue.end_and_recycle(cell);
            }
            return;
        }
        cold_path();
        drop(context.recording.take());
        Recording { cell: self.cell }.with(|recorder, life| {
            let queue = &life.pipeline.queue;
            recorder.end(unix_nanos);
            queue.end(recorder.bytes(), life);
            if queue.is_short_of_live() {
                // Who knows for how long a context is kept: by a connection, for hours.
                queue.shrink_live(SpanCell::SIZE + recorder.release());
            }
        });
    }
}

impl Drop for Own {
    #[inline]
    fn drop(&mut self) {
        self.end_in_place(None);
    }
}

impl Recording {
    #[inline]
    fn cell(&self) -> &SpanCell {
        // SAFETY: the cell lives until its last reference is dropped, and this is one.
        unsafe { self.cell.as_ref() }
    }

    #[inline]
    pub(crate) fn life(&self) -> &Life {
        self.cell().life()
    }

    /// Sets an attribute, behind the lock.
    pub(crate) fn set_attribute_shared(&self, key: Key<'_>, value: Value<'_>) {
        self.cell().set_attribute_shared(key, value);
    }

    /// The recorder, behind its lock.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Recorder, &Life) -> R) -> R {
        self.cell().with(f)
    }
}

impl SpanCell {
    #[inline]
    fn life(&self) -> &Life {
        self.life.as_ref().expect("a cell with references lives")
    }

    fn set_attribute_shared(&self, key: Key<'_>, value: Value<'_>) {
        if let Value::Format(text) = value {
            // To format is to run code of others, which may write to the same span: before the lock is taken.
            return self.set_attribute_shared(key, Value::Str(&text_of(format_args!("{text}"))));
        }
        self.with(|recorder, life| {
            if !recorder.is_ended() {
                recorder.set_attribute(&life.pipeline.queue, key, value);
            }
        });
    }

    fn with<R>(&self, f: impl FnOnce(&mut Recorder, &Life) -> R) -> R {
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut recorder, self.life())
    }
}

/// A live span whose own reference is borrowed exclusively, and with it the lent one, so that none is cloned meanwhile.
pub(super) struct Owned<'a> {
    cell: NonNull<SpanCell>,
    /// Whether there is no third reference.
    is_sole: bool,
    exclusive: PhantomData<&'a mut Own>,
}

impl<'a> Owned<'a> {
    /// The recorder, without a lock when nobody else refers to it.
    #[inline]
    pub(crate) fn with_mut<R>(mut self, f: impl FnOnce(&mut Recorder, &Life) -> R) -> R {
        match self.sole() {
            Some(SpanCell { life: Some(life), recorder, .. }) => {
                f(recorder.get_mut().unwrap_or_else(PoisonError::into_inner), life)
            }
            _ => self.shared().with(f),
        }
    }

    #[inline(always)]
    pub(crate) fn attributes(mut self) -> Attributes<'a> {
        let row = self.row();
        Attributes { owned: self, row }
    }

    /// The free end of the span; none where somebody else may look at it: then each attribute goes through its lock.
    #[inline(always)]
    fn row(&mut self) -> Row {
        self.sole().map_or(Row::NONE, |cell| cell.recorder().row())
    }

    fn set_attribute(mut self, key: Key<'_>, value: Value<'_>) {
        match self.sole() {
            Some(cell) => {
                let queue = &cell.life().pipeline.queue;
                cell.recorder().set_attribute(queue, key, value);
            }
            None => self.shared().set_attribute_shared(key, value),
        }
    }

    #[inline(always)]
    fn sole(&mut self) -> Option<&mut SpanCell> {
        if !self.is_sole {
            return None;
        }
        // SAFETY: there is no reference but the two that are borrowed exclusively for as long as this lives, so that
        // nobody else reaches the cell, its context included, or can come to.
        Some(unsafe { self.cell.as_mut() })
    }

    fn shared(&self) -> &SpanCell {
        // SAFETY: the cell lives as long as its references do, of which two are borrowed.
        unsafe { self.cell.as_ref() }
    }
}

/// The attributes of a live span, to be set one after the other: see [`Span::attributes`](super::Span::attributes).
pub struct Attributes<'a> {
    owned: Owned<'a>,
    row: Row,
}

impl Attributes<'_> {
    /// Sets an attribute. A key that is set already gets the new value.
    ///
    /// What is done most is written here and now: a key that is not set yet, with a short value, on a span that nobody else
    /// looks at. All else is a call, whose arguments go in registers, so that the constants of what is inlined stay
    /// constants.
    #[inline(always)]
    pub fn set<'v>(&mut self, key: impl Into<Key<'v>>, value: impl Into<Value<'v>>) {
        let (key, value) = (key.into(), value.into());
        let name = key.as_str();
        match (key.known_as(), value) {
            // SAFETY: the row was made, or made anew, after the last change to the recorder, and takes it.
            (Some(known), _) if self.row.takes(known, name, value) => unsafe {
                self.row.put(known, name, value)
            },
            (Some(known), Value::Str(text)) => self.aside(|this| this.set_long_text(name, known, text)),
            (Some(known), Value::I64(number)) => {
                self.aside(|this| this.set_other_number(name, known, number))
            }
            (None, Value::Str(text)) => self.aside(|this| this.set_text(name, None, text)),
            (None, Value::I64(number)) => self.aside(|this| this.set_number(name, None, number)),
            (_, other) => self.aside(|this| this.set_other(key, other)),
        }
    }

    /// Sets attributes by a call: `f` gets what this is at another place in memory, so that this has none, and where the next
    /// attribute goes stays in registers for those that are set in line, before and afterwards.
    ///
    /// ```
    /// use trace_core::{Attributes, semconv};
    ///
    /// #[cold]
    /// fn set_unusual(attributes: &mut Attributes<'_>) {
    ///     attributes.set("shop.is_unusual", true);
    /// }
    ///
    /// # let is_unusual = true;
    /// let mut span = trace_core::span("GET").start();
    /// if let Some(mut attributes) = span.attributes() {
    ///     attributes.set(semconv::HTTP_REQUEST_METHOD, "GET");
    ///     if is_unusual {
    ///         attributes.aside(set_unusual);
    ///     }
    ///     attributes.set(semconv::HTTP_ROUTE, "/orders/{id}");
    /// }
    /// ```
    #[inline(always)]
    pub fn aside(&mut self, f: impl FnOnce(&mut Attributes<'_>)) {
        let Owned { cell, is_sole, .. } = self.owned;
        // Should `f` panic, the other one commits what it has, and this one has neither anything to commit nor a row to write to: the
        // memory may be another by then.
        let row = std::mem::replace(&mut self.row, Row::NONE);
        self.owned.is_sole = false;
        let mut other = Attributes { owned: Owned { cell, is_sole, exclusive: PhantomData }, row };
        f(&mut other);
        // Whole, because `f` may have put another one in its place.
        *self = other;
    }

    /// Sets some attributes whose values are texts, as [`set`](Self::set) would set each.
    ///
    /// That they can be set is found out once for all, if all are short and their keys those of the conventions: for attributes that
    /// nearly every span of a kind has. Four at most; it does not compile with more.
    ///
    /// ```
    /// use trace_core::semconv;
    ///
    /// let mut span = trace_core::span("GET /orders/{id}").start();
    /// if let Some(mut attributes) = span.attributes() {
    ///     attributes.set_texts([(semconv::HTTP_REQUEST_METHOD, "GET"), (semconv::HTTP_ROUTE, "/orders/{id}")]);
    /// }
    /// ```
    #[inline(always)]
    pub fn set_texts<const N: usize>(&mut self, texts: [(Key<'_>, &str); N]) {
        // SAFETY: the row was made, or made anew, after the last change to the recorder.
        if !unsafe { self.row.put_texts(&texts) } {
            // A copy, because only what is looked at there needs a place in memory.
            self.aside(|this| this.set_each_text(&{ texts }));
        }
    }

    #[cold]
    fn set_each_text(&mut self, texts: &[(Key<'_>, &str)]) {
        texts.iter().for_each(|(key, text)| self.set_other(*key, Value::Str(text)));
    }

    /// Sets who is at the other end of a connection: `network.peer.address` and `network.peer.port`, each as [`set`](Self::set) would
    /// set it.
    ///
    /// An address of IPv4 that came in IPv6's clothes is told without them.
    ///
    /// ```
    /// use std::net::SocketAddr;
    ///
    /// let server = SocketAddr::from(([203, 0, 113, 195], 443));
    /// let mut span = trace_core::span("GET").start();
    /// if let Some(mut attributes) = span.attributes() {
    ///     attributes.set_peer(&server);
    /// }
    /// ```
    #[inline(always)]
    pub fn set_peer(&mut self, peer: &SocketAddr) {
        self.set_peer_as([semconv::NETWORK_PEER_ADDRESS], peer);
    }

    /// As [`set_peer`](Self::set_peer), for a connection by which a request came: the address is `client.address` too.
    #[inline(always)]
    pub fn set_client(&mut self, peer: &SocketAddr) {
        self.set_peer_as([semconv::CLIENT_ADDRESS, semconv::NETWORK_PEER_ADDRESS], peer);
    }

    #[inline(always)]
    fn set_peer_as<const N: usize>(&mut self, addresses: [Key<'static>; N], peer: &SocketAddr) {
        // SAFETY: the row was made, or made anew, after the last change to the recorder.
        if !unsafe { self.row.put_peer(addresses, semconv::NETWORK_PEER_PORT, peer) } {
            self.aside(|this| this.set_other_peer(&{ addresses }, peer));
        }
    }

    #[cold]
    fn set_other_peer(&mut self, addresses: &[Key<'_>], peer: &SocketAddr) {
        let address = peer.ip().to_canonical();
        for key in addresses {
            if !self.set_pieces(*key, |text| write!(text, "{address}")) {
                // Whole, or not at all: what is formatted into a span that has no more memory is cut.
                self.set_other(*key, Value::Str(&text_of(format_args!("{address}"))));
            }
        }
        self.set_other(semconv::NETWORK_PEER_PORT, Value::from(peer.port()));
    }

    /// Sets an attribute of a text that is made piece by piece, where it belongs: for a text that would else be made somewhere
    /// else first, and copied.
    ///
    /// That is done for a short text, 100 bytes or so with its key, of a key of the conventions that is not set yet, on a span that
    /// nobody else looks at. Else, or if `make` fails, nothing is set and it is `false`: then the text is to be set as any other.
    ///
    /// ```
    /// use std::fmt::Write as _;
    ///
    /// use trace_core::{display, semconv};
    ///
    /// let (host, path) = ("orders", "/orders/7");
    /// let mut span = trace_core::span("GET").start();
    /// if let Some(mut attributes) = span.attributes() {
    ///     let made = attributes.set_pieces(semconv::URL_FULL, |url| {
    ///         ["https://", host, path].iter().try_for_each(|piece| url.write_str(piece))
    ///     });
    ///     if !made {
    ///         attributes.set(semconv::URL_FULL, display(&format_args!("https://{host}{path}")));
    ///     }
    /// }
    /// ```
    #[inline(always)]
    pub fn set_pieces(&mut self, key: Key<'_>, make: impl FnOnce(&mut Pieces<'_>) -> fmt::Result) -> bool {
        // SAFETY: the row was made, or made anew, after the last change to the recorder; `make` has no way to the recorder, because
        // this has all references to it.
        unsafe { self.row.put_pieces(key, make) }
    }

    /// Sets attributes that are encoded already, as [`set`](Self::set) would set each.
    #[inline(always)]
    pub fn set_encoded(&mut self, attributes: &EncodedAttributes) {
        // SAFETY: as above.
        if !unsafe { self.row.put_encoded(attributes) } {
            self.aside(|this| this.set_each(attributes));
        }
    }

    #[cold]
    fn set_each(&mut self, attributes: &EncodedAttributes) {
        attributes.for_each(|key, value| self.set_other(key, value));
    }

    // Cold, so that what is done most follows without a jump.
    #[cold]
    fn set_long_text(&mut self, key: &str, known: Known, text: &str) {
        self.set_text(key, Some(known), text);
    }

    #[cold]
    fn set_other_number(&mut self, key: &str, known: Known, number: i64) {
        self.set_number(key, Some(known), number);
    }

    #[inline(never)]
    fn set_text(&mut self, key: &str, known: Option<Known>, text: &str) {
        self.set_other(Key::of(key, known), Value::Str(text));
    }

    #[inline(never)]
    fn set_number(&mut self, key: &str, known: Option<Known>, number: i64) {
        self.set_other(Key::of(key, known), Value::I64(number));
    }

    fn set_other(&mut self, key: Key<'_>, value: Value<'_>) {
        self.commit();
        // The row is over, also where formatting the value panics and somebody catches it: its memory may be gone then. Until
        // there is a new one nothing is written to it, and there is nothing to commit.
        self.row = Row::NONE;
        let is_sole = std::mem::replace(&mut self.owned.is_sole, false);
        Owned { is_sole, ..self.owned }.set_attribute(key, value);
        self.owned.is_sole = is_sole;
        self.row = self.owned.row();
    }

    #[inline(always)]
    fn commit(&mut self) {
        if let Some(cell) = self.owned.sole() {
            // SAFETY: as above.
            unsafe { cell.recorder().commit(&self.row) }
        }
    }
}

impl Drop for Attributes<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.commit();
    }
}

impl fmt::Debug for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attributes")
    }
}

impl Clone for Recording {
    #[inline]
    fn clone(&self) -> Self {
        // Relaxed: whoever clones has a reference already, and hands the clone on by other means. Counting to 2⁶⁴ would
        // take centuries, so the count does not overflow even where clones are leaked.
        self.cell().references.fetch_add(1, Ordering::Relaxed);
        Self { cell: self.cell }
    }
}

impl Drop for Recording {
    #[inline]
    fn drop(&mut self) {
        if self.cell().references.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        // SAFETY: this was the last reference, so that the cell, which came from a `Box` in `new`, is nobody's.
        let mut cell = unsafe { Box::from_raw(self.cell.as_ptr()) };
        if let Some(Life { pipeline, .. }) = cell.life
            && !cell.recorder().is_released()
        {
            pipeline.queue.recycle_cell(cell);
        }
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recording")
    }
}
