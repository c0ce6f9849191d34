//! How the exporter finds the address of a host.

use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;

/// Finds the addresses of a collector's host name: the system's resolver, or one of your own.
///
/// It is asked at each new connection, on a thread that may wait; never for a host that is an address. One that hangs
/// costs the exporter two of its threads, and the spans that it cannot send: nothing else waits for it, and neither
/// does a flush or a shutdown.
#[derive(Clone, Default)]
pub struct Resolver(Option<Arc<LookUp>>);

type LookUp = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

impl Resolver {
    /// The system's: `getaddrinfo`.
    pub const fn system() -> Self {
        Self(None)
    }

    /// One of your own, which may block.
    pub fn new(look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(look_up)))
    }

    /// Asks it.
    ///
    /// # Errors
    /// There is no such host, or nobody who knows.
    ///
    /// # Blocking
    /// For as long as it takes.
    #[cfg_attr(not(any(feature = "http", feature = "grpc")), allow(dead_code))]
    pub(crate) fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        match &self.0 {
            Some(look_up) => look_up(name),
            None => Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect()),
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Resolver(own)" } else { "Resolver(system)" })
    }
}
