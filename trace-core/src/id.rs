//! Names of things: which trace, and which span in it.
//!
//! Both are plain numbers that are never zero ([W3C Trace Context Level 2, 2.2.2]), so that an `Option` of one costs no
//! more than the number, and an id that exists is valid. Their text is lower-case hex, read and written eight
//! digits at a time without allocation.
//!
//! Ids that we make come from a generator of 256 bits of state for each thread, seeded by the operating system: a few
//! nanoseconds, no lock, no system call, and two processes never share a sequence, not even after a `fork`. They are
//! unique, not secret: whoever sees a few of them can compute the next.
//!
//! [W3C Trace Context Level 2, 2.2.2]: https://www.w3.org/TR/trace-context-2/#traceparent-header-field-values

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
        let mut digits = [0; 32];
        write_hex(&self.to_bytes(), &mut digits);
        Hex(digits)
    }

    #[inline]
    fn parse(digits: &[u8]) -> Result<Self, ParseIdError> {
        let digits: &[u8; 32] = digits.try_into().map_err(|_| ParseIdError::Length)?;
        let number = read_hex(digits).ok_or(ParseIdError::Digit)?;
        Self::from_u128(number).ok_or(ParseIdError::Zero)
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
        let mut digits = [0; 16];
        write_hex(&self.to_bytes(), &mut digits);
        Hex(digits)
    }

    #[inline]
    fn parse(digits: &[u8]) -> Result<Self, ParseIdError> {
        let digits: &[u8; 16] = digits.try_into().map_err(|_| ParseIdError::Length)?;
        // Sixteen digits are 64 bits.
        let number = read_hex(digits).ok_or(ParseIdError::Digit)? as u64;
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
    let ([a, b, c, d], _) = trace_id.as_chunks() else { return None };
    let ([e, f], _) = span_id.as_chunks() else { return None };
    let (a, b, c) = (read_eight(*a), read_eight(*b), read_eight(*c));
    let (d, e, f) = (read_eight(*d), read_eight(*e), read_eight(*f));
    // One branch for all digits: good ids have none to mispredict.
    if a.1 | b.1 | c.1 | d.1 | e.1 | f.1 != 0 {
        return None;
    }
    let pair = |(high, _): (u32, _), (low, _): (u32, _)| u64::from(high) << 32 | u64::from(low);
    let trace_id = TraceId::from_u128(u128::from(pair(a, b)) << 64 | u128::from(pair(c, d)))?;
    Some((trace_id, SpanId::from_u64(pair(e, f))?))
}

/// Writes the ids of a `traceparent`, and leaves what is between them.
#[inline]
pub(crate) fn write_ids(trace_id: TraceId, span_id: SpanId, digits: &mut [u8; 49]) {
    let trace_id = trace_id.to_u128();
    let span_id = span_id.to_u64();
    let words = [(trace_id >> 64) as u64, trace_id as u64, span_id];
    for (place, word) in [0, 16, 33].into_iter().zip(words) {
        for (place, half) in [place, place + 8].into_iter().zip([(word >> 32) as u32, word as u32]) {
            if let Some(digits) = digits[place..].first_chunk_mut() {
                *digits = write_eight(half);
            }
        }
    }
}

/// The number of at most 32 lower-case hex digits, in blocks of eight; `None` if one of them is no such digit.
#[inline]
fn read_hex(digits: &[u8]) -> Option<u128> {
    let (blocks, rest) = digits.as_chunks::<8>();
    let mut number = 0;
    let mut bad = u64::from(!rest.is_empty());
    for block in blocks {
        let (value, wrong) = read_eight(*block);
        number = number << 32 | u128::from(value);
        bad |= wrong;
    }
    // One branch for all digits: a good id has none to mispredict.
    (bad == 0).then_some(number)
}

/// The hex digits of `bytes`, which are half as many as `digits`; what is beyond the shorter of the two is left alone.
#[inline]
fn write_hex(bytes: &[u8], digits: &mut [u8]) {
    let (numbers, _) = bytes.as_chunks::<4>();
    let (blocks, _) = digits.as_chunks_mut::<8>();
    for (number, block) in numbers.iter().zip(blocks) {
        *block = write_eight(u32::from_be_bytes(*number));
    }
}

/// Every byte of a word the same.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The value of eight hex digits, and a number that is zero exactly if all eight are in `0` to `9`, `a` to `f`.
#[inline(always)]
fn read_eight(digits: [u8; 8]) -> (u32, u64) {
    let word = u64::from_be_bytes(digits);
    // Bytes of ASCII plus at most 0x7f never carry into their neighbour, and those beyond ASCII are told apart by `word`.
    let ascii = word & each(0x7f);
    let at_least = |least: u8| ascii + each(0x80 - least);
    let digit = at_least(b'0') & !at_least(b'9' + 1);
    let letter = at_least(b'a') & !at_least(b'f' + 1);
    let bad = (!(digit | letter) | word) & each(0x80);
    // A letter has bit 6, and its low nibble counts from 1.
    let nibbles = (ascii & each(0x0f)) + 9 * ((ascii >> 6) & each(0x01));
    let pairs = (nibbles | nibbles >> 4) & 0x00ff_00ff_00ff_00ff;
    let quads = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    ((quads | quads >> 16) as u32, bad)
}

/// The eight hex digits of a number.
#[inline]
fn write_eight(number: u32) -> [u8; 8] {
    let quads = u64::from(number);
    let quads = (quads | quads << 16) & 0x0000_ffff_0000_ffff;
    let pairs = (quads | quads << 8) & 0x00ff_00ff_00ff_00ff;
    let nibbles = (pairs | pairs << 4) & each(0x0f);
    // Ten and more, plus six, reach bit 4; `a` lies 0x27 beyond what follows `9`.
    let letters = ((nibbles + each(6)) >> 4) & each(0x01);
    (nibbles + each(b'0') + letters * 0x27).to_be_bytes()
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
