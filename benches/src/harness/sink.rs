//! A collector that takes everything: HTTP/1.1 on a port of this host, in the runner's process, so that it costs the
//! measured ones nothing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

/// The collector. Its threads end with the process.
pub(crate) struct Sink {
    port: u16,
    first: Arc<Mutex<Option<Vec<u8>>>>,
}

/// A span as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) attributes: usize,
}

impl Sink {
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let first = Arc::new(Mutex::new(None));
        let kept = first.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                // A client that goes away in the middle of a request is its own business.
                thread::spawn(move || drop(serve(stream, &kept)));
            }
        });
        Ok(Self { port, first })
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/v1/traces", self.port)
    }

    /// The span with the most attributes in the first request since the last look: what a subject really sends.
    pub(crate) fn take_arrived(&self) -> Option<Arrived> {
        let body = self.first.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let request = ExportTraceServiceRequest::decode(body.as_slice()).ok()?;
        let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        let attributes = scopes.flat_map(|scope| &scope.spans).map(|span| span.attributes.len()).max()?;
        Some(Arrived { attributes })
    }
}

fn serve(stream: TcpStream, first: &Mutex<Option<Vec<u8>>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut answers = stream.try_clone()?;
    let mut requests = BufReader::with_capacity(1 << 16, stream);
    let mut body = Vec::new();
    while let Some(length) = read_head(&mut requests)? {
        body.resize(length, 0);
        requests.read_exact(&mut body)?;
        // Without a body it is no export: clients that are measured call here too, because any server would do.
        if !body.is_empty() {
            first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| body.clone());
        }
        answers.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n",
        )?;
    }
    Ok(())
}

/// The length of the request's body; `None` at the end of the connection.
fn read_head(requests: &mut impl BufRead) -> io::Result<Option<usize>> {
    let mut length = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if requests.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(length));
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_the_length_of_the_body() {
        let mut requests = &b"POST / HTTP/1.1\r\nContent-Length: 12\r\nhost: a\r\n\r\nrest"[..];
        assert_eq!(read_head(&mut requests).unwrap(), Some(12));
        assert_eq!(requests, b"rest");
        assert_eq!(read_head(&mut &b""[..]).unwrap(), None);
    }

    #[test]
    fn a_request_without_a_body_is_no_export() {
        let sink = Sink::start().unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", sink.port)).unwrap();
        let mut answer = [0; 12];
        stream.write_all(b"GET /items HTTP/1.1\r\n\r\n").unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        assert!(sink.first.lock().unwrap().is_none());
        stream.write_all(b"POST /v1/traces HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}").unwrap();
        // The end of the first answer comes before the second.
        let mut second = [0; 90];
        stream.read_exact(&mut second).unwrap();
        assert_eq!(sink.first.lock().unwrap().as_deref(), Some(&b"{}"[..]));
    }
}
