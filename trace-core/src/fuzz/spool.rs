//! A file that lies in the spool's directory: nobody knows who wrote it.

use super::Input;
use crate::export::spool::record::{HEAD_BYTES, Head, SpoolRecord};

/// A file that is read is one that we would write; one that we write is read as it was, and found out when a byte of it is
/// changed or its end is missing.
pub fn spool_record(data: &[u8]) {
    if let Ok(record) = SpoolRecord::read(data) {
        assert_eq!(record.message, &data[HEAD_BYTES..]);
        assert!(record.spans > 0);
        // But for flags that we do not know.
        let again = file(record.spans, record.may_have_arrived, record.message);
        assert_eq!(SpoolRecord::read(&again), Ok(record));
        assert_eq!((&again[..10], &again[12..28]), (&data[..10], &data[12..28]));
    }

    let mut input = Input(data);
    let spans = (input.number() as u32).max(1);
    let may_have_arrived = input.byte() % 2 == 1;
    let (at, flip) = (input.number() as usize, input.byte().max(1));
    let message = input.0;
    let written = file(spans, may_have_arrived, message);
    assert_eq!(SpoolRecord::read(&written), Ok(SpoolRecord { spans, may_have_arrived, message }));

    let at = at % written.len();
    let mut changed = written.clone();
    changed[at] ^= flip;
    let known = (at >= HEAD_BYTES).then_some(spans);
    for damaged in [&changed[..], &written[..at]] {
        let error = SpoolRecord::read(damaged).expect_err("it is damaged");
        assert_eq!(error.spans(), known, "{error}");
    }
}

fn file(spans: u32, may_have_arrived: bool, message: &[u8]) -> Vec<u8> {
    let head = Head::of(spans, may_have_arrived, message.chunks(7));
    [&head.write()[..], message].concat()
}
