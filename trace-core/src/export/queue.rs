//! Where finished spans wait for the worker: fixed memory, written by any thread without waiting.
//!
//! A queue has a few slots, each with an open chunk behind a lock that is only ever *tried* by a request's thread: a
//! busy slot means the next one, and when all are busy the span takes a chunk of its own. A full chunk is sealed and
//! exchanged for a free one. When no chunk is free the span is dropped and counted; nothing waits, and nothing grows.
//!
//! The slots also keep the pools of span cells and the counters, because whoever starts or ends a span holds a slot's
//! lock anyway: one lock serves three purposes.

use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::task::Waker;

use super::chunk::{Chunk, SPAN_BYTES_MAX};
use super::sync::{
    ArrayQueue, AtomicBool, AtomicI64, AtomicUsize, AtomicWaker, fence, set_slot_hint, slot_hint, yield_now,
};
use super::try_lock::{TryLock, TryLockGuard};
use crate::hint::cold_path;
use crate::span::{Life, Scope, SpanCell};
use crate::telemetry::operations::{Observers, Operations};
use crate::telemetry::{Counter, DropCounters, DropReason, ParentCounters, ParentOrigin, Published, Stats};

/// How much a queue may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    /// Memory for finished spans: open, sealed and free chunks, and those in the worker's hands.
    pub(crate) chunk_bytes_max: usize,
    /// Memory for live spans, in use and pooled.
    pub(crate) live_bytes_max: usize,
    /// The most finished spans, where the configuration counts in spans (`OTEL_BSP_MAX_QUEUE_SIZE`).
    pub(crate) spans_max: Option<usize>,
}

/// The most memory for chunks: more than any collector could be away for, and the rings of that length are small.
const CHUNK_MEMORY_MAX: usize = 1 << 31;

/// How many free chunks are put by: enough for a burst of some thousand spans, in half a mebibyte.
pub(super) const STOCK_CHUNKS: usize = 32;

pub(crate) struct Queue {
    slots: Box<[Apart<Slot>]>,
    /// For spans that found every slot busy.
    overflow: Apart<SlotCounters>,
    /// Written by the worker alone.
    pub(crate) export: Apart<ExportCounters>,
    sealed: ArrayQueue<Box<Chunk>>,
    free: ArrayQueue<Box<Chunk>>,
    limits: QueueLimits,
    chunk_bytes: Apart<AtomicUsize>,
    live_bytes: Apart<AtomicUsize>,
    /// Finished spans that are not settled; maintained only where they are bounded.
    spans: Apart<AtomicI64>,
    pressure: AtomicBool,
    closed: AtomicBool,
    /// Nobody takes chunks any more.
    abandoned: AtomicBool,
    waker: Apart<AtomicWaker>,
    wake_at_chunks: AtomicUsize,
}

/// On cache lines of its own (two: processors fetch them in pairs), because what some thread writes now and then would else
/// take away what every thread reads for each span.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Apart<T>(T);

impl<T> Deref for Apart<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

#[derive(Default)]
struct Slot {
    inner: TryLock<SlotInner>,
    counters: SlotCounters,
}

#[derive(Default)]
struct SlotInner {
    open: Option<Box<Chunk>>,
    #[expect(
        clippy::vec_box,
        reason = "a cell keeps its place in memory: contexts refer to it while it is in use"
    )]
    pool: Vec<Box<SpanCell>>,
    closed: bool,
}

#[derive(Default)]
struct SlotCounters {
    started: ParentCounters,
    /// Up where a span starts, down where it ends: the sum over the slots counts, not the part.
    live: Counter,
    /// Spans put into chunks.
    queued: Counter,
    dropped: DropCounters,
    sampled_out: ParentCounters,
    shed: ParentCounters,
}

