//! The variables of a container, which anybody may have misspelt.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::lines;
use crate::Resource;
use crate::config::{Config, ExporterConfig};
use crate::otlp::decode_request;
use crate::otlp::request::resource_field;
use crate::otlp::wire::{len_tag, put_len_field};

/// By the first letter of a line.
const VARIABLES: [&str; 20] = [
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_INSECURE",
    "OTEL_SERVICE_NAME",
    "OTEL_PROPAGATORS",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SOMETHING_ELSE",
];

/// Any environment makes a configuration: the same each time, with its lists read as they are written, with at most so
/// many reports about it, each a line of bounded length, and no value of a header in any of them.
pub fn environment(data: &[u8]) {
    let variables: BTreeMap<&str, &[u8]> = lines(data)
        .filter_map(|line| line.split_first())
        .map(|(which, value)| (VARIABLES[usize::from(which.wrapping_sub(b'A')) % VARIABLES.len()], value))
        .collect();
    let read = || {
        Config::from_lookup(
            |name| variables.get(name).map(|value| OsString::from_vec(value.to_vec())),
            variables.keys().map(OsString::from),
        )
    };
    let (config, reports) = read();
    let (again, reports_again) = read();
    assert_eq!(format!("{config:?}"), format!("{again:?}"));
    assert_eq!(reports, reports_again);

    assert!(reports.len() <= 10 * variables.len() + 2, "{reports:?}");
    let lines: Vec<String> = reports.iter().map(ToString::to_string).collect();
    for line in &lines {
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    for name in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"] {
        let of_headers: Vec<&String> = lines.iter().filter(|line| line.starts_with(name)).collect();
        let list = variables.get(name).map(|list| String::from_utf8_lossy(list)).unwrap_or_default();
        for (header, secret) in list.split(',').filter_map(|member| member.split_once('=')) {
            // A name may be told, and what is told is in English.
            let is_telling = secret.len() >= 8 && !header.to_lowercase().contains(&secret.to_lowercase());
            let told = of_headers.iter().any(|line| line.contains(secret));
            assert!(!(is_telling && told && !is_ours(secret)), "{secret:?}: {of_headers:?}");
        }
    }

    let list = variables.get("OTEL_RESOURCE_ATTRIBUTES").and_then(|list| std::str::from_utf8(list).ok());
    for (key, value) in slow_attributes(list.unwrap_or_default()) {
        if key != "service.name" || !variables.contains_key("OTEL_SERVICE_NAME") {
            let set = config.resource.get(&key).and_then(|value| value.as_str());
            // What is empty gives way to what can be detected.
            assert!(set == Some(&value) || value.is_empty(), "{key}={value}: {set:?}");
        }
    }
    is_sent_as_it_is(&config.resource);
    if let ExporterConfig::Otlp(otlp) = &config.exporter {
        assert!(otlp.endpoint.host().is_some_and(|host| !host.is_empty()), "{}", otlp.endpoint);
        assert!(otlp.headers.values().all(|value| value.is_sensitive()));
    }
    if let Some(queue) = config.batch.max_queue_spans {
        assert!(config.batch.max_batch_spans.is_none_or(|batch| batch <= queue));
    }
}

/// Whether a report would say this in its own words.
fn is_ours(text: &str) -> bool {
    [
        "expected name=value",
        "expected the name of an HTTP header before the `=`",
        "expected a header that does not belong to the protocol",
        "expected a percent-encoded value that a header may have",
        "this header is not sent",
        "further members are bad too; they are left out",
        "expected UTF-8; using the default, no headers",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    ]
    .iter()
    .any(|ours| ours.contains(text.trim()))
}

/// The last value of each name in a list, where both are well encoded.
fn slow_attributes(list: &str) -> BTreeMap<String, String> {
    let decoded = |text: &str| {
        let mut bytes = Vec::new();
        let mut pieces = text.trim().split('%');
        bytes.extend_from_slice(pieces.next()?.as_bytes());
        for piece in pieces {
            let digits =
                piece.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            bytes.extend_from_slice(&piece.as_bytes()[2..]);
        }
        String::from_utf8(bytes).ok()
    };
    list.split(',')
        .filter_map(|member| {
            let (key, value) = member.trim().split_once('=')?;
            Some((decoded(key)?, decoded(value)?)).filter(|(key, _)| !key.is_empty())
        })
        .collect()
}

/// Every span of the process goes out under this.
fn is_sent_as_it_is(resource: &Resource) {
    let span = [&[0x0a, 16][..], &[1; 16], &[0x12, 8], &[1; 8]].concat();
    let (mut of_scope, mut of_resource, mut request) =
        (Vec::new(), resource_field(resource.iter()), Vec::new());
    put_len_field(&mut of_scope, len_tag(2), &span);
    put_len_field(&mut of_resource, len_tag(2), &of_scope);
    put_len_field(&mut request, len_tag(1), &of_resource);
    let spans = decode_request(&request).expect("a request");
    let expected: Vec<_> = resource.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    assert_eq!(*spans[0].resource, expected);
}
