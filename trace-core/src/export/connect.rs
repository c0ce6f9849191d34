//! How a connection to the collector is begun: what may block, on which threads, and how many of them.
//!
//! The system resolves names and reads certificates by calls that block, and that may block for ever: a name server or a
//! network file system that does not answer. A transport has two threads for such work. When both hang, what comes next
//! waits for one of them until its own deadline; so the worker's other threads stay free, and nothing piles up.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::vec;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::Semaphore;
use tower_service::Service;

use crate::config::Resolver;

/// The most threads of a transport that block at a time: one would be held up by a single lookup that is never answered.
const BLOCKED_MAX: usize = 2;

/// The threads on which a transport may block.
#[derive(Clone)]
pub(crate) struct MayBlock(Arc<Semaphore>);

impl MayBlock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BLOCKED_MAX)))
    }

    /// Does something that may block; `None` if it panicked. Whoever stops waiting frees no thread.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let permit = Arc::clone(&self.0).acquire_owned().await.ok()?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
        .ok()
    }
}

/// Makes TCP connections to hosts that this resolver knows.
pub(crate) type TcpConnector = HttpConnector<Lookup>;

pub(crate) fn tcp_connector(resolver: &Resolver, may_block: &MayBlock) -> TcpConnector {
    let lookup = Lookup { resolver: resolver.clone(), may_block: may_block.clone() };
    let mut connector = HttpConnector::new_with_resolver(lookup);
    connector.set_nodelay(true);
    // Whether there is TLS above it is decided elsewhere.
    connector.enforce_http(false);
    connector
}

#[derive(Clone)]
pub(crate) struct Lookup {
    resolver: Resolver,
    may_block: MayBlock,
}

impl Service<Name> for Lookup {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { resolver, may_block } = self.clone();
        Box::pin(async move {
            let found = may_block.run(move || resolver.look_up(name.as_str())).await;
            let addresses = found.unwrap_or_else(|| Err(io::Error::other("the resolver panicked")))?;
            // The connector sets the port.
            let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(addresses.collect::<Vec<_>>().into_iter())
        })
    }
}