/// What the worker counts.
#[derive(Debug, Default)]
pub(crate) struct ExportCounters {
    /// Spans that the worker took out of the queue.
    pub(crate) taken: Counter,
    /// Spans in the worker's hands: up when taken, down when exported, rejected or dropped.
    pub(crate) pending: Counter,
    pub(crate) exported: Counter,
    pub(crate) rejected: Counter,
    /// Spans of earlier processes that were found on disk.
    pub(crate) recovered: Counter,
    /// Spans on disk: up when written or found, down when exported, rejected or dropped.
    pub(crate) spooled: Counter,
    pub(crate) dropped: DropCounters,
    /// Spans handed over to be sent.
    pub(crate) submitted: Counter,
    /// Of the pending, those that are being sent.
    pub(crate) in_flight: Counter,
    /// Of the dropped, those that were being sent.
    pub(crate) failed: DropCounters,
    pub(crate) operations: Operations,
    pub(crate) observers: Observers,
    /// What the worker makes of all that.
    pub(crate) health: Published,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits, slots: usize) -> Self {
        let limits = QueueLimits { chunk_bytes_max: limits.chunk_bytes_max.min(CHUNK_MEMORY_MAX), ..limits };
        // Every chunk is accounted for in bytes; the rings only have to be long enough for the most there can be.
        let chunks_max = limits.chunk_bytes_max.max(Chunk::MEMORY) / Chunk::MEMORY_MIN;
        // Where memory is short, most of it must not lie in open chunks of threads that end few spans.
        let slots = slots.min(limits.chunk_bytes_max / Chunk::MEMORY / 4).max(1).next_power_of_two();
        Self {
            slots: (0..slots).map(|_| Apart::default()).collect(),
            overflow: Apart::default(),
            export: Apart::default(),
            sealed: ArrayQueue::new(chunks_max),
            free: ArrayQueue::new(chunks_max),
            limits,
            chunk_bytes: Apart::default(),
            live_bytes: Apart::default(),
            spans: Apart::default(),
            pressure: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            waker: Apart::default(),
            wake_at_chunks: AtomicUsize::new(1),
        }
    }

    /// Takes memory for a new live span from the thread's pool, and counts it as started; nothing is allocated.
    #[inline(always)]
    pub(crate) fn start_pooled(&self, parent: ParentOrigin) -> Option<Box<SpanCell>> {
        let slot = self.any_slot();
        let mut inner = slot.try_lock()?;
        let cell = inner.pool.pop()?;
        slot.counters.started.of(parent).add(1);
        slot.counters.live.add(1);
        Some(cell)
    }

    /// Takes memory for a new live span from wherever there is some, and counts it as started; none where memory is used up.
    pub(crate) fn start(&self, parent: ParentOrigin) -> Option<Box<SpanCell>> {
        let Some((slot, mut inner)) = self.try_any_slot() else {
            let cell = self.allocate_cell()?;
            self.overflow.started.of(parent).add_shared(1);
            self.overflow.live.add_shared(1);
            return Some(cell);
        };
        let cell = match inner.pool.pop() {
            Some(cell) => cell,
            None => self.allocate_cell().or_else(|| self.steal_cell(slot))?,
        };
        slot.counters.started.of(parent).add(1);
        slot.counters.live.add(1);
        Some(cell)
    }

    /// Counts a span, the child of one that was, which could not be started, as started and dropped.
    pub(crate) fn drop_unstarted(&self, reason: DropReason) {
        match self.try_any_slot() {
            Some((slot, _held)) => {
                slot.counters.started.of(ParentOrigin::Local).add(1);
                slot.counters.dropped.of(reason).add(1);
            }
            None => {
                self.overflow.started.of(ParentOrigin::Local).add_shared(1);
                self.overflow.dropped.of(reason).add_shared(1);
            }
        }
    }

    /// Takes an ended span: its bytes go into a chunk, or are dropped and counted.
    #[inline(never)]
    pub(crate) fn end(&self, span: &[u8], life: &Life) {
        match self.try_any_slot() {
            Some((slot, mut inner)) => self.end_in(slot, &mut inner, span, life),
            None => self.end_alone(span, life),
        }
    }

    /// As [`end`](Self::end), and takes back the span's cell: one lock for both.
    #[inline(always)]
    pub(crate) fn end_and_recycle(&self, mut cell: Box<SpanCell>) {
        let slot = self.try_any_slot();
        let Some((life, span)) = cell.ended() else { return };
        match slot {
            Some((slot, mut inner)) => {
                self.end_in(slot, &mut inner, span, life);
                self.pool(&mut inner, cell);
            }
            None => {
                cold_path();
                self.end_alone(span, life);
                self.free_cell(cell);
            }
        }
    }

    #[inline(always)]
    fn end_in(&self, slot: &Slot, inner: &mut SlotInner, span: &[u8], life: &Life) {
        slot.counters.live.sub(1);
        match self.append(inner, span, life.scope, life.local_root) {
            Ok(()) => slot.counters.queued.add(1),
            Err(reason) => slot.counters.dropped.of(reason).add(1),
        }
    }

    #[cold]
    fn end_alone(&self, span: &[u8], life: &Life) {
        self.overflow.live.add_shared(1u64.wrapping_neg());
        match self.append_alone(span, life.scope, life.local_root) {
            Ok(()) => self.overflow.queued.add_shared(1),
            Err(reason) => self.overflow.dropped.of(reason).add_shared(1),
        }
    }

    /// Counts a span that the sampler left out.
    pub(crate) fn count_sampled_out(&self, parent: ParentOrigin) {
        self.any_slot().counters.sampled_out.of(parent).add_shared(1);
    }

    /// Counts a local root that was not recorded because memory was short.
    pub(crate) fn count_shed(&self, parent: ParentOrigin) {
        self.any_slot().counters.shed.of(parent).add_shared(1);
    }

    /// Takes back the cell of a span that has ended.
    #[inline(never)]
    pub(crate) fn recycle_cell(&self, cell: Box<SpanCell>) {
        match self.try_any_slot() {
            Some((_, mut inner)) => self.pool(&mut inner, cell),
            None => self.free_cell(cell),
        }
    }

    /// Asks for `bytes` more memory for a live span; `false` when its span has to do with what it has.
    pub(crate) fn grow_live(&self, bytes: usize) -> bool {
        let before = self.live_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.limits.live_bytes_max {
            self.live_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Whether half of the memory for live spans is in use.
    pub(crate) fn is_short_of_live(&self) -> bool {
        self.live_bytes.load(Ordering::Relaxed) > self.limits.live_bytes_max / 2
    }

    /// Takes back memory of live spans.
    pub(crate) fn shrink_live(&self, bytes: usize) {
        self.live_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether memory for finished spans is nearly used up: new local roots should not be recorded, so that traces are
    /// lost whole.
    pub(crate) fn is_under_pressure(&self) -> bool {
        if !self.pressure.load(Ordering::Relaxed) {
            return false;
        }
        cold_path();
        // While roots are shed nothing may end that would say otherwise.
        self.update_pressure();
        self.pressure.load(Ordering::Relaxed)
    }

    // What the worker does.

    /// The worker is woken once this many chunks are sealed; whether so many are there already.
    pub(crate) fn wake_at(&self, chunks: usize) -> bool {
        let chunks = chunks.max(1);
        self.wake_at_chunks.store(chunks, Ordering::Relaxed);
        // With the fence in `seal`: either whoever seals the chunk that matters sees the new number, or its chunk is seen here.
        fence(Ordering::SeqCst);
        self.sealed.len() >= chunks
    }

    /// Whom to wake when enough chunks are sealed. To be called before looking for chunks, so that none is missed.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Whether the queue is bounded in spans, and half full.
    pub(crate) fn is_filling(&self) -> bool {
        let spans = || u64::try_from(self.spans.load(Ordering::Relaxed)).unwrap_or(0);
        self.limits.spans_max.is_some_and(|max| spans() >= max.div_ceil(2) as u64)
    }

    /// The memory that chunks may take, in bytes.
    pub(crate) const fn chunk_bytes_max(&self) -> usize {
        self.limits.chunk_bytes_max
    }

    /// Puts free chunks by, for bursts: a request's thread that has to make one asks the allocator, which may ask the system.
    pub(crate) fn stock_up(&self) {
        while self.free.len() < self.stock_chunks() {
            let Some(chunk) = self.allocate_chunk(Chunk::MEMORY, Chunk::touched) else { return };
            if self.free.push(chunk).is_err() {
                self.chunk_bytes.fetch_sub(Chunk::MEMORY, Ordering::Relaxed);
                return;
            }
        }
    }

    /// How many free chunks are put by.
    fn stock_chunks(&self) -> usize {
        STOCK_CHUNKS.min(self.limits.chunk_bytes_max / Chunk::MEMORY / 8)
    }

    /// A sealed chunk, the oldest first. The caller counts its spans as taken and pending.
    pub(crate) fn take_sealed(&self) -> Option<Box<Chunk>> {
        self.sealed.pop()
    }

    /// Seals every slot's open chunk that holds spans, and hands them all over; chunks sealed before come by
    /// [`take_sealed`](Self::take_sealed).
    ///
    /// # Blocking
    /// Waits for a slot whose holder is at work, some hundred nanoseconds; never to be called on a request's thread.
    pub(crate) fn take_open(&self, mut take: impl FnMut(Box<Chunk>)) {
        for slot in &self.slots {
            let mut inner = slot.lock();
            if inner.open.as_ref().is_some_and(|chunk| !chunk.is_empty()) {
                inner.open.take().into_iter().for_each(&mut take);
            }
        }
    }

    /// Takes back a chunk whose spans are settled.
    pub(crate) fn recycle(&self, mut chunk: Box<Chunk>) {
        if self.limits.spans_max.is_some() {
            // At most `CHUNK_SPANS`.
            self.spans.fetch_sub(chunk.len() as i64, Ordering::Relaxed);
        }
        chunk.clear();
        let memory = chunk.memory();
        if chunk.is_oversize() || self.free.push(chunk).is_err() {
            self.chunk_bytes.fetch_sub(memory, Ordering::Relaxed);
        }
        // What comes back after the worker's end is not used again.
        if self.abandoned.load(Ordering::SeqCst) {
            self.free_chunks();
        }
        self.update_pressure();
    }

    /// From now on, spans that end are dropped with the reason *shut down*. What was queued before stays.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for slot in &self.slots {
            slot.lock().closed = true;
        }
    }

    /// Whether [`close`](Self::close) was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Hands over all that is left in a queue that is closed, for the last time: whoever seals a chunk from here on counts it
    /// as lost himself.
    pub(crate) fn abandon(&self, mut take: impl FnMut(Box<Chunk>)) {
        self.abandoned.store(true, Ordering::SeqCst);
        while let Some(chunk) = self.take_sealed() {
            take(chunk);
        }
        self.take_open(take);
    }

    /// Gives the memory of idle chunks and cells back to the allocator: a pipeline that is shut down keeps its head
    /// alone.
    pub(crate) fn release_memory(&self) {
        self.free_chunks();
        for slot in &self.slots {
            let pool = std::mem::take(&mut slot.lock().pool);
            pool.into_iter().for_each(|cell| self.free_cell(cell));
        }
    }

    fn free_chunks(&self) {
        while let Some(chunk) = self.free.pop() {
            self.chunk_bytes.fetch_sub(chunk.memory(), Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self, stats: &mut Stats) {
        let counters = || self.slots.iter().map(|slot| &slot.counters).chain([&*self.overflow]);
        // A span that moves on while this reads is seen where it was or where it goes; sums wrap in between.
        let sum = |of: fn(&SlotCounters) -> &Counter| {
            counters().fold(0u64, |sum, counters| sum.wrapping_add(of(counters).get()))
        };
        let not_below_zero = |n: u64| if n > i64::MAX as u64 { 0 } else { n };
        stats.live = not_below_zero(sum(|c| &c.live));
        let waiting = sum(|c| &c.queued).wrapping_sub(self.export.taken.get());
        stats.queued = not_below_zero(waiting.wrapping_add(self.export.pending.get()));
        counters().for_each(|c| c.sampled_out.sum_into(&mut stats.not_recorded_by_parent));
        stats.sampled_out = stats.not_recorded_by_parent.total();
        counters().for_each(|c| c.shed.sum_into(&mut stats.not_recorded_by_parent));
        stats.shed = stats.not_recorded_by_parent.total() - stats.sampled_out;
        stats.exported = self.export.exported.get();
        stats.rejected = self.export.rejected.get();
        stats.recovered = self.export.recovered.get();
        stats.spooled = self.export.spooled.get();
        counters().for_each(|c| c.dropped.sum_into(&mut stats.dropped));
        self.export.dropped.sum_into(&mut stats.dropped);
        stats.submitted = self.export.submitted.get();
        stats.in_flight = self.export.in_flight.get();
        self.export.failed.sum_into(&mut stats.dropped_by_exporter);
        stats.operations = self.export.operations.read();
        stats.queue_spans_max = self.limits.spans_max.map(|max| max as u64);
        let bytes = |of: &AtomicUsize| of.load(Ordering::Relaxed) as u64;
        stats.memory_bytes = bytes(&self.chunk_bytes) + bytes(&self.live_bytes);
        stats.memory_bytes_max = (self.limits.chunk_bytes_max + self.limits.live_bytes_max) as u64;
        // Last, so that what starts meanwhile does not look like more lost than there were.
        counters().for_each(|c| c.started.sum_into(&mut stats.started_by_parent));
        stats.started = stats.started_by_parent.total();
    }

    /// The memory that the queue has taken, for chunks and for live spans, in bytes.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> (usize, usize) {
        (self.chunk_bytes.load(Ordering::Relaxed), self.live_bytes.load(Ordering::Relaxed))
    }

    /// Does something while every slot is busy.
    #[cfg(test)]
    pub(crate) fn while_busy<R>(&self, f: impl FnOnce() -> R) -> R {
        let _slots: Vec<_> = self.slots.iter().map(|slot| slot.lock()).collect();
        f()
    }

    /// Leaves behind what a thread that was slow to say so would.
    #[cfg(test)]
    pub(crate) fn pretend_pressure(&self) {
        self.pressure.store(true, Ordering::Relaxed);
    }

    /// The number of free chunks.
    #[cfg(test)]
    pub(crate) fn stock(&self) -> usize {
        self.free.len()
    }

    /// What the memory for live spans and for chunks comes to, counted piece by piece, while nothing is under way.
    #[cfg(test)]
    pub(crate) fn memory_at_rest(&self) -> (usize, usize) {
        let free: Vec<_> = std::iter::from_fn(|| self.free.pop()).collect();
        let sealed: Vec<_> = std::iter::from_fn(|| self.sealed.pop()).collect();
        let (mut chunks, mut cells) = (0, 0);
        for slot in &self.slots {
            let mut inner = slot.lock();
            chunks += inner.open.as_ref().map_or(0, |open| open.memory());
            cells += inner.pool.iter_mut().map(|cell| cell.memory()).sum::<usize>();
        }
        chunks += free.iter().chain(&sealed).map(|chunk| chunk.memory()).sum::<usize>();
        free.into_iter().for_each(|chunk| assert!(self.free.push(chunk).is_ok()));
        sealed.into_iter().for_each(|chunk| assert!(self.sealed.push(chunk).is_ok()));
        (chunks, cells)
    }

    /// Takes a finished span that never lived, and counts it as one that did.
    #[cfg(test)]
    pub(crate) fn put(&self, span: &[u8], scope: &'static Scope) {
        self.put_one(span, scope, false);
    }

    /// As [`put`](Self::put); it may be the last of its trace.
    #[cfg(test)]
    pub(crate) fn put_one(&self, span: &[u8], scope: &'static Scope, local_root: bool) {
        match self.try_any_slot() {
            Some((slot, mut inner)) => {
                slot.counters.started.of(ParentOrigin::None).add(1);
                match self.append(&mut inner, span, scope, local_root) {
                    Ok(()) => slot.counters.queued.add(1),
                    Err(reason) => slot.counters.dropped.of(reason).add(1),
                }
            }
            None => {
                self.overflow.started.of(ParentOrigin::None).add_shared(1);
                match self.append_alone(span, scope, local_root) {
                    Ok(()) => self.overflow.queued.add_shared(1),
                    Err(reason) => self.overflow.dropped.of(reason).add_shared(1),
                }
            }
        }
    }

    // What is inside.

    #[inline(always)]
    fn try_any_slot(&self) -> Option<(&Slot, TryLockGuard<'_, SlotInner>)> {
        let slot = self.any_slot();
        match slot.try_lock() {
            Some(inner) => Some((slot, inner)),
            None => self.try_other_slot(),
        }
    }

    #[cold]
    fn try_other_slot(&self) -> Option<(&Slot, TryLockGuard<'_, SlotInner>)> {
        let first = slot_hint();
        (1..self.slots.len()).find_map(|next| {
            let index = first.wrapping_add(next) & (self.slots.len() - 1);
            let slot: &Slot = &self.slots[index];
            let inner = slot.try_lock()?;
            set_slot_hint(index);
            Some((slot, inner))
        })
    }

    /// The thread's own slot, to count in.
    #[inline(always)]
    fn any_slot(&self) -> &Slot {
        // Their number is a power of two.
        &self.slots[slot_hint() & (self.slots.len() - 1)]
    }

    #[inline(always)]
    fn append(
        &self,
        inner: &mut SlotInner,
        span: &[u8],
        scope: &'static Scope,
        local_root: bool,
    ) -> Result<(), DropReason> {
        if inner.closed {
            cold_path();
            return Err(DropReason::ShutDown);
        }
        self.count_in()?;
        if let Some(open) = &mut inner.open
            && open.push(span, scope, local_root)
        {
            // A trace whose spans lie in two chunks may leave in two batches, of which one is lost.
            if local_root && open.is_nearly_full() {
                cold_path();
                inner.open.take().into_iter().for_each(|full| self.seal(full));
            }
            return Ok(());
        }
        cold_path();
        let fresh = self.chunk_with(span, scope, local_root)?;
        if fresh.is_oversize() {
            self.seal(fresh);
        } else if let Some(full) = inner.open.replace(fresh) {
            self.seal(full);
        }
        Ok(())
    }

    fn append_alone(&self, span: &[u8], scope: &'static Scope, local_root: bool) -> Result<(), DropReason> {
        if self.is_closed() {
            return Err(DropReason::ShutDown);
        }
        self.count_in()?;
        self.seal(self.chunk_with(span, scope, local_root)?);
        // The queue may have been closed meanwhile, and the worker have looked for the last time.
        if self.abandoned.load(Ordering::SeqCst) {
            self.lose_sealed();
        }
        Ok(())
    }

    /// Counts as lost what nobody will take.
    fn lose_sealed(&self) {
        while let Some(chunk) = self.sealed.pop() {
            self.lose(&chunk, DropReason::ShutDown);
        }
    }

    /// Counts a chunk as lost whose spans are counted as queued.
    fn lose(&self, chunk: &Chunk, reason: DropReason) {
        let spans = chunk.len() as u64;
        self.overflow.queued.add_shared(spans.wrapping_neg());
        self.overflow.dropped.of(reason).add_shared(spans);
        self.chunk_bytes.fetch_sub(chunk.memory(), Ordering::Relaxed);
    }

    /// Where the configuration bounds the queue in spans, takes the place of one.
    fn count_in(&self) -> Result<(), DropReason> {
        let Some(max) = self.limits.spans_max else { return Ok(()) };
        cold_path();
        // A bound beyond `i64` bounds nothing.
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let before = self.spans.fetch_add(1, Ordering::Relaxed);
        if before >= max {
            self.spans.fetch_sub(1, Ordering::Relaxed);
            return Err(DropReason::QueueFull);
        }
        if before + 1 == max - max / 2 {
            // Open chunks may hold them all, so that none is sealed.
            self.waker.wake();
        }
        Ok(())
    }

    #[inline(never)]
    fn chunk_with(
        &self,
        span: &[u8],
        scope: &'static Scope,
        local_root: bool,
    ) -> Result<Box<Chunk>, DropReason> {
        let mut chunk = if Chunk::fits(span.len()) {
            self.free_chunk()
        } else {
            debug_assert!(span.len() <= SPAN_BYTES_MAX);
            self.allocate_large_chunk(span.len())
        }
        .ok_or_else(|| self.uncount())?;
        self.update_pressure();
        let pushed = chunk.push(span, scope, local_root);
        debug_assert!(pushed, "an empty chunk was chosen by the span's size");
        Ok(chunk)
    }

    fn free_chunk(&self) -> Option<Box<Chunk>> {
        let chunk = self.free.pop().or_else(|| self.allocate_chunk(Chunk::MEMORY, Chunk::new));
        let may_grow =
            || self.chunk_bytes.load(Ordering::Relaxed) + Chunk::MEMORY <= self.limits.chunk_bytes_max;
        if self.free.len() < self.stock_chunks() / 2 && may_grow() {
            // While a collector does not answer, no chunk comes back and none is worth waking the worker for; it puts
            // new ones by before a request has to make them.
            self.waker.wake();
        }
        chunk
    }

    fn uncount(&self) -> DropReason {
        if self.limits.spans_max.is_some() {
            self.spans.fetch_sub(1, Ordering::Relaxed);
        }
        self.update_pressure();
        DropReason::QueueFull
    }

    fn allocate_chunk(&self, bytes: usize, make: impl FnOnce() -> Box<Chunk>) -> Option<Box<Chunk>> {
        let before = self.chunk_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.limits.chunk_bytes_max.max(Chunk::MEMORY) {
            self.chunk_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        Some(make())
    }

    /// A chunk for one large span, if need be by the memory of chunks that wait to be used.
    #[cold]
    fn allocate_large_chunk(&self, span: usize) -> Option<Box<Chunk>> {
        loop {
            let chunk = self.allocate_chunk(Chunk::oversize_memory(span), || Chunk::oversize(span));
            if chunk.is_some() {
                return chunk;
            }
            let unused = self.free.pop()?;
            self.chunk_bytes.fetch_sub(unused.memory(), Ordering::Relaxed);
        }
    }

    fn seal(&self, chunk: Box<Chunk>) {
        // The ring is as long as there can be chunks, so that none is ever left.
        if let Err(left) = self.sealed.push(chunk) {
            debug_assert!(false, "there are more chunks than memory for them");
            self.lose(&left, DropReason::QueueFull);
        }
        // With the fence in `wake_at`.
        fence(Ordering::SeqCst);
        if self.sealed.len() >= self.wake_at_chunks.load(Ordering::Relaxed) {
            self.waker.wake();
        }
    }

    /// Above seven eighths of the memory in use, or without room for one more chunk, whole traces are shed before parts of
    /// traces are lost.
    fn update_pressure(&self) {
        let free = self.free.len() * Chunk::MEMORY;
        let used = self.chunk_bytes.load(Ordering::Relaxed).saturating_sub(free);
        let max = self.limits.chunk_bytes_max;
        let pressed = used > max.saturating_sub((max / 8).max(Chunk::MEMORY));
        if self.pressure.load(Ordering::Relaxed) != pressed {
            self.pressure.store(pressed, Ordering::Relaxed);
        }
    }

    #[cold]
    fn allocate_cell(&self) -> Option<Box<SpanCell>> {
        self.grow_live(SpanCell::MEMORY).then(SpanCell::boxed)
    }

    /// When memory for live spans is used up, the pools of the other slots may still have some.
    #[cold]
    fn steal_cell(&self, own: &Slot) -> Option<Box<SpanCell>> {
        self.slots
            .iter()
            .map(Deref::deref)
            .filter(|slot| !std::ptr::eq(*slot, own))
            .find_map(|slot| slot.try_lock().and_then(|mut inner| inner.pool.pop()))
    }

    #[inline(always)]
    fn pool(&self, inner: &mut SlotInner, mut cell: Box<SpanCell>) {
        if inner.closed {
            cold_path();
            return self.free_cell(cell);
        }
        let shrunk = cell.reset();
        if shrunk > 0 {
            cold_path();
            self.live_bytes.fetch_sub(shrunk, Ordering::Relaxed);
        }
        inner.pool.push(cell);
    }

    #[cold]
    fn free_cell(&self, mut cell: Box<SpanCell>) {
        self.live_bytes.fetch_sub(cell.memory(), Ordering::Relaxed);
    }
}

impl Slot {
    #[inline]
    fn try_lock(&self) -> Option<TryLockGuard<'_, SlotInner>> {
        self.inner.try_lock()
    }

    /// Waits for the slot as the worker does: without sleeping, because whoever leaves a lock that somebody sleeps for has
    /// to wake him by a system call, and no request's thread shall.
    fn lock(&self) -> TryLockGuard<'_, SlotInner> {
        loop {
            match self.try_lock() {
                Some(inner) => return inner,
                None => yield_now(),
            }
        }
    }
}
