//! How long it takes to send a batch, and how that ends: OpenTelemetry's `otel.sdk.exporter.operation.duration`.
//!
//! An operation is all that is done for one batch, every attempt and the pauses between them, as the [convention] wants
//! it. The export thread counts, anybody reads, and neither waits: the series lie in a fixed table of counters. A
//! collector that answers with ever new statuses fills it, and is counted as [`OTHER`] from then on.
//!
//! [convention]: https://opentelemetry.io/docs/specs/semconv/otel/sdk-metrics/

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Counter;

/// The upper bounds of [`Operation::buckets`], in seconds: from a collector beside the process to one that hangs until
/// `OTEL_BSP_EXPORT_TIMEOUT`. The last bucket is for what takes longer.
pub const OPERATION_BOUNDS_SECONDS: [f64; 13] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The operations of an exporter that ended in the same way: their number, and how long they took.
///
/// An operation is the export of one batch, with every attempt and the pauses between them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operation {
    /// What they failed of, by the last attempt: a status of the collector (`503`, `UNAVAILABLE`), or one of
    /// `connection`, `timeout`, `name_resolution`, `tls`, `setup`, `output`, `exporter_panicked`, `already_shutdown` (the
    /// end of a shutdown's time came first) and `_OTHER`. `None` if they succeeded, be it that the collector rejected
    /// some of the spans.
    pub error_type: Option<String>,
    /// The HTTP status of the last answer, where one came by HTTP.
    pub http_status: Option<u16>,
    /// The gRPC status of the last answer, where one came by gRPC.
    pub rpc_status: Option<&'static str>,
    /// How many they were.
    pub count: u64,
    /// How long all of them took together.
    pub sum: Duration,
    /// How many took at most as long as [`OPERATION_BOUNDS_SECONDS`] says, and longer than the bound before; in the last
    /// one those that took longer still.
    pub buckets: [u64; BUCKETS],
}

const BUCKETS: usize = OPERATION_BOUNDS_SECONDS.len() + 1;

/// The most different ends that are told apart.
const SERIES_MAX: usize = 24;

/// What operations are counted under that find no place in the table.
pub(crate) const OTHER: &str = "_OTHER";

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) failed: Option<Failure>,
    pub(crate) status: Status,
}

/// What an operation failed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Failure {
    /// The status says it.
    Status = 1,
    Setup,
    Name,
    Connection,
    Tls,
    Timeout,
    Output,
    Rejected,
    Panicked,
    ShutDown,
    Other,
}

/// What the collector answered last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    None,
    Http(u16),
    Grpc(u8),
}

/// The table of series. One thread writes.
#[derive(Debug, Default)]
pub(crate) struct Operations([Series; SERIES_MAX]);

#[derive(Debug, Default)]
struct Series {
    /// The end as a number; 0 as long as the place is free.
    end: AtomicU32,
    sum_nanos: Counter,
    buckets: [Counter; BUCKETS],
}

/// Who else wants to know of each operation, on the export thread.
#[derive(Default)]
pub(crate) struct Observers(Mutex<Vec<Observer>>);

pub(crate) type Observer = Arc<dyn Fn(End, Duration) + Send + Sync>;

impl Observers {
    #[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "metrics alone observe"))]
    pub(crate) fn add(&self, observer: Observer) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(observer);
    }

    /// Tells all of them. They are somebody else's code: that one panics must not look as if the exporter did.
    pub(crate) fn tell(&self, end: End, took: Duration) {
        let observers = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for observer in observers {
            let _ = catch_unwind(AssertUnwindSafe(|| observer(end, took)));
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observers").finish_non_exhaustive()
    }
}

impl Operations {
    /// Counts an operation. For the one thread that writes.
    pub(crate) fn add(&self, end: End, took: Duration) {
        let (last, places) = self.0.split_last().expect("the table has places");
        let number = end.to_number();
        let place = places.iter().find(|series| [0, number].contains(&series.end.load(Ordering::Relaxed)));
        let (series, number) = match place {
            Some(series) => (series, number),
            None => (last, End { failed: Some(Failure::Other), status: Status::None }.to_number()),
        };
        let seconds = took.as_secs_f64();
        let bucket = OPERATION_BOUNDS_SECONDS.partition_point(|bound| *bound < seconds);
        series.buckets[bucket].add(1);
        series.sum_nanos.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        // Last, so that nobody sees a series without its first operation.
        series.end.store(number, Ordering::Release);
    }

    pub(crate) fn read(&self) -> Vec<Operation> {
        self.0.iter().filter_map(Series::read).collect()
    }
}

impl Series {
    fn read(&self) -> Option<Operation> {
        let end = End::of_number(self.end.load(Ordering::Acquire))?;
        let buckets = self.buckets.each_ref().map(Counter::get);
        Some(Operation {
            error_type: end.error_type(),
            http_status: end.http_status(),
            rpc_status: end.rpc_status(),
            count: buckets.iter().sum(),
            sum: Duration::from_nanos(self.sum_nanos.get()),
            buckets,
        })
    }
}

impl End {
    pub(crate) fn error_type(self) -> Option<String> {
        let text = match (self.failed?, self.status) {
            (Failure::Status, Status::Http(status)) => return Some(status.to_string()),
            (Failure::Status, Status::Grpc(code)) => grpc_code_name(code),
            (Failure::Status | Failure::Other, _) => OTHER,
            (Failure::Setup, _) => "setup",
            (Failure::Name, _) => "name_resolution",
            (Failure::Connection, _) => "connection",
            (Failure::Tls, _) => "tls",
            (Failure::Timeout, _) => "timeout",
            (Failure::Output, _) => "output",
            (Failure::Rejected, _) => "rejected",
            (Failure::Panicked, _) => "exporter_panicked",
            (Failure::ShutDown, _) => "already_shutdown",
        };
        Some(text.to_owned())
    }

