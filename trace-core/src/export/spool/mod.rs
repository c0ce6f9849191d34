//! The spool: batches that could not be sent, on disk until they can.

pub(crate) mod record;
