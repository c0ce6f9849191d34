//! How the parts of a pipeline are called in metrics: `otel.component.name`, `otel.component.type` and where an exporter
//! sends to.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::{Config, ExporterConfig, Protocol};

/// The parts of one pipeline.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "metrics alone read them"))]
pub(crate) struct Components {
    pub(crate) processor: Component,
    /// `None` where nothing is sent.
    pub(crate) exporter: Option<Component>,
    /// Whom the exporter sends to: a name or an address, and a port.
    pub(crate) server: Option<(String, u16)>,
}

/// One part, as the [convention](https://opentelemetry.io/docs/specs/semconv/registry/attributes/otel/) names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Component {
    /// `otel.component.type`.
    pub(crate) kind: &'static str,
    /// `otel.component.name`: the type, and the how manieth of its type this is in the process, from 0.
    pub(crate) name: String,
}

impl Components {
    pub(crate) fn of(config: &Config) -> Self {
        static PROCESSORS: AtomicU32 = AtomicU32::new(0);
        static OTLP_HTTP: AtomicU32 = AtomicU32::new(0);
        static OTLP_GRPC: AtomicU32 = AtomicU32::new(0);
        static CONSOLES: AtomicU32 = AtomicU32::new(0);
        let exporter = match &config.exporter {
            ExporterConfig::Otlp(otlp) => Some(match otlp.protocol {
                Protocol::HttpProtobuf => Component::new("otlp_http_span_exporter", &OTLP_HTTP),
                Protocol::Grpc => Component::new("otlp_grpc_span_exporter", &OTLP_GRPC),
            }),
            // The convention names none for the terminal: then the type's own name is to be used.
            ExporterConfig::Console => Some(Component::new("trace_core::Console", &CONSOLES)),
            ExporterConfig::None => None,
        };
        let server = match &config.exporter {
            ExporterConfig::Otlp(otlp) => otlp.endpoint.host().map(|host| {
                let default = if otlp.endpoint.scheme_str() == Some("https") { 443 } else { 80 };
                let host = host.trim_start_matches('[').trim_end_matches(']');
                (host.to_owned(), otlp.endpoint.port_u16().unwrap_or(default))
            }),
            ExporterConfig::Console | ExporterConfig::None => None,
        };
        Self { processor: Component::new("batching_span_processor", &PROCESSORS), exporter, server }
    }
}

impl Component {
    fn new(kind: &'static str, made: &AtomicU32) -> Self {
        Self { kind, name: format!("{kind}/{}", made.fetch_add(1, Ordering::Relaxed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OtlpConfig;

    #[test]
    fn an_exporter_has_a_type_a_name_of_its_own_and_a_server() {
        let of = |protocol, endpoint: &'static str| {
            let mut otlp = OtlpConfig::new(protocol);
            otlp.endpoint = http::Uri::from_static(endpoint);
            Components::of(&Config { exporter: ExporterConfig::Otlp(otlp), ..Config::default() })
        };
        let first = of(Protocol::Grpc, "http://collector:4317");
        let second = of(Protocol::Grpc, "https://[::1]");
        let (exporter, other) = (first.exporter.unwrap(), second.exporter.unwrap());
        assert_eq!(exporter.kind, "otlp_grpc_span_exporter");
        assert!(exporter.name.starts_with("otlp_grpc_span_exporter/"), "{}", exporter.name);
        assert_ne!(exporter.name, other.name);
        assert_ne!(first.processor.name, second.processor.name);
        assert_eq!(first.server, Some(("collector".to_owned(), 4317)));
        assert_eq!(second.server, Some(("::1".to_owned(), 443)));
        let nothing = Components::of(&Config { exporter: ExporterConfig::None, ..Config::default() });
        assert_eq!((nothing.exporter, nothing.server), (None, None));
    }
}
