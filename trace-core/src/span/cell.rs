//! The memory of a live span: pooled, counted by its references, and taken back by the last one.
//!
//! A span's owner reaches the recorder without a lock for as long as nobody else holds a reference, which is nearly
//! always: a context is moved, not cloned, when it becomes current. Whoever cloned the context (a handler that adds an
//! attribute to its request's span) goes through a lock that only such writers of the same span ever meet at.
//!
//! This is an `Arc` with two differences: the last owner hands the memory to the pipeline's pool, and uniqueness is
//! told by one load, because there are no weak references.

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Mutex, PoisonError};

use super::attribute::{Known, text_of};
use super::recorder::Recorder;
use super::{Key, Scope, Value};
use crate::clock::Anchor;
use crate::pipeline::Pipeline;

pub(crate) struct SpanCell {
    references: AtomicUsize,
    life: Option<Life>,
    recorder: Mutex<Recorder>,
}

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
    /// The memory of a new cell, in bytes.
    pub(crate) const MEMORY: usize = size_of::<Self>() + Recorder::HEAP;

    pub(crate) fn boxed() -> Box<Self> {
        Box::new(Self { references: AtomicUsize::new(0), life: None, recorder: Mutex::new(Recorder::new()) })
    }

    /// The memory that the cell takes, in bytes.
    pub(crate) fn memory(&mut self) -> usize {
        size_of::<Self>() + self.recorder().heap()
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

/// A reference to a live span's cell.
pub(crate) struct Recording {
    cell: NonNull<SpanCell>,
}

// SAFETY: a `Recording` gives shared access to its cell, whose fields are an atomic, `Life` (which is `Send` and `Sync`
// and is written only while the cell is a `Box`) and a mutex; and exclusive access only while it is the only reference.
unsafe impl Send for Recording {}
// SAFETY: as above.
unsafe impl Sync for Recording {}

impl Recording {
    /// The first reference to a cell.
    #[inline]
    pub(crate) fn new(mut cell: Box<SpanCell>, life: Life) -> Self {
        *cell.references.get_mut() = 1;
        cell.life = Some(life);
        Self { cell: NonNull::from(Box::leak(cell)) }
    }

    #[inline]
    fn cell(&self) -> &SpanCell {
        // SAFETY: the cell lives until its last reference is dropped, and this is one.
        unsafe { self.cell.as_ref() }
    }

    #[inline]
    pub(crate) fn life(&self) -> &Life {
        self.cell().life.as_ref().expect("a cell with references lives")
    }

    /// The recorder, without a lock when this is the only reference.
    #[inline]
    pub(crate) fn with_mut<R>(&mut self, f: impl FnOnce(&mut Recorder, &Life) -> R) -> R {
        if self.is_unique() {
            // SAFETY: this is the only reference, and it is borrowed exclusively, so that it cannot be cloned while
            // the recorder is in use.
            let cell = unsafe { self.cell.as_mut() };
            let life = cell.life.expect("a cell with references lives");
            return f(cell.recorder(), &life);
        }
        self.with(f)
    }

    /// Sets an attribute: what is done most. A key that is not set yet, with a short value, on a span that nobody else
    /// looks at, is written here and now; all else is a call, whose arguments go in registers so that the constants of
    /// what is inlined stay constants.
    #[inline(always)]
    pub(crate) fn set_attribute(&mut self, key: Key<'_>, value: Value<'_>) {
        match value {
            Value::Str(text) => {
                if !self.try_short(key, Value::Str(text)) {
                    self.alias().set_text(key.as_str(), key.known_as(), text);
                }
            }
            Value::I64(number) => {
                if !self.try_short(key, Value::I64(number)) {
                    self.alias().set_number(key.as_str(), key.known_as(), number);
                }
            }
            other => self.set_other(key, other),
        }
    }

    #[inline(always)]
    fn try_short(&mut self, key: Key<'_>, value: Value<'_>) -> bool {
        if !self.is_unique() {
            return false;
        }
        // SAFETY: as in `with_mut`.
        let cell = unsafe { self.cell.as_mut() };
        cell.recorder().try_short(key, value)
    }

    /// The same reference once more, for a call: passed by value, it leaves its owner in registers.
    #[inline(always)]
    fn alias(&mut self) -> Alias<'_> {
        Alias { recording: ManuallyDrop::new(Self { cell: self.cell }), exclusive: PhantomData }
    }

    fn set_other(&mut self, key: Key<'_>, value: Value<'_>) {
        if self.is_unique() {
            self.with_mut(|recorder, life| recorder.set_attribute(&life.pipeline.queue, key, value));
        } else {
            self.set_attribute_shared(key, value);
        }
    }

    /// As [`set_attribute`](Self::set_attribute), behind the lock.
    pub(crate) fn set_attribute_shared(&self, key: Key<'_>, value: Value<'_>) {
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

    /// The recorder, behind its lock.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Recorder, &Life) -> R) -> R {
        let mut recorder = self.cell().recorder.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut recorder, self.life())
    }

    /// The cell itself, when this was the only reference.
    #[inline]
    pub(crate) fn into_unique(self) -> Result<Box<SpanCell>, Self> {
        if !self.is_unique() {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        // SAFETY: the cell came from a `Box` in `new`, nobody else refers to it, and `this` is not dropped.
        Ok(unsafe { Box::from_raw(this.cell.as_ptr()) })
    }

    #[inline]
    fn is_unique(&self) -> bool {
        // Acquire: what the other references wrote before they were dropped is seen from here on.
        self.cell().references.load(Ordering::Acquire) == 1
    }
}

/// A [`Recording`] that is borrowed exclusively, and not counted.
struct Alias<'a> {
    recording: ManuallyDrop<Recording>,
    exclusive: PhantomData<&'a mut Recording>,
}

impl Alias<'_> {
    #[inline(never)]
    fn set_text(mut self, key: &str, known: Option<Known>, text: &str) {
        self.recording.set_other(Key::of(key, known), Value::Str(text));
    }

    #[inline(never)]
    fn set_number(mut self, key: &str, known: Option<Known>, number: i64) {
        self.recording.set_other(Key::of(key, known), Value::I64(number));
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
        let cell = unsafe { Box::from_raw(self.cell.as_ptr()) };
        if let Some(life) = &cell.life {
            life.pipeline.queue.recycle_cell(cell);
        }
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recording")
    }
}
