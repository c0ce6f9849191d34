//! Names of things: which trace, and which span in it.
//!
//! Both are plain numbers that are never zero ([W3C Trace Context Level 2, 2.2.2]), so that an `Option` of one costs no
//! more than the number, and an id that exists is valid. Their text is lower-case hex, read and written sixteen
//! digits at a time without allocation.
//!
//! Ids that we make come from a generator of 256 bits of state for each thread, seeded by the operating system: a few
//! nanoseconds, no lock, no system call, and two processes never share a sequence, not even after a `fork`. They are
//! unique, not secret: whoever sees a few of them can compute the next.
//!
//! [W3C Trace Context Level 2, 2.2.2]: https://www.w3.org/TR/trace-context-2/#traceparent-header-field-values

mod hex;

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::num::{NonZeroU64, NonZeroU128};
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// The name of a trace: 16 bytes, not all of them zero.
///
/// One request keeps one trace id in every service that it touches.
///
/// ```
/// use trace_core::TraceId;
///
/// let id: TraceId = "4bf92f3577b34da6a3ce929d0e0e4736".parse()?;
/// assert_eq!(id.to_hex().as_str(), "4bf92f3577b34da6a3ce929d0e0e4736");
/// assert_eq!(TraceId::from_hex(b"4bf92f3577b34da6a3ce929d0e0e4736"), Some(id));
///
/// assert_eq!(TraceId::from_bytes([0; 16]), None, "an id of zeros is no id");
/// assert_ne!(TraceId::random(), TraceId::random());
/// # Ok::<(), trace_core::ParseIdError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(NonZeroU128);

/// The name of a span within its trace: 8 bytes, not all of them zero.
///
/// A service sends the id of the span that makes a call along with the call; it is the parent of what happens there.
///
/// ```
/// use trace_core::SpanId;
///
/// let id = SpanId::from_hex(b"00f067aa0ba902b7").expect("sixteen lower-case hex digits");
/// assert_eq!(id.to_bytes(), [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
/// assert_eq!(id.to_string(), "00f067aa0ba902b7");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(NonZeroU64);

/// `N` hex digits on the stack; it reads as a `str`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hex<const N: usize>([u8; N]);

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseIdError {
    /// It has not exactly 32 (trace id) or 16 (span id) bytes.
    Length,
    /// It has a byte that is not one of `0` to `9`, `a` to `f`; upper-case digits are not allowed.
    Digit,
    /// All its digits are zero.
    Zero,
}

impl TraceId {
    /// A new id, all of whose bits are random.
    ///
    /// So its right-most seven bytes are, and [`TraceFlags::RANDOM`](crate::TraceFlags::RANDOM) is true of it
    /// ([W3C Trace Context Level 2, random trace id flag](https://www.w3.org/TR/trace-context-2/#random-trace-id-flag)).
    #[inline]
    pub fn random() -> Self {
        let (high, low) = random_u64_pair();
        Self(NonZeroU128::new(u128::from(high) << 64 | u128::from(low)).unwrap_or(NonZeroU128::MIN))
    }

    /// The id of these bytes, the first one being the most significant; `None` if all are zero.
    #[inline]
    pub const fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        Self::from_u128(u128::from_be_bytes(bytes))
    }

    /// Its bytes, the most significant one first: the form in OTLP.
    #[inline]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    /// The id of this number; `None` if it is zero.
    #[inline]
    pub const fn from_u128(number: u128) -> Option<Self> {
        match NonZeroU128::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The id as a number; the low 56 bits are the ones that samplers compare.
    #[inline]
    pub const fn to_u128(self) -> u128 {
        self.0.get()
    }

    /// The id of exactly 32 lower-case hex digits that are not all zero; `None` for anything else.
    #[inline]
    pub fn from_hex(digits: &[u8]) -> Option<Self> {
        Self::parse(digits).ok()
    }

    /// Its 32 lower-case hex digits.
    #[inline]
    pub fn to_hex(self) -> Hex<32> {
        let (high, low) = halves(self.to_u128());
        let mut digits = [0; 32];
        digits[..16].copy_from_slice(&hex::write(high));
        digits[16..].copy_from_slice(&hex::write(low));
        Hex(digits)
    }

    #[inline]
    fn parse(digits: &[u8]) -> Result<Self, ParseIdError> {
        let digits: &[u8; 32] = digits.try_into().map_err(|_| ParseIdError::Length)?;
        let ([high, low], _) = digits.as_chunks() else { return Err(ParseIdError::Length) };
        let ((high, bad), (low, also_bad)) = (hex::read(high), hex::read(low));
        if bad | also_bad {
            return Err(ParseIdError::Digit);
        }
        Self::from_u128(u128::from(high) << 64 | u128::from(low)).ok_or(ParseIdError::Zero)
    }
}

