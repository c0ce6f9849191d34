//! Spans that somebody else encoded.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use crate::otlp::{TraceTree, decode_request};
use crate::testing::convert;

/// A request is read as prost reads it, where its ids are ids; whatever is read can be joined and printed.
pub fn otlp_request(data: &[u8]) {
    let ours = decode_request(data);
    if let Ok(judge) = ExportTraceServiceRequest::decode(data) {
        // Sent as prost sends it, each field once, both say the same.
        let plain = judge.encode_to_vec();
        match (decode_request(&plain), convert::spans(judge)) {
            (Ok(ours), Ok(theirs)) => assert_eq!(format!("{ours:?}"), format!("{theirs:?}")),
            (Err(error), Ok(_)) => {
                // The one bound that is stricter than prost's.
                assert_eq!(error, crate::otlp::DecodeError::Depth);
            }
            (Err(_), Err(_)) => {}
            (Ok(spans), Err(wrong)) => panic!("{wrong} was let pass: {spans:?}"),
        }
    }
    if let Ok(spans) = ours {
        let count = spans.len();
        let traces = TraceTree::group(spans);
        assert_eq!(traces.iter().map(|trace| trace.spans().len()).sum::<usize>(), count);
        for trace in &traces {
            assert_eq!(trace.walk().count(), trace.spans().len(), "each span is shown once");
            let printed = trace.to_string();
            assert!(printed.chars().all(|c| c == '\n' || !c.is_control()), "{printed:?}");
            let _ = (trace.check(), trace.shape(), trace.services());
        }
    }
}
