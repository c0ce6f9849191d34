//! What the compiler cannot know by itself.

/// Says that the place where it is called is seldom reached.
///
/// The code there is then put behind that of what is done for every request. A processor fetches code by lines of 64 bytes, and a
/// request that is traced runs through as many of them as a first-level cache holds and more: what lies between takes their place.
///
/// It is [`std::hint::cold_path`] for compilers that do not have it.
#[doc(hidden)]
#[cold]
#[inline(always)]
pub const fn cold_path() {}
