//! One connection's bytes, and the faults that lie in them and not in an answer: cut, broken off, slow, nonsense.
//!
//! A request that is told to misbehave so gives its connection a [`Trouble`]; the stream below hyper obeys it. What hyper
//! holds of the stream comes back when it is dropped, so that nonsense can follow where an answer would.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Sleep;

use super::behaviour::Random;

/// What is wrong with a connection from now on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Trouble {
    #[default]
    None,
    /// It is reset at once.
    Reset,
    /// It carries so many random bytes, and is closed.
    Garbage(u64),
    /// It carries so many bytes more, and is closed.
    BreakOff(usize),
    /// It carries a byte after each pause.
    Drip(Duration),
}

/// What a request knows of the connection it came by.
#[derive(Default)]
pub(super) struct Line {
    trouble: Mutex<Trouble>,
    /// Nobody serves the connection any more.
    end: Notify,
    /// What is left of it then.
    rest: Mutex<Option<Stream>>,
}

impl Line {
    pub(super) fn give(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        if matches!(trouble, Trouble::Reset | Trouble::Garbage(_)) {
            self.end.notify_one();
        }
    }

    /// Returns when the connection is to be served no longer.
    pub(super) async fn ended(&self) {
        self.end.notified().await;
    }

    /// What follows when nobody serves the connection any more.
    pub(super) async fn last_words(&self) {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(mut stream), Trouble::Garbage(bytes)) = (rest, self.trouble()) else { return };
        let garbage = garbage();
        let mut left = bytes;
        while left > 0 {
            let piece = garbage.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            // Whoever asked has gone away, which was to be expected.
            let Ok(()) = stream.write_all(&garbage[..piece]).await else { return };
            left -= piece as u64;
        }
        // The other side reads what came before it learns of the end.
        let _ = stream.shutdown().await;
        let mut sink = [0; 4096];
        while poll_fn(|cx| {
            let mut buffer = ReadBuf::new(&mut sink);
            let filled = ready!(Pin::new(&mut stream).poll_read(cx, &mut buffer));
            Poll::Ready(filled.is_ok() && !buffer.filled().is_empty())
        })
        .await
        {}
    }

    fn trouble(&self) -> Trouble {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Random bytes, the same ones each time.
pub(super) fn garbage() -> Bytes {
    let mut random = Random::new(0);
    (0..GARBAGE_BYTES / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// So many random bytes are made, and repeated.
const GARBAGE_BYTES: usize = 64 * 1024;

/// A connection, encrypted or not.
pub(super) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

/// What hyper reads and writes.
pub(super) struct Io {
    /// `None` after the drop alone.
    stream: Option<Stream>,
    line: Arc<Line>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Io {
    pub(super) const fn new(stream: Stream, line: Arc<Line>) -> Self {
        Self { stream: Some(stream), line, pause: None }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut Stream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>, pause: Duration) -> Poll<()> {
        let sleep = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        ready!(sleep.as_mut().poll(cx));
        self.pause = None;
        Poll::Ready(())
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        match self.line.trouble() {
            // The kernel sends a reset in place of a proper end.
            Trouble::Reset => drop(stream.tcp().set_zero_linger()),
            Trouble::Garbage(_) => {
                *self.line.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
            }
            _ => {}
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.line.trouble() {
            Trouble::None => self.stream()?.poll_write(cx, bytes),
            Trouble::Drip(pause) => {
                ready!(self.poll_pause(cx, pause));
                self.stream()?.poll_write(cx, &bytes[..bytes.len().min(1)])
            }
            Trouble::BreakOff(0) => {
                self.line.end.notify_one();
                Poll::Pending
            }
            Trouble::BreakOff(left) => {
                let written = ready!(self.stream()?.poll_write(cx, &bytes[..bytes.len().min(left)]))?;
                self.line.give(Trouble::BreakOff(left - written));
                Poll::Ready(Ok(written))
            }
            // Nobody serves the connection any more.
            Trouble::Reset | Trouble::Garbage(_) => Poll::Pending,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

/// Calls the same method of whichever stream it is.
macro_rules! either {
    ($self:ident, $method:ident($($argument:expr),*)) => {
        match $self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).$method($($argument),*),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(&mut **stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_shutdown(cx))
    }
}
