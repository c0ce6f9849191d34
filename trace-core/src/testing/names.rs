//! Host names as a test wants them: where they lead, and whether asking for them fails or takes for ever.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::config::Resolver;

/// Host names that only the exporter under test knows, in place of the system's DNS.
///
/// A name that was not told fails. The exporter asks as it asks the system: on a thread that may block, at each new
/// connection.
///
/// ```
/// # use trace_core::config::{OtlpConfig, Protocol};
/// # use trace_core::testing::{Collector, Names};
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let collector = Collector::start().await?;
/// let names = Names::new();
/// names.point("collector.test", collector.http_address().ip());
///
/// let mut otlp = OtlpConfig::new(Protocol::HttpProtobuf);
/// otlp.endpoint = format!("http://collector.test:{}/v1/traces", collector.http_address().port()).parse()?;
/// otlp.resolver = names.resolver();
/// // ... and then, while the service runs:
/// names.hang("collector.test");
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Names {
    book: Arc<Book>,
}

#[derive(Default)]
struct Book {
    entries: Mutex<Entries>,
    changed: Condvar,
}

#[derive(Default)]
struct Entries {
    by_name: HashMap<String, Entry>,
    /// How often a name was asked for.
    asked: HashMap<String, usize>,
    /// Nobody is left who could change an entry.
    is_final: bool,
}

#[derive(Clone, Copy)]
enum Entry {
    At(IpAddr),
    Hangs,
}

impl Names {
    /// No names: each one fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name leads to this address from now on.
    pub fn point(&self, name: &str, address: IpAddr) {
        self.set(name, Some(Entry::At(address)));
    }

    /// From now on there is no such name.
    pub fn fail(&self, name: &str) {
        self.set(name, None);
    }

    /// From now on whoever asks for the name waits, until it is set otherwise or these names are dropped: a name
    /// server that does not answer.
    pub fn hang(&self, name: &str) {
        self.set(name, Some(Entry::Hangs));
    }

    /// How often the name was asked for so far.
    pub fn asked(&self, name: &str) -> usize {
        self.book.entries.lock().unwrap_or_else(PoisonError::into_inner).asked.get(name).copied().unwrap_or(0)
    }

    /// What to give to the exporter's [`OtlpConfig`](crate::config::OtlpConfig::resolver).
    pub fn resolver(&self) -> Resolver {
        let book = Arc::clone(&self.book);
        Resolver::new(move |name| book.look_up(name))
    }

    fn set(&self, name: &str, entry: Option<Entry>) {
        {
            let mut entries = self.book.entries.lock().unwrap_or_else(PoisonError::into_inner);
            match entry {
                Some(entry) => entries.by_name.insert(name.to_owned(), entry),
                None => entries.by_name.remove(name),
            };
        }
        self.book.changed.notify_all();
    }
}

impl Book {
    fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        *entries.asked.entry(name.to_owned()).or_default() += 1;
        loop {
            match entries.by_name.get(name) {
                Some(Entry::At(address)) => return Ok(vec![*address]),
                Some(Entry::Hangs) if !entries.is_final => {
                    entries = self.changed.wait(entries).unwrap_or_else(PoisonError::into_inner);
                }
                _ => return Err(io::Error::new(io::ErrorKind::NotFound, format!("no such host: {name}"))),
            }
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.book.entries.lock().unwrap_or_else(PoisonError::into_inner).is_final = true;
        self.book.changed.notify_all();
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.book.entries.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Names").field("asked", &entries.asked).finish_non_exhaustive()
    }
}
