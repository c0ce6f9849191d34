//! A collector that takes everything, on a port of this host, in the runner's process, so that it costs the measured ones
//! nothing; and two that take nothing.
//!
//! It speaks HTTP/1.1 or gRPC and counts what it takes, so that an answer can say that all spans arrived, or how many did not.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use super::grpc_sink;

/// The collector. Its threads end with the process.
pub(crate) struct Sink {
    endpoint: String,
    taken: Arc<Taken>,
}

/// A span as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) attributes: usize,
}

/// What came so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) spans: u64,
    /// Of the requests' bodies, as they were on the wire.
    pub(crate) bytes: u64,
}

/// A collector that accepts connections, and never answers.
pub(crate) struct Hanging {
    endpoint: String,
}

/// What is kept of the requests.
#[derive(Default)]
pub(super) struct Taken {
    first: Mutex<Option<Vec<u8>>>,
    requests: AtomicU64,
    spans: AtomicU64,
    bytes: AtomicU64,
}

impl Sink {
    /// Speaks HTTP/1.1.
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(LOCAL)?;
        let endpoint = http_endpoint(&listener)?;
        let taken = Arc::new(Taken::default());
        let kept = taken.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                // A client that goes away in the middle of a request is its own business.
                thread::spawn(move || drop(serve(stream, &kept)));
            }
        });
        Ok(Self { endpoint, taken })
    }

    /// Speaks gRPC.
    pub(crate) fn start_grpc() -> io::Result<Self> {
        let listener = TcpListener::bind(LOCAL)?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let taken = Arc::new(Taken::default());
        grpc_sink::start(listener, taken.clone())?;
        Ok(Self { endpoint, taken })
    }

    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// The span with the most attributes in the first request since the last look: what a subject really sends.
    pub(crate) fn take_arrived(&self) -> Option<Arrived> {
        let body = self.taken.first.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let request = ExportTraceServiceRequest::decode(body.as_slice()).ok()?;
        let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        let attributes = scopes.flat_map(|scope| &scope.spans).map(|span| span.attributes.len()).max()?;
        Some(Arrived { attributes })
    }

    pub(crate) fn tally(&self) -> Tally {
        let Taken { requests, spans, bytes, .. } = &*self.taken;
        let read = |count: &AtomicU64| count.load(Ordering::Acquire);
        Tally { requests: read(requests), spans: read(spans), bytes: read(bytes) }
    }
}

impl Hanging {
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(LOCAL)?;
        let endpoint = http_endpoint(&listener)?;
        thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming().flatten() {
                kept.push(stream);
            }
        });
        Ok(Self { endpoint })
    }

    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }
}

/// Where nobody listens.
pub(crate) fn refusing_endpoint() -> io::Result<String> {
    http_endpoint(&TcpListener::bind(LOCAL)?)
}

const LOCAL: (&str, u16) = ("127.0.0.1", 0);

fn http_endpoint(listener: &TcpListener) -> io::Result<String> {
    Ok(format!("http://{}/v1/traces", listener.local_addr()?))
}

fn serve(stream: TcpStream, taken: &Taken) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut answers = stream.try_clone()?;
    let mut requests = BufReader::with_capacity(1 << 16, stream);
    let mut body = Vec::new();
    while let Some(head) = read_head(&mut requests)? {
        body.resize(head.length, 0);
        requests.read_exact(&mut body)?;
        // Without a body it is no export: clients that are measured call here too, because any server would do.
        if !body.is_empty() {
            taken.take(&body, head.gzip)?;
        }
        answers.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n",
        )?;
    }
    Ok(())
}

/// What a request's head says about its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    length: usize,
    gzip: bool,
}

/// `None` at the end of the connection.
fn read_head(requests: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut head = Head::default();
    let mut line = String::new();
    loop {
        line.clear();
        if requests.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(head));
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            head.length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        } else if name.eq_ignore_ascii_case("content-encoding") {
            head.gzip = value.trim().eq_ignore_ascii_case("gzip");
        }
    }
}

impl Taken {
    /// Counts a request before it is answered, so that whoever waits for the answer finds it counted.
    pub(super) fn take(&self, body: &[u8], gzip: bool) -> io::Result<()> {
        let message = if gzip { Cow::Owned(gunzip(body)?) } else { Cow::Borrowed(body) };
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| message.to_vec());
        self.requests.fetch_add(1, Ordering::Release);
        self.spans.fetch_add(count_spans(&message), Ordering::Release);
        self.bytes.fetch_add(body.len() as u64, Ordering::Release);
        Ok(())
    }
}

