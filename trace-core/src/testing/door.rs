//! A port of the collector: whether anybody listens there, and whether what came in is looked at.
//!
//! The accept loop is our own, not a framework's, because a fault can be here as well as in an answer: nobody listens, or
//! somebody does and stands still, or the address has changed.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::behaviour::Stance;

/// How long a port may take to close or open before a test goes on without it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How often a port is tried that is still taken, a millisecond apart.
const TRIES: usize = 1_000;

/// How many connections the kernel takes before somebody accepts them.
const BACKLOG: u32 = 1024;

/// A port that can be shut, frozen, moved and opened again while the collector runs.
pub(super) struct Door {
    address: Arc<Mutex<SocketAddr>>,
    orders: mpsc::UnboundedSender<Order>,
}

/// What a door is told, and who waits until it is done.
struct Order {
    what: What,
    done: std_mpsc::Sender<io::Result<()>>,
}

enum What {
    Stand(Stance),
    Move(IpAddr),
}

/// An order that was given.
pub(super) struct Given(std_mpsc::Receiver<io::Result<()>>);

impl Door {
    /// A door on this listener, and the future that serves it for as long as it is polled: each connection is given to
    /// `serve`. To be called on the runtime that will poll it.
    pub(super) fn open<F>(
        listener: StdListener,
        serve: impl Fn(TcpStream) -> F + Send,
    ) -> io::Result<(Self, impl Future<Output = ()> + Send)>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let address = Arc::new(Mutex::new(listener.local_addr()?));
        listener.set_nonblocking(true)?;
        let ear = Ear::Listening(TcpListener::from_std(listener)?);
        let (orders, told) = mpsc::unbounded_channel();
        let keeper = Keeper { address: Arc::clone(&address), ear, stance: Stance::Open };
        Ok((Self { address, orders }, keeper.keep(told, serve)))
    }

    pub(super) fn address(&self) -> SocketAddr {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Orders are carried out in the order in which they were given.
    pub(super) fn stand(&self, stance: Stance) -> Given {
        self.order(What::Stand(stance))
    }

    pub(super) fn move_to(&self, ip: IpAddr) -> Given {
        self.order(What::Move(ip))
    }

    fn order(&self, what: What) -> Given {
        let (done, is_done) = std_mpsc::channel();
        // A door that is not kept any more does nothing.
        let _ = self.orders.send(Order { what, done });
        Given(is_done)
    }
}

impl Given {
    /// Waits until it is so.
    pub(super) fn wait(self) -> io::Result<()> {
        self.0.recv_timeout(TIMEOUT).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

struct Keeper {
    address: Arc<Mutex<SocketAddr>>,
    ear: Ear,
    stance: Stance,
}

/// What holds the port.
enum Ear {
    Listening(TcpListener),
    /// Bound but not listening, so that connections are refused and nobody else can take the port.
    Held(TcpSocket),
    /// It could not even be bound.
    Lost,
}

impl Keeper {
    async fn keep<F>(mut self, mut told: mpsc::UnboundedReceiver<Order>, serve: impl Fn(TcpStream) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut connections = JoinSet::new();
        let frozen = watch::Sender::new(false);
        loop {
            tokio::select! {
                order = told.recv() => {
                    let Some(Order { what, done }) = order else { return };
                    let moves = matches!(what, What::Move(_));
                    let was = self.stance;
                    let result = match what {
                        What::Stand(stance) => self.stand_soon(stance).await,
                        What::Move(ip) => self.move_to(ip),
                    };
                    if moves || (was != Stance::Shut && self.stance == Stance::Shut) {
                        connections.shutdown().await;
                    }
                    frozen.send_replace(self.stance == Stance::Frozen);
                    // Not everybody waits.
                    let _ = done.send(result);
                }
                accepted = self.accept() => {
                    // Out of descriptors, or a caller that is gone already: neither ends the collector.
                    let Ok((stream, _)) = accepted else { continue };
                    connections.spawn(unless(frozen.subscribe(), serve(stream)));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match &self.ear {
            Ear::Listening(listener) if self.stance == Stance::Open => listener.accept().await,
            _ => std::future::pending().await,
        }
    }

    /// As [`stand`](Self::stand). Where the port is still taken it is tried again: a process that is being started has a copy of
    /// the old listener until it is another program, which is a moment.
    async fn stand_soon(&mut self, stance: Stance) -> io::Result<()> {
        for _ in 0..TRIES {
            if self.stand(stance).is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.stand(stance)
    }

    fn stand(&mut self, stance: Stance) -> io::Result<()> {
        let address = *self.address.lock().unwrap_or_else(PoisonError::into_inner);
        self.stance = stance;
        match (std::mem::replace(&mut self.ear, Ear::Lost), stance) {
            (Ear::Listening(listener), Stance::Shut) => {
                drop(listener);
                self.ear = Ear::Held(bind(address)?);
            }
            (Ear::Held(socket), Stance::Open | Stance::Frozen) => {
                self.ear = Ear::Listening(socket.listen(BACKLOG)?);
            }
            (Ear::Lost, Stance::Open | Stance::Frozen) => {
                self.ear = Ear::Listening(bind(address)?.listen(BACKLOG)?);
            }
            (ear, _) => self.ear = ear,
        }
        Ok(())
    }

    fn move_to(&mut self, ip: IpAddr) -> io::Result<()> {
        let mut address = self.address.lock().unwrap_or_else(PoisonError::into_inner);
        let there = SocketAddr::new(ip, address.port());
        let socket = bind(there)?;
        self.ear = match self.stance {
            Stance::Shut => Ear::Held(socket),
            _ => Ear::Listening(socket.listen(BACKLOG)?),
        };
        *address = there;
        Ok(())
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections that were open a moment ago must not keep us from our own port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Goes on with a connection while the collector is not frozen.
async fn unless(mut frozen: watch::Receiver<bool>, connection: impl Future<Output = ()>) {
    tokio::pin!(connection);
    loop {
        // The keeper, who would change it, ends with its connections.
        let Ok(_) = frozen.wait_for(|frozen| !frozen).await else { return };
        tokio::select! {
            biased;
            _ = frozen.wait_for(|frozen| *frozen) => {}
            () = &mut connection => return,
        }
    }
}
