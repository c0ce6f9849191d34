//! What a collector answers: how many spans it rejected, and when it wants to be asked again.
//!
//! An answer comes from the network, so it may be anything. What cannot be read says nothing.

use std::time::Duration;

use super::reader::{DecodeError, Reader};

/// `ExportTraceServiceResponse.partial_success`: the collector took the request, and says something about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PartialSuccess {
    /// The spans that were rejected, for good.
    pub(crate) rejected_spans: u64,
    /// Why, or a warning if none were.
    pub(crate) error_message: String,
}

/// A `google.rpc.Status`, as far as OTLP uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RpcStatus {
    pub(crate) message: String,
    /// `RetryInfo.retry_delay`, from the details.
    pub(crate) retry_delay: Option<Duration>,
}

const RETRY_INFO: &str = "google.rpc.RetryInfo";

/// Reads an `ExportTraceServiceResponse`.
pub(crate) fn partial_success(response: &[u8]) -> Result<PartialSuccess, DecodeError> {
    let mut found = PartialSuccess::default();
    let mut fields = Reader::new(response);
    while let Some((number, payload)) = fields.next()? {
        if number != 1 {
            continue;
        }
        let mut fields = payload.message("ExportTraceServiceResponse.partial_success")?;
        while let Some((number, payload)) = fields.next()? {
            match number {
                1 => {
                    let rejected = payload.varint("ExportTracePartialSuccess.rejected_spans")? as i64;
                    found.rejected_spans = u64::try_from(rejected).unwrap_or(0);
                }
                2 => {
                    found.error_message = payload.text("ExportTracePartialSuccess.error_message")?.to_owned()
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Reads a `google.rpc.Status`: the body of a refusal over HTTP, or `grpc-status-details-bin`.
pub(crate) fn rpc_status(status: &[u8]) -> Result<RpcStatus, DecodeError> {
    let mut found = RpcStatus::default();
    let mut fields = Reader::new(status);
    while let Some((number, payload)) = fields.next()? {
        match number {
            2 => found.message = payload.text("Status.message")?.to_owned(),
            3 => {
                if let Some(delay) = retry_info(payload.message("Status.details")?)? {
                    found.retry_delay = Some(delay);
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The delay in a `google.protobuf.Any`, if it holds a `RetryInfo`.
fn retry_info(mut any: Reader<'_>) -> Result<Option<Duration>, DecodeError> {
    let (mut type_url, mut value) = ("", Reader::new(&[]));
    while let Some((number, payload)) = any.next()? {
        match number {
            1 => type_url = payload.text("Any.type_url")?,
            2 => value = payload.message("Any.value")?,
            _ => {}
        }
    }
    if type_url.rsplit('/').next() != Some(RETRY_INFO) {
        return Ok(None);
    }
    while let Some((number, payload)) = value.next()? {
        if number != 1 {
            continue;
        }
        let (mut seconds, mut nanos) = (0, 0);
        let mut duration = payload.message("RetryInfo.retry_delay")?;
        while let Some((number, payload)) = duration.next()? {
            match number {
                1 => seconds = payload.varint("Duration.seconds")? as i64,
                2 => nanos = payload.varint32("Duration.nanos")? as i32,
                _ => {}
            }
        }
        // A negative delay is none, and a second has a thousand million nanoseconds at most.
        let seconds = u64::try_from(seconds).unwrap_or(0);
        let nanos = u32::try_from(nanos).unwrap_or(0).min(999_999_999);
        return Ok(Some(Duration::new(seconds, nanos)));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceResponse,
    };
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::otlp::wire::{len_tag, put_len_field, put_varint, varint_tag};

    fn status_with_retry(type_url: &str, seconds: i64, nanos: i32) -> Vec<u8> {
        let mut duration = vec![varint_tag(1)];
        put_varint(&mut duration, seconds as u64);
        duration.push(varint_tag(2));
        put_varint(&mut duration, i64::from(nanos) as u64);
        let mut retry_info = Vec::new();
        put_len_field(&mut retry_info, len_tag(1), &duration);
        let mut any = Vec::new();
        put_len_field(&mut any, len_tag(1), type_url.as_bytes());
        put_len_field(&mut any, len_tag(2), &retry_info);
        let mut status = vec![varint_tag(1), 8];
        put_len_field(&mut status, len_tag(2), b"slow down");
        put_len_field(&mut status, len_tag(3), &any);
        status
    }

    #[test]
    fn rejected_spans_are_read() {
        let encode = |rejected_spans, error_message: &str| {
            let partial =
                ExportTracePartialSuccess { rejected_spans, error_message: error_message.to_owned() };
            ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec()
        };
        let read =
            |bytes: &[u8]| partial_success(bytes).map(|found| (found.rejected_spans, found.error_message));
        assert_eq!(read(&encode(3, "too old")), Ok((3, "too old".to_owned())));
        assert_eq!(read(&encode(0, "careful")), Ok((0, "careful".to_owned())));
        assert_eq!(read(&encode(-1, "")), Ok((0, String::new())));
        assert_eq!(read(&[]), Ok((0, String::new())));
    }

    #[test]
    fn the_delay_of_retry_info_is_read() {
        let delay = |status: &[u8]| rpc_status(status).map(|status| status.retry_delay);
        let url = "type.googleapis.com/google.rpc.RetryInfo";
        assert_eq!(delay(&status_with_retry(url, 2, 500_000_000)), Ok(Some(Duration::from_millis(2_500))));
        assert_eq!(delay(&status_with_retry(url, -2, -1)), Ok(Some(Duration::ZERO)));
        assert_eq!(
            delay(&status_with_retry(url, i64::MAX, i32::MAX)),
            Ok(Some(Duration::new(i64::MAX as u64, 999_999_999)))
        );
        assert_eq!(delay(&status_with_retry("type.googleapis.com/google.rpc.DebugInfo", 2, 0)), Ok(None));
        assert_eq!(rpc_status(&status_with_retry(url, 1, 0)).unwrap().message, "slow down");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..100)) {
            let _ = partial_success(&bytes);
            let _ = rpc_status(&bytes);
        }
    }
}