impl SpanId {
    /// A new id, all of whose bits are random.
    #[inline]
    pub fn random() -> Self {
        Self(NonZeroU64::new(random_u64()).unwrap_or(NonZeroU64::MIN))
    }

    /// The id of these bytes, the first one being the most significant; `None` if all are zero.
    #[inline]
    pub const fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        Self::from_u64(u64::from_be_bytes(bytes))
    }

    /// Its bytes, the most significant one first: the form in OTLP.
    #[inline]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }

    /// The id of this number; `None` if it is zero.
    #[inline]
    pub const fn from_u64(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The id as a number.
    #[inline]
    pub const fn to_u64(self) -> u64 {
        self.0.get()
    }

    /// The id of exactly 16 lower-case hex digits that are not all zero; `None` for anything else.
    #[inline]
    pub fn from_hex(digits: &[u8]) -> Option<Self> {
        Self::parse(digits).ok()
    }

    /// Its 16 lower-case hex digits.
    #[inline]
    pub fn to_hex(self) -> Hex<16> {
        Hex(hex::write(self.to_u64()))
    }

    #[inline]
    fn parse(digits: &[u8]) -> Result<Self, ParseIdError> {
        let digits: &[u8; 16] = digits.try_into().map_err(|_| ParseIdError::Length)?;
        let (number, bad) = hex::read(digits);
        if bad {
            return Err(ParseIdError::Digit);
        }
        Self::from_u64(number).ok_or(ParseIdError::Zero)
    }
}

/// The ids of the first span of a trace: as [`TraceId::random`] and [`SpanId::random`], by one look at the generator.
#[inline]
pub(crate) fn random_ids() -> (TraceId, SpanId) {
    let (high, low, span) =
        with_generator(|generator| (generator.next(), generator.next(), generator.next()));
    let trace = NonZeroU128::new(u128::from(high) << 64 | u128::from(low)).unwrap_or(NonZeroU128::MIN);
    (TraceId(trace), SpanId(NonZeroU64::new(span).unwrap_or(NonZeroU64::MIN)))
}

impl<const N: usize> Hex<N> {
    /// The digits as text.
    #[inline]
    pub fn as_str(&self) -> &str {
        // Hex digits are ASCII, so the default never shows.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The digits as bytes of ASCII.
    #[inline]
    pub const fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }
}

impl FromStr for TraceId {
    type Err = ParseIdError;

    fn from_str(digits: &str) -> Result<Self, ParseIdError> {
        Self::parse(digits.as_bytes())
    }
}

impl FromStr for SpanId {
    type Err = ParseIdError;

    fn from_str(digits: &str) -> Result<Self, ParseIdError> {
        Self::parse(digits.as_bytes())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_hex())
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_hex())
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> Deref for Hex<N> {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl<const N: usize> AsRef<str> for Hex<N> {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "an id has exactly 32 hex digits (trace) or 16 (span)",
            Self::Digit => "an id is written in the digits 0 to 9 and a to f",
            Self::Zero => "an id of zeros only is not valid",
        })
    }
}

impl std::error::Error for ParseIdError {}

/// The ids of a `traceparent`, if both are valid.
#[inline]
pub(crate) fn read_ids(trace_id: &[u8; 32], span_id: &[u8; 16]) -> Option<(TraceId, SpanId)> {
    let ([high, low], _) = trace_id.as_chunks() else { return None };
    let (high, low, span_id) = (hex::read(high), hex::read(low), hex::read(span_id));
    // One branch for all digits: good ids have none to mispredict.
    if high.1 | low.1 | span_id.1 {
        return None;
    }
    let trace_id = u128::from(high.0) << 64 | u128::from(low.0);
    Some((TraceId::from_u128(trace_id)?, SpanId::from_u64(span_id.0)?))
}

