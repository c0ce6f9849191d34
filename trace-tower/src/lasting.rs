//! What is made once and lasts.

use std::fmt;
use std::ops::Deref;

/// The options of a server's layer: made when the server is set up, and from then on there for as long as the process.
///
/// A router clones its services for every request. A count of references, which every core would write to for each of them,
/// would be a cache line that all cores wait for; a reference is copied. Nothing of it is freed: some hundred bytes for each
/// layer, and again for each call that sets an option of it. So a layer is made once, and not for each connection.
pub struct Lasting<T: 'static>(&'static T);

impl<T> Lasting<T> {
    /// Keeps this for good.
    pub fn new(value: T) -> Self {
        Self(Box::leak(Box::new(value)))
    }

    /// Changes it for those who copy this later on.
    pub fn update(&mut self, change: impl FnOnce(&mut T))
    where
        T: Clone,
    {
        let mut value = self.0.clone();
        change(&mut value);
        *self = Self::new(value);
    }

    /// What is kept.
    #[inline]
    pub const fn get(self) -> &'static T {
        self.0
    }
}

impl<T> Clone for Lasting<T> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Lasting<T> {}

impl<T> Deref for Lasting<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Lasting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_stays_as_it_was_when_it_was_made() {
        let mut options = Lasting::new(vec![1]);
        let before = options;
        options.update(|numbers| numbers.push(2));
        assert_eq!((before.get(), options.get()), (&vec![1], &vec![1, 2]));
    }
}
