//! What the service is called when nobody says so, and which of its instances this is.
//! [Semantic conventions](https://opentelemetry.io/docs/specs/semconv/resource/service/)

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use crate::{TraceId, id};

use super::{Resource, process};

/// The name of a service of which not even the executable is known.
pub(super) const UNKNOWN: &str = "unknown_service";

pub(super) fn detect() -> Resource {
    let name = match process::executable_name() {
        Some(executable) => format!("{UNKNOWN}:{executable}"),
        None => UNKNOWN.to_owned(),
    };
    Resource::empty().with("service.name", name).with("service.instance.id", instance_id())
}

/// A random UUID, made once: all pipelines of a process belong to one instance of the service. A child made by `fork` is
/// an instance of its own.
fn instance_id() -> String {
    static INSTANCE_ID: Mutex<Option<(u32, String)>> = Mutex::new(None);
    let mut known = INSTANCE_ID.lock().unwrap_or_else(PoisonError::into_inner);
    let generation = id::generation();
    match &*known {
        Some((made_in, uuid)) if *made_in == generation => uuid.clone(),
        _ => known.insert((generation, uuid_v4(TraceId::random().to_bytes()))).1.clone(),
    }
}

/// RFC 9562, sections 5.4 (version 4) and 4.1 (variant).
fn uuid_v4(mut random: [u8; 16]) -> String {
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in random.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_id_is_a_version_4_uuid() {
        assert_eq!(uuid_v4([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid_v4([0; 16]), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn an_instance_id_stays_for_the_life_of_the_process() {
        assert_eq!(detect().get("service.instance.id"), detect().get("service.instance.id"));
    }
}