fn gunzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    GzDecoder::new(body).read_to_end(&mut message)?;
    Ok(message)
}

/// The spans of an encoded `ExportTraceServiceRequest`. Nothing below them is looked at: a collector that decoded everything
/// would take the processor from those that are measured.
fn count_spans(request: &[u8]) -> u64 {
    let scopes = |resource| Fields { message: resource, number: 2 };
    let spans = |scope| Fields { message: scope, number: 2 };
    let resources = Fields { message: request, number: 1 };
    resources.flat_map(scopes).map(|scope| spans(scope).count() as u64).sum()
}

/// The fields of one number in a protobuf message, all of them nested messages. It ends where the message is malformed.
struct Fields<'a> {
    message: &'a [u8],
    number: u64,
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let key = self.varint()?;
            let value = match key & 7 {
                0 => {
                    self.varint()?;
                    continue;
                }
                1 => self.bytes(8)?,
                2 => {
                    let length = self.varint()?;
                    self.bytes(usize::try_from(length).ok()?)?
                }
                5 => self.bytes(4)?,
                _ => return None,
            };
            if key == self.number << 3 | 2 {
                return Some(value);
            }
        }
    }
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = *self.bytes(1)? else { return None };
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.message.split_at_checked(length)?;
        self.message = rest;
        Some(bytes)
    }
}

impl Sub for Tally {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            spans: self.spans - before.spans,
            bytes: self.bytes - before.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

    use super::*;

    #[test]
    fn a_head_tells_of_the_body() {
        let mut requests =
            &b"POST / HTTP/1.1\r\nContent-Length: 12\r\nContent-Encoding: gzip\r\nhost: a\r\n\r\nrest"[..];
        assert_eq!(read_head(&mut requests).unwrap(), Some(Head { length: 12, gzip: true }));
        assert_eq!(requests, b"rest");
        assert_eq!(read_head(&mut &b""[..]).unwrap(), None);
    }

    #[test]
    fn a_request_without_a_body_is_no_export() {
        let sink = Sink::start().unwrap();
        let address = sink.endpoint().trim_start_matches("http://").trim_end_matches("/v1/traces").to_owned();
        let mut stream = TcpStream::connect(address).unwrap();
        let mut answer = [0; 90];
        stream.write_all(b"GET /items HTTP/1.1\r\n\r\n").unwrap();
        stream.read_exact(&mut answer[..12]).unwrap();
        assert_eq!(&answer[..12], b"HTTP/1.1 200");
        assert_eq!(sink.tally().requests, 0);
        stream.write_all(b"POST /v1/traces HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}").unwrap();
        // The end of the first answer comes before the second.
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(sink.tally().requests, 1);
    }

    fn request() -> Vec<u8> {
        let span = Span { name: "a".into(), start_time_unix_nano: 7, flags: 1, ..Span::default() };
        let scope = |spans| ScopeSpans { spans: vec![span.clone(); spans], ..ScopeSpans::default() };
        let resource = ResourceSpans {
            resource: Some(Resource { dropped_attributes_count: 300, ..Resource::default() }),
            scope_spans: vec![scope(200), scope(0), scope(1)],
            schema_url: "https://example.com".into(),
        };
        ExportTraceServiceRequest { resource_spans: vec![resource.clone(), resource] }.encode_to_vec()
    }

    #[test]
    fn spans_are_counted_without_decoding_them() {
        let request = request();
        assert_eq!(count_spans(&request), 402);
        assert_eq!(count_spans(&[]), 0);
        assert_eq!(count_spans(&request[..request.len() / 2]), 201);
    }

    #[test]
    fn a_compressed_body_counts_as_it_was_on_the_wire() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&request()).unwrap();
        let body = encoder.finish().unwrap();
        let sink = Sink { endpoint: String::new(), taken: Arc::default() };
        sink.taken.take(&body, true).unwrap();
        assert_eq!(sink.tally(), Tally { requests: 1, spans: 402, bytes: body.len() as u64 });
        assert_eq!(sink.take_arrived(), Some(Arrived { attributes: 0 }));
    }
}
