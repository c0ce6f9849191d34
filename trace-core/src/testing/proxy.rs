//! A network between two parties, in user space: it is slow, it loses, it is cut.
//!
//! What TCP makes of a lost packet is what its user sees: nothing for a while, then everything. So loss is a wait here,
//! and a partition that heals is bytes that arrive late. What cannot be had without the kernel is a connection that
//! nobody answers: here the kernel takes every connection, and what is silent is what comes after.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::behaviour::Random;
use super::stage::Stage;

/// A TCP proxy on loopback whose traffic a test can hinder. It stops when it is dropped.
///
/// ```
/// # use std::time::Duration;
/// # use trace_core::testing::{Collector, Proxy, Traffic};
/// # async fn example() -> std::io::Result<()> {
/// let collector = Collector::start().await?;
/// let network = Proxy::start(collector.http_address()).await?;
/// // ... the service under test exports to `http://{network.address()}/v1/traces` ...
/// network.set(Traffic::Delayed(Duration::from_millis(80)));
/// network.set(Traffic::Stalled);
/// network.set(Traffic::Flowing);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    traffic: Arc<watch::Sender<Traffic>>,
    _stage: Stage,
}

/// What a [`Proxy`] does with the bytes that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Traffic {
    /// Passes them on.
    Flowing,
    /// Passes them on this much later, in both directions. What is on the way keeps the delay that it was given.
    Delayed(Duration),
    /// Loses so many of a hundred pieces: each such piece, and what follows it, comes 200 ms later, which is what TCP
    /// takes to send it again. The same `seed` loses the same.
    Lossy {
        /// From 0 to 100.
        percent: u8,
        /// Which ones are lost.
        seed: u64,
    },
    /// Passes nothing on: a partition. What has come is passed on when the traffic flows again.
    Stalled,
    /// Passes requests on and no answers.
    OneWay,
    /// Resets connections, and each new one.
    Cut,
}

/// After this Linux sends again at the earliest what was not acknowledged.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// The most pieces on the way in one direction of a connection: then the sender waits.
const PIECES_MAX: usize = 64;

/// The largest piece in bytes.
const PIECE_BYTES: usize = 16 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

impl Proxy {
    /// A proxy on a free port of 127.0.0.1, to this address.
    ///
    /// # Errors
    /// No port could be bound, or no thread started.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        Self::start_blocking(target)
    }

    /// The same where no runtime is.
    ///
    /// # Errors
    /// No port could be bound, or no thread started.
    pub fn start_blocking(target: SocketAddr) -> io::Result<Self> {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stage = Stage::start("tcp-proxy")?;
        let listener = {
            let _reactor = stage.handle().enter();
            TcpListener::from_std(listener)?
        };
        let traffic = Arc::new(watch::Sender::new(Traffic::Flowing));
        stage.handle().spawn(serve(listener, target, Arc::clone(&traffic)));
        Ok(Self { address, traffic, _stage: stage })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does from now on, with connections that are open too.
    pub fn set(&self, traffic: Traffic) {
        self.traffic.send_replace(traffic);
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, traffic: Arc<watch::Sender<Traffic>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(connection(stream, target, traffic.subscribe()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(mut near: TcpStream, target: SocketAddr, traffic: watch::Receiver<Traffic>) {
    let pass = async {
        let mut passing = traffic.clone();
        passing.wait_for(|traffic| traffic.passes(Direction::Request)).await.ok()?;
        let mut far = TcpStream::connect(target).await.ok()?;
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let (from_near, to_near) = near.split();
        let (from_far, to_far) = far.split();
        tokio::join!(
            pump(from_near, to_far, Direction::Request, &traffic),
            pump(from_far, to_near, Direction::Answer, &traffic)
        );
        Some(())
    };
    let mut cutting = traffic.clone();
    let is_cut = tokio::select! {
        biased;
        _ = cutting.wait_for(|traffic| *traffic == Traffic::Cut) => true,
        passed = pass => passed.is_none(),
    };
    if is_cut {
        // The kernel sends a reset in place of a proper end.
        let _ = near.set_zero_linger();
    }
}

/// Passes bytes on, each piece when it is due.
async fn pump(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    direction: Direction,
    traffic: &watch::Receiver<Traffic>,
) {
    let (pieces, arriving) = mpsc::channel(PIECES_MAX);
    tokio::join!(take(from, pieces, traffic.clone()), give(to, arriving, direction, traffic.clone()));
}

async fn take(
    mut from: impl AsyncRead + Unpin,
    pieces: mpsc::Sender<(Instant, Bytes)>,
    traffic: watch::Receiver<Traffic>,
) {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut lost = None;
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        let delay = match *traffic.borrow() {
            Traffic::Delayed(delay) => delay,
            Traffic::Lossy { percent, seed } => {
                let random: &mut Random = lost.get_or_insert_with(|| Random::new(seed));
                if random.below(100) < u64::from(percent) { RETRANSMISSION } else { Duration::ZERO }
            }
            _ => Duration::ZERO,
        };
        let piece = (Instant::now() + delay, Bytes::copy_from_slice(&buffer[..bytes]));
        let Ok(()) = pieces.send(piece).await else { return };
    }
}

async fn give(
    mut to: impl AsyncWrite + Unpin,
    mut arriving: mpsc::Receiver<(Instant, Bytes)>,
    direction: Direction,
    mut traffic: watch::Receiver<Traffic>,
) {
    while let Some((due, piece)) = arriving.recv().await {
        tokio::time::sleep_until(due).await;
        let Ok(_) = traffic.wait_for(|traffic| traffic.passes(direction)).await else { return };
        let Ok(()) = to.write_all(&piece).await else { return };
    }
    // The end is passed on too, and not through a partition.
    let Ok(_) = traffic.wait_for(|traffic| traffic.passes(direction)).await else { return };
    let _ = to.shutdown().await;
}

impl Traffic {
    const fn passes(self, direction: Direction) -> bool {
        match self {
            Self::Flowing | Self::Delayed(_) | Self::Lossy { .. } => true,
            Self::Stalled | Self::Cut => false,
            Self::OneWay => matches!(direction, Direction::Request),
        }
    }
}