/// The two halves of a trace's id.
const fn halves(number: u128) -> (u64, u64) {
    ((number >> 64) as u64, number as u64)
}

/// Writes the ids of a `traceparent`, and leaves what is between them.
#[inline]
pub(crate) fn write_ids(trace_id: TraceId, span_id: SpanId, digits: &mut [u8; 49]) {
    let (high, low) = halves(trace_id.to_u128());
    for (place, number) in [(0, high), (16, low), (33, span_id.to_u64())] {
        digits[place..place + 16].copy_from_slice(&hex::write(number));
    }
}

/// Counts forks: a generator of an older generation would repeat what its twin in the parent process says.
static GENERATION: AtomicU32 = AtomicU32::new(1);

/// The state of xoshiro256++ (Blackman and Vigna), and the generation that it was seeded in; 0 means not seeded yet.
#[derive(Clone, Copy)]
struct Generator {
    state: [u64; 4],
    generation: u32,
}

thread_local! {
    // Without a destructor it can be used to the very end of the thread.
    static GENERATOR: Cell<Generator> = const { Cell::new(Generator { state: [0; 4], generation: 0 }) };
}

/// A number that is another one in every child that `fork` makes from a first call on.
pub(crate) fn generation() -> u32 {
    notice_forks();
    GENERATION.load(Ordering::Relaxed)
}

#[inline]
fn random_u64() -> u64 {
    with_generator(Generator::next)
}

#[inline]
fn random_u64_pair() -> (u64, u64) {
    with_generator(|generator| (generator.next(), generator.next()))
}

#[inline]
fn with_generator<R>(draw: impl Fn(&mut Generator) -> R) -> R {
    let generation = GENERATION.load(Ordering::Relaxed);
    let drawn = GENERATOR.try_with(|cell| {
        let mut generator = cell.get();
        if generator.generation != generation {
            generator = Generator::seeded(generation);
        }
        let drawn = draw(&mut generator);
        cell.set(generator);
        drawn
    });
    // A thread that has taken its locals down gets a generator for this once.
    drawn.unwrap_or_else(|_| draw(&mut Generator::seeded(generation)))
}

impl Generator {
    #[cold]
    #[inline(never)]
    fn seeded(generation: u32) -> Self {
        notice_forks();
        let mut seed = [0; 32];
        if getrandom::fill(&mut seed).is_err() {
            seed = seed_without_os();
        }
        let (words, _) = seed.as_chunks::<8>();
        let mut state = [0; 4];
        for (state, word) in state.iter_mut().zip(words) {
            *state = u64::from_ne_bytes(*word);
        }
        if state == [0; 4] {
            // The one state that never leaves itself.
            state = [1; 4];
        }
        Self { state, generation }
    }

    #[inline]
    fn next(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let drawn = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        drawn
    }
}

/// For a system whose source of randomness fails: what the standard library's hash maps are keyed with, which differs for
/// each process and each call, and the time.
fn seed_without_os() -> [u8; 32] {
    let keys = RandomState::new();
    let mut seed = [0; 32];
    let (words, _) = seed.as_chunks_mut::<8>();
    for (place, word) in words.iter_mut().enumerate() {
        *word = keys.hash_one((place, Instant::now(), std::process::id())).to_ne_bytes();
    }
    seed
}

/// Starts a new generation in every child that `fork` makes from here on.
///
/// Done before the first seed is drawn, so that no generator exists that a fork could double unnoticed. A child made by a
/// bare `clone` system call, which runs no such handlers, has to `exec` before it makes ids.
fn notice_forks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(unix)]
        {
            extern "C" fn in_the_child() {
                GENERATION.fetch_add(1, Ordering::Relaxed);
            }
            // SAFETY: the handler is a function for the life of the process and does one atomic addition, which is all that
            // a child of a process with several threads may do. It fails only for want of memory; then a fork goes
            // unnoticed.
            let _ = unsafe { libc::pthread_atfork(None, None, Some(in_the_child)) };
        }
    });
}

#[cfg(test)]
mod tests;
