//! What must hold for any bytes that come from outside: one function for each door, which panics where something does
//! not hold.
//!
//! The fuzzer (`trace-core/fuzz`) calls them with bytes that it makes up; `cargo test` calls them with those that it
//! found worth keeping (`trace-core/fuzz/corpus`), so that what was wrong once is tried on every machine. They are part
//! of no build but those two. A function that only asks for no panic proves little: each compares its subject with a
//! second, slower way to the same answer, or sends what came out back in.

mod answers;
mod environment;
mod headers;
mod otlp;
mod span;
mod spool;

pub use answers::{grpc_answer, http_answer};
pub use environment::environment;
pub use headers::{baggage, propagation, traceparent, tracestate};
pub use otlp::otlp_request;
pub use span::span;
pub use spool::spool_record;

/// Bytes that are read as whatever is needed next; zeros once they are used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    fn number(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// Lines as they may stand in a header: without line breaks, which no header has.
fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    data.split(|byte| *byte == b'\n')
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::replay::{Target, fuzz, names, replay};

    const TARGETS: [Target; 10] = [
        ("baggage", super::baggage),
        ("environment", super::environment),
        ("grpc_answer", super::grpc_answer),
        ("http_answer", super::http_answer),
        ("otlp_request", super::otlp_request),
        ("propagation", super::propagation),
        ("span", super::span),
        ("spool_record", super::spool_record),
        ("traceparent", super::traceparent),
        ("tracestate", super::tracestate),
    ];

    /// What `trace-tower` and `trace-tonic` run.
    const OF_ADAPTERS: [&str; 4] = ["authority", "grpc_call", "request_headers", "url"];

    #[test]
    fn everything_holds_for_whatever_was_found_worth_keeping() {
        replay(&TARGETS);
    }

    #[test]
    fn every_target_is_built_has_a_corpus_and_is_run_by_a_test() {
        let files = names(&fuzz().join("fuzz_targets"));
        let targets: Vec<_> = files.iter().filter_map(|file| file.strip_suffix(".rs")).collect();
        assert_eq!(names(&fuzz().join("corpus")), targets);
        let mut run: Vec<_> = TARGETS.iter().map(|(name, _)| *name).chain(OF_ADAPTERS).collect();
        run.sort_unstable();
        assert_eq!(run, targets);
        let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("its manifest");
        for target in targets {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not built");
        }
    }
}
