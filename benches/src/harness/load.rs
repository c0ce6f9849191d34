//! What calls a server: connections that are kept, each of which sends a request, waits for the response's last byte, and sends
//! the next.
//!
//! It builds no requests and parses no more of a response than where it ends, so that it asks less of its processor than the
//! server of its own, and the server is what is measured.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::task::JoinSet;
use tokio::time;

/// How much, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) connections: u32,
    pub(crate) pace: Pace,
    pub(crate) time: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// A connection sends its next request when it has the response to the last.
    Full,
    /// A connection sends a request each time this much has passed, and later only if it waits for a response still.
    Every(Duration),
}

/// What came of it.
pub(crate) struct Answered {
    pub(crate) requests: u64,
    pub(crate) time: Duration,
    /// From the first byte of a request to the last one of the response.
    latency_ns: Histogram<u64>,
}

impl Answered {
    pub(crate) fn nothing_yet() -> Self {
        Self { requests: 0, time: Duration::ZERO, latency_ns: histogram() }
    }

    pub(crate) fn add(&mut self, more: &Self) {
        self.requests += more.requests;
        self.time += more.time;
        self.latency_ns += &more.latency_ns;
    }

    /// In microseconds.
    pub(crate) fn latency_us(&self, part: f64) -> f64 {
        self.latency_ns.value_at_quantile(part) as f64 / 1e3
    }
}

/// Calls the server on this port of this host, from this thread alone.
///
/// # Errors
/// When the server is not there, goes away, or answers with anything but 200.
pub(crate) fn run(load: Load, port: u16, request: &'static [u8]) -> io::Result<Answered> {
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..load.connections {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        let start = Instant::now();
        let mut connections = JoinSet::new();
        for (stream, place) in streams.into_iter().zip(0..) {
            connections.spawn(connection(load, place, stream, request, start));
        }
        let mut latency_ns = histogram();
        while let Some(ended) = connections.join_next().await {
            latency_ns += ended.map_err(io::Error::other)??;
        }
        Ok(Answered { requests: latency_ns.len(), time: start.elapsed(), latency_ns })
    })
}

async fn connection(
    load: Load,
    place: u32,
    mut stream: TcpStream,
    request: &[u8],
    start: Instant,
) -> io::Result<Histogram<u64>> {
    let mut latency_ns = histogram();
    let mut response = vec![0; RESPONSE_BYTES_MAX];
    let mut pace = match load.pace {
        Pace::Full => None,
        // One after the other, and not all at once.
        Pace::Every(period) => {
            Some(time::interval_at((start + period * place / load.connections).into(), period))
        }
    };
    loop {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let sent = Instant::now();
        if sent - start >= load.time {
            return Ok(latency_ns);
        }
        stream.write_all(request).await?;
        let mut filled = 0;
        loop {
            match stream.read(&mut response[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
            if response_length(&response[..filled])?.is_some_and(|length| filled >= length) {
                break;
            }
        }
        latency_ns.saturating_record(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
}

/// A head and a few words.
const RESPONSE_BYTES_MAX: usize = 4096;

/// Of up to a minute, to a thousandth.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

/// The length of a response with its body, once its head is there.
fn response_length(response: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = response.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(None) };
    let head = str::from_utf8(&response[..end]).map_err(|_| io::ErrorKind::InvalidData)?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(format!("a response was not 200: {head}")));
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Ok(Some(end + 4 + length.ok_or(io::ErrorKind::InvalidData)?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_response_ends_where_its_head_says() {
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nan item";
        assert_eq!(response_length(response).unwrap(), Some(response.len()));
        assert_eq!(response_length(&response[..20]).unwrap(), None);
        assert!(response_length(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(response_length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn every_response_is_counted() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut requests = 0;
            let mut request = [0; 8];
            while stream.read_exact(&mut request).is_ok() {
                assert_eq!(request, *b"a call\r\n");
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab").unwrap();
                requests += 1;
            }
            requests
        });
        let pace = Pace::Every(Duration::from_millis(5));
        let load = Load { connections: 1, pace, time: Duration::from_millis(50) };
        let answered = run(load, port, b"a call\r\n").unwrap();
        assert_eq!(server.join().unwrap(), answered.requests);
        assert!((1..=11).contains(&answered.requests));
        assert!(answered.latency_us(0.5) <= answered.latency_us(0.99));
        let mut all = Answered::nothing_yet();
        all.add(&answered);
        all.add(&answered);
        assert_eq!((all.requests, all.time), (2 * answered.requests, 2 * answered.time));
        assert_eq!(all.latency_us(0.5), answered.latency_us(0.5));
    }
}
