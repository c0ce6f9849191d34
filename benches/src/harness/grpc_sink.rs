//! The gRPC half of the collector: HTTP/2 with unary calls, each of which is taken whole and answered with an empty message.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use bytes::{Buf, Bytes};
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;
use tokio::runtime;

use super::sink::Taken;

/// Serves on a thread of its own, until the process ends.
pub(super) fn start(listener: TcpListener, taken: Arc<Taken>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    thread::spawn(move || {
        runtime.block_on(async {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that goes away in the middle of a call is its own business.
                tokio::spawn(serve(stream, taken.clone()));
            }
        });
    });
    Ok(())
}

/// The flow-control windows that tonic's server opens.
const WINDOW_BYTES: u32 = 1 << 20;

async fn serve(stream: TcpStream, taken: Arc<Taken>) -> Result<(), h2::Error> {
    // Without it the answers wait for the client's acknowledgements.
    stream.set_nodelay(true).map_err(|_| h2::Reason::INTERNAL_ERROR)?;
    let mut connection = server::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake::<_, Bytes>(stream)
        .await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        tokio::spawn(answer(request, respond, taken.clone()));
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    taken: Arc<Taken>,
) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    let mut frame = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        frame.extend_from_slice(&data);
    }
    let status = match message(&frame).map(|(message, gzip)| taken.take(message, gzip)) {
        Some(Ok(())) => "0",
        // INVALID_ARGUMENT
        Some(Err(_)) | None => "3",
    };
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .map_err(|_| h2::Reason::INTERNAL_ERROR)?;
    let mut stream = respond.send_response(response, false)?;
    // An empty message: not compressed, of length 0.
    stream.send_data(Bytes::from_static(&[0; 5]), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    stream.send_trailers(trailers)
}

/// The message of a unary call, and whether it is compressed, which can only be by gzip here.
fn message(mut frame: &[u8]) -> Option<(&[u8], bool)> {
    let compressed = frame.try_get_u8().ok()? == 1;
    let length = frame.try_get_u32().ok()?;
    (frame.len() == length as usize).then_some((frame, compressed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_flag_a_length_and_the_message() {
        assert_eq!(message(b"\x01\0\0\0\x03abc"), Some((&b"abc"[..], true)));
        assert_eq!(message(b"\0\0\0\0\0"), Some((&b""[..], false)));
        assert_eq!(message(b"\0\0\0\0\x04abc"), None);
        assert_eq!(message(b"\0\0"), None);
    }
}