    pub(crate) const fn http_status(self) -> Option<u16> {
        match self.status {
            Status::Http(status) => Some(status),
            _ => None,
        }
    }

    pub(crate) const fn rpc_status(self) -> Option<&'static str> {
        match self.status {
            Status::Grpc(code) => Some(grpc_code_name(code)),
            _ => None,
        }
    }

    /// A number other than 0: what failed, the kind of the status, the status.
    const fn to_number(self) -> u32 {
        let failed = match self.failed {
            Some(failure) => failure as u32,
            None => 0,
        };
        let (kind, status) = match self.status {
            Status::None => (1, 0),
            Status::Http(status) => (2, status),
            Status::Grpc(code) => (3, code as u16),
        };
        failed << 24 | kind << 16 | status as u32
    }

    fn of_number(number: u32) -> Option<Self> {
        const FAILURES: [Failure; 11] = [
            Failure::Status,
            Failure::Setup,
            Failure::Name,
            Failure::Connection,
            Failure::Tls,
            Failure::Timeout,
            Failure::Output,
            Failure::Rejected,
            Failure::Panicked,
            Failure::ShutDown,
            Failure::Other,
        ];
        let [failed, kind, status @ ..] = number.to_be_bytes();
        let status = u16::from_be_bytes(status);
        Some(Self {
            failed: usize::from(failed).checked_sub(1).map(|index| FAILURES[index]),
            status: match kind {
                1 => Status::None,
                2 => Status::Http(status),
                // It was a byte before.
                3 => Status::Grpc(status as u8),
                _ => return None,
            },
        })
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        // None of these has a character that JSON would have to escape.
        if let Some(error_type) = &self.error_type {
            write!(f, "\"error_type\":\"{error_type}\",")?;
        }
        if let Some(status) = self.http_status {
            write!(f, "\"http_status\":{status},")?;
        }
        if let Some(status) = self.rpc_status {
            write!(f, "\"rpc_status\":\"{status}\",")?;
        }
        write!(f, "\"count\":{},\"seconds\":{}}}", self.count, self.sum.as_secs_f64())
    }
}

/// The name of a gRPC status code.
pub(crate) const fn grpc_code_name(code: u8) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    if (code as usize) < NAMES.len() { NAMES[code as usize] } else { "UNKNOWN" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPTED: End = End { failed: None, status: Status::Http(200) };

    #[test]
    fn operations_that_end_alike_are_counted_together_by_their_durations() {
        let operations = Operations::default();
        operations.add(ACCEPTED, Duration::from_millis(1));
        operations.add(ACCEPTED, Duration::from_micros(1_001));
        operations.add(ACCEPTED, Duration::from_secs(3_600));
        operations.add(End { failed: Some(Failure::Status), status: Status::Grpc(14) }, Duration::ZERO);
        let read = operations.read();
        let [accepted, unavailable] = &read[..] else { panic!("{read:?}") };
        assert_eq!((accepted.error_type.as_deref(), accepted.http_status), (None, Some(200)));
        assert_eq!((accepted.count, accepted.sum), (3, Duration::from_micros(3_600_002_001)));
        assert_eq!((accepted.buckets[0], accepted.buckets[1], accepted.buckets[BUCKETS - 1]), (1, 1, 1));
        assert_eq!(unavailable.error_type.as_deref(), Some("UNAVAILABLE"));
        assert_eq!((unavailable.rpc_status, unavailable.count), (Some("UNAVAILABLE"), 1));
        assert_eq!(
            unavailable.to_string(),
            "{\"error_type\":\"UNAVAILABLE\",\"rpc_status\":\"UNAVAILABLE\",\"count\":1,\"seconds\":0}"
        );
    }

    #[test]
    fn an_observer_that_panics_keeps_nobody_from_being_told() {
        let (observers, told) = (Observers::default(), Arc::new(Mutex::new(Vec::new())));
        observers.add(Arc::new(|_, _| panic!("as told")));
        let teller = Arc::clone(&told);
        observers.add(Arc::new(move |end, took| teller.lock().unwrap().push((end, took))));
        observers.tell(ACCEPTED, Duration::from_secs(1));
        assert_eq!(*told.lock().unwrap(), [(ACCEPTED, Duration::from_secs(1))]);
    }

    #[test]
    fn every_end_is_told_apart() {
        let failures = [
            None,
            Some(Failure::Status),
            Some(Failure::Setup),
            Some(Failure::Name),
            Some(Failure::Connection),
            Some(Failure::Tls),
            Some(Failure::Timeout),
            Some(Failure::Output),
            Some(Failure::Rejected),
            Some(Failure::Panicked),
            Some(Failure::ShutDown),
            Some(Failure::Other),
        ];
        for failed in failures {
            for status in
                [Status::None, Status::Http(200), Status::Http(999), Status::Grpc(0), Status::Grpc(255)]
            {
                let end = End { failed, status };
                assert_eq!(End::of_number(end.to_number()), Some(end));
            }
        }
        assert_eq!(End::of_number(0), None);
    }

    #[test]
    fn ends_without_number_fill_a_table_and_no_more() {
        let operations = Operations::default();
        for status in 400..600 {
            operations
                .add(End { failed: Some(Failure::Status), status: Status::Http(status) }, Duration::ZERO);
        }
        let read = operations.read();
        assert_eq!(read.len(), SERIES_MAX);
        assert_eq!(read.iter().map(|operation| operation.count).sum::<u64>(), 200);
        assert_eq!(read.last().unwrap().error_type.as_deref(), Some(OTHER));
    }
}
