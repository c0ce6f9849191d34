use std::os::unix::ffi::OsStringExt;

use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::sampler::AnySampler;

/// An environment of these variables.
fn read(variables: &[(&str, &str)]) -> (Config, Vec<Report>) {
    Config::from_lookup(
        |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()),
        variables.iter().map(|(name, _)| name.into()),
    )
}

/// The configuration of an environment with nothing wrong in it.
fn good(variables: &[(&str, &str)]) -> Config {
    let (config, reports) = read(variables);
    assert_eq!(reports, [], "{variables:?}");
    config
}

/// The one report about an environment, which leaves everything as it would be without it.
fn bad(variables: &[(&str, &str)]) -> String {
    let (config, reports) = read(variables);
    assert_eq!(reports.len(), 1, "{variables:?}: {reports:?}");
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()), "{variables:?}");
    reports[0].to_string()
}

fn otlp(config: Config) -> OtlpConfig {
    match config.exporter {
        ExporterConfig::Otlp(otlp) => otlp,
        other => panic!("{other:?}"),
    }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn nothing_set_is_otlp_over_http_to_this_host_and_all_spans() {
    let config = good(&[]);
    assert!(!config.disabled);
    assert_eq!(config.resource, Resource::detect());
    assert_eq!(config.propagators, [PropagatorName::TraceContext, PropagatorName::Baggage]);
    assert_eq!(config.sampler.description(), AnySampler::default().description());
    assert_eq!(
        config.batch,
        BatchConfig {
            schedule_delay: ms(5_000),
            max_queue_spans: None,
            max_batch_spans: None,
            export_timeout: ms(30_000),
        }
    );
    assert_eq!(
        config.limits,
        SpanLimits {
            attribute_count: 128,
            attribute_value_length: None,
            event_count: 128,
            link_count: 128,
            event_attribute_count: 128,
            link_attribute_count: 128,
        }
    );
    assert_eq!(config.memory_bytes_max, 16 * 1024 * 1024);
    let otlp = otlp(config);
    assert_eq!(otlp.protocol, Protocol::HttpProtobuf);
    assert_eq!(otlp.endpoint, "http://localhost:4318/v1/traces");
    assert!(otlp.headers.is_empty());
    assert_eq!(otlp.timeout, ms(10_000));
    assert_eq!(otlp.compression, Compression::None);
    assert!(!otlp.insecure);
    assert_eq!((otlp.certificate, otlp.client_key, otlp.client_certificate), (None, None, None));
}

#[test]
fn an_empty_value_is_no_value() {
    for variable in SUPPORTED {
        for empty in ["", " ", "\t "] {
            // Paths are taken as they are.
            if variable.ends_with("_CERTIFICATE") || variable.ends_with("_KEY") || variable == SPOOL {
                continue;
            }
            assert_eq!(format!("{:?}", good(&[(variable, empty)])), format!("{:?}", good(&[])), "{variable}");
        }
        assert_eq!(format!("{:?}", good(&[(variable, "")])), format!("{:?}", good(&[])), "{variable}");
    }
}

#[test]
fn the_sdk_is_disabled_by_true_alone() {
    for value in ["true", "True", "TRUE", " true "] {
        assert!(good(&[("OTEL_SDK_DISABLED", value)]).disabled);
    }
    assert!(!good(&[("OTEL_SDK_DISABLED", "False")]).disabled);
    for value in ["1", "yes", "on", "t", "truely"] {
        assert_eq!(
            bad(&[("OTEL_SDK_DISABLED", value)]),
            format!("OTEL_SDK_DISABLED=\"{value}\": expected true or false; using false")
        );
    }
}

#[test]
fn the_service_name_wins_over_the_resource_attributes_and_both_over_what_is_detected() {
    let name = ("OTEL_SERVICE_NAME", "orders");
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,host.name=pod-1");
    assert_eq!(good(&[name]).resource.service_name(), "orders");
    assert_eq!(good(&[attributes]).resource.service_name(), "other");
    let resource = good(&[name, attributes]).resource;
    assert_eq!(resource.service_name(), "orders");
    assert_eq!(resource.get("host.name"), Some(&"pod-1".into()));
    assert!(resource.get("process.pid").is_some());
}

#[test]
fn resource_attributes_are_percent_decoded_strings() {
    let list = " a=1 , b = x%2Cy%3D%20z%C3%A4 ,,c=, d=k=v;w ,";
    let resource = good(&[("OTEL_RESOURCE_ATTRIBUTES", list)]).resource;
    for (key, value) in [("a", "1"), ("b", "x,y= zä"), ("c", ""), ("d", "k=v;w")] {
        assert_eq!(resource.get(key), Some(&value.into()), "{key}");
    }
    let twice = good(&[("OTEL_RESOURCE_ATTRIBUTES", "a=1,a=2")]).resource;
    assert_eq!(twice.get("a"), Some(&"2".into()));
}

#[test]
fn each_malformed_resource_attribute_is_reported_and_the_others_are_kept() {
    let list = "a=1,nothing,=x,b=%zz,c=%F,d=%ff,e=%2Be,f=2";
    let (config, reports) = read(&[("OTEL_RESOURCE_ATTRIBUTES", list)]);
    for (key, value) in [("a", "1"), ("e", "+e"), ("f", "2")] {
        assert_eq!(config.resource.get(key), Some(&value.into()), "{key}");
    }
    assert!(["b", "c", "d", ""].iter().all(|key| config.resource.get(key).is_none()));
    let lines: Vec<String> = reports.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            r#"OTEL_RESOURCE_ATTRIBUTES="nothing": member 2: expected name=value; this attribute is left out"#,
            r#"OTEL_RESOURCE_ATTRIBUTES="=x": member 3: expected name=value; this attribute is left out"#,
            r#"OTEL_RESOURCE_ATTRIBUTES="b=%zz": member 4: expected percent-encoded UTF-8; this attribute is left out"#,
            r#"OTEL_RESOURCE_ATTRIBUTES="c=%F": member 5: expected percent-encoded UTF-8; this attribute is left out"#,
            r#"OTEL_RESOURCE_ATTRIBUTES="d=%ff": member 6: expected percent-encoded UTF-8; this attribute is left out"#,
        ]
    );
}

#[test]
fn a_list_of_nothing_but_mistakes_does_not_flood_the_log() {
    let (_, reports) = read(&[("OTEL_RESOURCE_ATTRIBUTES", &"x,".repeat(1_000))]);
    assert_eq!(reports.len(), 9);
    assert_eq!(
        reports[8].to_string(),
        "OTEL_RESOURCE_ATTRIBUTES: further members are bad too; they are left out"
    );
}

#[test]
fn propagators_are_listed_once_each_or_none_at_all() {
    use PropagatorName::{Baggage, TraceContext};
    for (list, expected) in [
        ("tracecontext,baggage", vec![TraceContext, Baggage]),
        ("Baggage, TRACECONTEXT", vec![Baggage, TraceContext]),
        ("baggage,,baggage", vec![Baggage]),
        ("none", vec![]),
        ("NONE,none", vec![]),
    ] {
        assert_eq!(good(&[("OTEL_PROPAGATORS", list)]).propagators, expected, "{list}");
    }
    assert_eq!(
        bad(&[("OTEL_PROPAGATORS", "b3")]),
        r#"OTEL_PROPAGATORS="b3": expected a list of tracecontext and baggage, or none alone (no other format is supported yet); using tracecontext,baggage"#
    );
    bad(&[("OTEL_PROPAGATORS", ",")]);
    for (list, expected) in
        [("b3,baggage", vec![Baggage]), ("none,xray", vec![]), ("none,baggage", vec![Baggage])]
    {
        let (config, reports) = read(&[("OTEL_PROPAGATORS", list)]);
        assert_eq!((config.propagators, reports.len()), (expected, 1), "{list}");
    }
}

#[test]
fn the_exporter_is_chosen_by_name() {
    assert!(matches!(good(&[("OTEL_TRACES_EXPORTER", "OTLP")]).exporter, ExporterConfig::Otlp(_)));
    assert!(matches!(good(&[("OTEL_TRACES_EXPORTER", "console")]).exporter, ExporterConfig::Console));
    assert!(matches!(good(&[("OTEL_TRACES_EXPORTER", "None")]).exporter, ExporterConfig::None));
    for value in ["zipkin", "otlp,console", "jaeger", "logging"] {
        assert_eq!(
            bad(&[("OTEL_TRACES_EXPORTER", value)]),
            format!(
                "OTEL_TRACES_EXPORTER=\"{value}\": expected one of otlp, console, none; using the default, otlp"
            )
        );
    }
}

#[test]
fn every_sampler_is_chosen_by_name() {
    let described = |variables: &[(&str, &str)]| good(variables).sampler.description();
    let parent_based = |root: &str| {
        format!(
            "ParentBased{{root:{root},remoteParentSampled:AlwaysOnSampler,\
             remoteParentNotSampled:AlwaysOffSampler,localParentSampled:AlwaysOnSampler,\
             localParentNotSampled:AlwaysOffSampler}}"
        )
    };
    let name = |name| ("OTEL_TRACES_SAMPLER", name);
    let quarter = ("OTEL_TRACES_SAMPLER_ARG", "0.25");
    assert_eq!(described(&[name("always_on")]), "AlwaysOnSampler");
    assert_eq!(described(&[name("Always_Off")]), "AlwaysOffSampler");
    assert_eq!(described(&[name("traceidratio"), quarter]), "TraceIdRatioBased{0.25}");
    assert_eq!(described(&[name("parentbased_always_on")]), parent_based("AlwaysOnSampler"));
    assert_eq!(described(&[name("parentbased_always_off")]), parent_based("AlwaysOffSampler"));
    let ratio = parent_based("TraceIdRatioBased{0.25}");
    assert_eq!(described(&[name("parentbased_traceidratio"), quarter]), ratio);
    // "Default is 1.0 if unset."
    assert_eq!(described(&[name("traceidratio")]), "AlwaysOnSampler");
    assert_eq!(described(&[name("parentbased_traceidratio")]), parent_based("AlwaysOnSampler"));

    for value in ["jaeger_remote", "xray", "0.5", "ratio"] {
        assert_eq!(
            bad(&[("OTEL_TRACES_SAMPLER", value)]),
            format!(
                "OTEL_TRACES_SAMPLER=\"{value}\": expected one of always_on, always_off, traceidratio, \
                 parentbased_always_on, parentbased_always_off, parentbased_traceidratio; \
                 using the default, parentbased_always_on"
            )
        );
    }
}

#[test]
fn a_ratio_outside_zero_to_one_is_reported() {
    for ratio in ["1.01", "-0.1", "NaN", "inf", "10%", "0,5", "a tenth"] {
        let (config, reports) =
            read(&[("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", ratio)]);
        assert_eq!(config.sampler.description(), AnySampler::default().description(), "{ratio}");
        let lines: Vec<String> = reports.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [format!(
                "OTEL_TRACES_SAMPLER_ARG=\"{ratio}\": expected a ratio, a number from 0 to 1; using the default, 1"
            )]
        );
    }
    for ratio in ["0", "1", "1e-3", ".5", "1.0"] {
        good(&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", ratio)]);
    }
}

#[test]
fn a_ratio_that_nothing_uses_is_reported() {
    assert_eq!(
        bad(&[("OTEL_TRACES_SAMPLER_ARG", "0.01")]),
        "OTEL_TRACES_SAMPLER_ARG=\"0.01\": expected OTEL_TRACES_SAMPLER to be traceidratio or \
         parentbased_traceidratio; using parentbased_always_on"
    );
    let (_, reports) =
        read(&[("OTEL_TRACES_SAMPLER", "jaeger_remote"), ("OTEL_TRACES_SAMPLER_ARG", "endpoint=x")]);
    assert_eq!(reports.len(), 1, "the argument of a sampler that we do not have is no second mistake");
}

/// Every variable that holds a number of milliseconds or a count: what it sets, its range, its default.
#[test]
fn every_number_has_its_effect_and_its_range() {
    type Get = fn(Config) -> Option<u64>;
    const MS: &str = "milliseconds, a whole number from 1 to 2147483647";
    const TIMEOUT: &str = "milliseconds, a whole number from 0 (no time-out) to 2147483647";
    const POSITIVE: &str = "a whole number from 1 to 2147483647";
    const COUNT: &str = "a whole number from 0 to 2147483647";
    let table: [(&str, Get, &str, &str); 16] = [
        ("OTEL_BSP_SCHEDULE_DELAY", |c| Some(c.batch.schedule_delay.as_millis() as u64), MS, "5000"),
        ("OTEL_BSP_EXPORT_TIMEOUT", |c| Some(c.batch.export_timeout.as_millis() as u64), TIMEOUT, "30000"),
        (
            "OTEL_BSP_MAX_QUEUE_SIZE",
            |c| c.batch.max_queue_spans.map(|n| n as u64),
            POSITIVE,
            "a bound in bytes",
        ),
        (
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            |c| c.batch.max_batch_spans.map(|n| n as u64),
            POSITIVE,
            "batches by bytes",
        ),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", |c| Some(otlp(c).timeout.as_millis() as u64), TIMEOUT, "10000"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", |c| Some(otlp(c).timeout.as_millis() as u64), TIMEOUT, "10000"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", |c| Some(c.limits.attribute_count as u64), COUNT, "128"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", |c| Some(c.limits.event_attribute_count as u64), COUNT, "128"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", |c| Some(c.limits.link_attribute_count as u64), COUNT, "128"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", |c| Some(c.limits.attribute_count as u64), COUNT, "128"),
        (
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            |c| c.limits.attribute_value_length.map(|n| n as u64),
            COUNT,
            "no limit",
        ),
        (
            "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            |c| c.limits.attribute_value_length.map(|n| n as u64),
            COUNT,
            "no limit",
        ),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", |c| Some(c.limits.event_count as u64), COUNT, "128"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", |c| Some(c.limits.link_count as u64), COUNT, "128"),
        ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", |c| Some(c.limits.event_attribute_count as u64), COUNT, "128"),
        ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", |c| Some(c.limits.link_attribute_count as u64), COUNT, "128"),
    ];
    for (variable, get, expected, default) in table {
        for value in ["1", "77", "2147483647"] {
            assert_eq!(get(good(&[(variable, value)])), value.parse().ok(), "{variable}");
        }
        let mut bad_values = vec!["-1", "2147483648", "99999999999999999999999", "1.5", "5s", "five", "0x10"];
        match expected {
            MS | POSITIVE => bad_values.push("0"),
            TIMEOUT => assert_eq!(get(good(&[(variable, "0")])), Some(NO_TIMEOUT.as_millis() as u64)),
            _ => assert_eq!(get(good(&[(variable, "0")])), Some(0)),
        }
        for value in bad_values {
            assert_eq!(
                bad(&[(variable, value)]),
                format!("{variable}=\"{value}\": expected {expected}; using the default, {default}")
            );
        }
    }
}

#[test]
fn a_batch_is_never_larger_than_the_queue() {
    let queue = ("OTEL_BSP_MAX_QUEUE_SIZE", "100");
    let (config, reports) = read(&[queue, ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "101")]);
    assert_eq!(config.batch.max_batch_spans, Some(100));
    let lines: Vec<String> = reports.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=\"101\": expected at most OTEL_BSP_MAX_QUEUE_SIZE, which is 100; using 100"
        ]
    );
    assert_eq!(good(&[queue, ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100")]).batch.max_batch_spans, Some(100));
    assert_eq!(good(&[("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "9999")]).batch.max_batch_spans, Some(9_999));
}

#[test]
fn what_is_set_for_traces_takes_precedence() {
    let config = good(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:1"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:2"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=all,b=all"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=traces"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
        ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "false"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/all"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/traces"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/all.key"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "/traces.key"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/all.pem"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "/traces.pem"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "1"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "2"),
        ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "3"),
        ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "4"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "5"),
        ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "6"),
    ]);
    let limits = config.limits;
    assert_eq!(
        (limits.attribute_count, limits.event_attribute_count, limits.link_attribute_count),
        (2, 3, 4)
    );
    assert_eq!(limits.attribute_value_length, Some(6));
    let otlp = otlp(config);
    assert_eq!(otlp.endpoint, "http://traces:2/");
    assert_eq!(otlp.headers.len(), 1);
    assert_eq!(otlp.headers["a"], "traces");
    assert_eq!(otlp.timeout, ms(2));
    assert!(!otlp.insecure);
    assert_eq!(otlp.certificate, Some("/traces".into()));
    assert_eq!(otlp.client_key, Some("/traces.key".into()));
    assert_eq!(otlp.client_certificate, Some("/traces.pem".into()));
}

#[test]
fn a_bad_value_for_traces_gives_way_to_the_general_one() {
    let (config, reports) =
        read(&[("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "7")]);
    assert_eq!(otlp(config).timeout, ms(7));
    assert_eq!(reports.len(), 1);
    assert!(reports[0].to_string().ends_with("; using OTEL_EXPORTER_OTLP_TIMEOUT"), "{}", reports[0]);

    // But a boolean that is not `true` is `false`.
    let (config, reports) =
        read(&[("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "1"), ("OTEL_EXPORTER_OTLP_INSECURE", "true")]);
    assert!(!otlp(config).insecure);
    assert_eq!(reports.len(), 1);
}

#[test]
fn the_protocol_is_chosen_by_name() {
    for variable in ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] {
        assert_eq!(otlp(good(&[(variable, "HTTP/Protobuf")])).protocol, Protocol::HttpProtobuf);
        assert_eq!(
            bad(&[(variable, "http/json")]),
            format!(
                "{variable}=\"http/json\": expected http/protobuf or grpc (http/json is not supported yet); \
                 using the default, http/protobuf"
            )
        );
        assert!(bad(&[(variable, "http")]).contains("expected http/protobuf or grpc;"));
    }
}

#[cfg(not(feature = "grpc"))]
#[test]
fn grpc_is_reported_where_it_was_not_built_in() {
    assert!(bad(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).contains("built without the feature `grpc`"));
}

#[cfg(feature = "grpc")]
#[test]
fn grpc_has_its_own_default_address_and_takes_one_without_a_scheme() {
    let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    assert_eq!(otlp(good(&[protocol])).protocol, Protocol::Grpc);
    assert_eq!(otlp(good(&[protocol])).endpoint, "http://localhost:4317");
    for variable in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] {
        for (endpoint, insecure, expected) in [
            ("http://collector:4317", "false", "http://collector:4317/"),
            ("https://collector:4317", "true", "https://collector:4317/"),
            ("collector:4317", "false", "https://collector:4317/"),
            ("collector:4317", "true", "http://collector:4317/"),
            ("10.0.0.1:4317", "true", "http://10.0.0.1:4317/"),
            ("[::1]:4317", "true", "http://[::1]:4317/"),
        ] {
            let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", insecure);
            assert_eq!(otlp(good(&[protocol, (variable, endpoint), insecure])).endpoint, expected);
        }
        for endpoint in ["unix:/run/otel.sock", "dns:///collector", "", "collector:port", ":4317", "a b"] {
            let (config, reports) = read(&[protocol, (variable, endpoint)]);
            assert_eq!(otlp(config).endpoint, "http://localhost:4317", "{endpoint}");
            assert_eq!(reports.len(), usize::from(!endpoint.is_empty()), "{endpoint}");
        }
    }
}

#[test]
fn the_base_address_gets_the_path_of_traces_and_the_one_for_traces_is_left_alone() {
    for (endpoint, for_all, for_traces) in [
        ("http://collector:4318", "http://collector:4318/v1/traces", "http://collector:4318/"),
        ("http://collector:4318/", "http://collector:4318/v1/traces", "http://collector:4318/"),
        ("https://c/my/", "https://c/my/v1/traces", "https://c/my/"),
        ("https://c/my", "https://c/my/v1/traces", "https://c/my"),
        ("https://c/my//", "https://c/my/v1/traces", "https://c/my//"),
        ("HTTP://c:/v1/traces", "http://c:/v1/traces/v1/traces", "http://c:/v1/traces"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces", "http://[::1]:4318/"),
        ("http://u:p@c:1/x", "http://u:p@c:1/x/v1/traces", "http://u:p@c:1/x"),
        (" http://c:1/x ", "http://c:1/x/v1/traces", "http://c:1/x"),
        ("http://c/x?k=v", "http://c/x/v1/traces", "http://c/x?k=v"),
    ] {
        assert_eq!(otlp(good(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)])).endpoint, for_all);
        assert_eq!(otlp(good(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)])).endpoint, for_traces);
    }
}

#[test]
fn a_bad_address_is_reported_without_its_password() {
    for variable in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] {
        for endpoint in [
            "collector:4318",
            "collector",
            "/v1/traces",
            "http://",
            "http://:4318",
            "ftp://collector",
            "http://collector:99999",
            "http://collector:0",
            "http://collector:port",
            "http://a b",
            "unix:///run/otel.sock",
        ] {
            assert_eq!(
                bad(&[(variable, endpoint)]),
                format!(
                    "{variable}=\"{endpoint}\": expected a URL such as http://collector:4318; \
                     using the default, http://localhost:4318/v1/traces"
                )
            );
        }
        let line = bad(&[(variable, "ftp://user:secret@collector/?key=secret")]);
        assert!(line.contains("ftp://REDACTED@collector/?REDACTED"), "{line}");
        assert!(!line.contains("secret"), "{line}");
    }
}

#[test]
fn headers_are_percent_decoded_and_checked() {
    for variable in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"] {
        let list = "X-Api-Key=secret, authorization = Basic%20dXNlcjpwYXNz== ,,empty=,x=1,x=2";
        let headers = otlp(good(&[(variable, list)])).headers;
        assert_eq!(headers["x-api-key"], "secret");
        assert_eq!(headers["authorization"], "Basic dXNlcjpwYXNz==");
        assert_eq!(headers["empty"], "");
        assert_eq!(headers["x"], "2");
        assert_eq!(headers.len(), 4);
        assert!(headers.values().all(HeaderValue::is_sensitive));
    }
}

#[test]
fn a_bad_header_is_reported_without_its_value_and_the_others_are_sent() {
    let list =
        "a=1,secret,sec ret=secret,b=%0Asecret,c=%zzsecret,Content-Type=secret,grpc-timeout=secret,d=2";
    let (config, reports) = read(&[("OTEL_EXPORTER_OTLP_HEADERS", list)]);
    let headers = otlp(config).headers;
    assert_eq!(
        (headers.len(), &headers["a"], &headers["d"]),
        (2, &"1".parse().unwrap(), &"2".parse().unwrap())
    );
    let lines: Vec<String> = reports.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "member 2: expected name=value",
            "member 3: expected the name of an HTTP header before the `=`",
            "member 4: b: expected a percent-encoded value that a header may have",
            "member 5: c: expected a percent-encoded value that a header may have",
            "member 6: content-type: expected a header that does not belong to the protocol",
            "member 7: grpc-timeout: expected a header that does not belong to the protocol",
        ]
        .map(|problem| format!("OTEL_EXPORTER_OTLP_HEADERS: {problem}; this header is not sent"))
    );
}

#[test]
fn no_secret_shows_in_a_configuration_that_is_printed() {
    let config = good(&[
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=secret"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@collector"),
    ]);
    let printed = format!("{config:?}");
    assert!(printed.contains("x-api-key") && !printed.contains("secret"), "{printed}");
}

#[cfg(feature = "gzip")]
#[test]
fn compression_is_chosen_by_name() {
    for variable in ["OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION"] {
        assert_eq!(otlp(good(&[(variable, "gzip")])).compression, Compression::Gzip);
        assert_eq!(otlp(good(&[(variable, "NONE")])).compression, Compression::None);
        assert_eq!(
            bad(&[(variable, "zstd")]),
            format!("{variable}=\"zstd\": expected gzip or none; using the default, none")
        );
    }
}

#[test]
fn certificates_are_paths_and_a_key_needs_its_certificate() {
    for signal in ["", "TRACES_"] {
        let names = ["CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"]
            .map(|setting| format!("OTEL_EXPORTER_OTLP_{signal}{setting}"));
        let [certificate, key, client] = names.each_ref().map(String::as_str);
        let config = otlp(good(&[(certificate, "/ca.pem"), (key, "/client.key"), (client, "client.pem")]));
        assert_eq!(config.certificate, Some("/ca.pem".into()));
        assert_eq!(config.client_key, Some("/client.key".into()));
        assert_eq!(config.client_certificate, Some("client.pem".into()));
        assert_eq!(
            bad(&[(key, "/client.key")]),
            format!(
                "{key}: expected OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE beside it; the client does not prove who it is"
            )
        );
        assert_eq!(
            bad(&[(client, "/client.pem")]),
            format!(
                "{client}: expected OTEL_EXPORTER_OTLP_CLIENT_KEY beside it; the client does not prove who it is"
            )
        );
    }
}

#[test]
fn memory_and_the_spool_are_bounded_in_bytes() {
    assert_eq!(good(&[]).memory_bytes_max, 16 << 20);
    assert_eq!(good(&[("TRACE_CORE_MEMORY_BYTES_MAX", "1048576")]).memory_bytes_max, 1 << 20);
    assert!(good(&[]).spool.is_none());
    let spool = good(&[(SPOOL, "/var/spool/traces")]).spool.unwrap();
    assert_eq!((spool.directory, spool.bytes_max), (PathBuf::from("/var/spool/traces"), 256 << 20));
    let bytes = ("TRACE_CORE_SPOOL_BYTES_MAX", "1099511627776");
    assert_eq!(good(&[(SPOOL, "spool"), bytes]).spool.unwrap().bytes_max, 1 << 40);
    for value in ["1048575", "1099511627777", "16MiB", "-1"] {
        assert_eq!(
            bad(&[("TRACE_CORE_MEMORY_BYTES_MAX", value)]),
            format!(
                "TRACE_CORE_MEMORY_BYTES_MAX=\"{value}\": expected a whole number from 1048576 to 1099511627776; \
                 using the default, 16777216"
            )
        );
        let (config, reports) = read(&[(SPOOL, "spool"), ("TRACE_CORE_SPOOL_BYTES_MAX", value)]);
        assert_eq!(config.spool.unwrap().bytes_max, 256 << 20);
        assert_eq!(
            reports[0].to_string(),
            format!(
                "TRACE_CORE_SPOOL_BYTES_MAX=\"{value}\": expected a number of bytes from 1048576 to 1099511627776; \
                 using the default, 268435456"
            )
        );
    }
    assert_eq!(
        bad(&[bytes]),
        "TRACE_CORE_SPOOL_BYTES_MAX=\"1099511627776\": expected TRACE_CORE_SPOOL_DIRECTORY beside it; nothing is \
         spooled"
    );
}

#[test]
fn insecure_is_a_boolean() {
    for variable in ["OTEL_EXPORTER_OTLP_INSECURE", "OTEL_EXPORTER_OTLP_TRACES_INSECURE"] {
        assert!(otlp(good(&[(variable, "true")])).insecure);
        assert!(!otlp(good(&[(variable, "false")])).insecure);
        assert_eq!(bad(&[(variable, "1")]), format!("{variable}=\"1\": expected true or false; using false"));
    }
}

#[test]
fn other_variables_that_may_concern_traces_are_reported_once_without_their_value() {
    for variable in [
        "OTEL_CONFIG_FILE",
        "OTEL_EXPERIMENTAL_CONFIG_FILE",
        "OTEL_LOG_LEVEL",
        "OTEL_ENTITIES",
        "OTEL_SEMCONV_STABILITY_OPT_IN",
        "OTEL_EXPORTER_ZIPKIN_ENDPOINT",
        "OTEL_EXPORTER_JAEGER_AGENT_PORT",
        "OTEL_EXPORTER_OTLP_SPAN_INSECURE",
        "OTEL_BSP_MAX_CONCURRENT_EXPORTS",
        "OTEL_TRACE_SAMPLER",
        "TRACE_CORE_SPOOL_BYTES",
        "TRACE_CORE_",
    ] {
        let (config, reports) = Config::from_lookup(
            |name| (name == variable).then(|| "secret".into()),
            [variable.into(), variable.into(), "PATH".into()],
        );
        assert_eq!(reports.len(), 1, "{variable}");
        assert_eq!(reports[0].to_string(), format!("{variable}: not supported yet; it has no effect"));
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }
    good(&[("OTEL_CONFIG_FILE", "")]);
}

#[test]
fn variables_of_metrics_logs_other_languages_and_kubernetes_are_none_of_our_business() {
    for variable in [
        "OTEL_METRICS_EXPORTER",
        "OTEL_METRIC_EXPORT_INTERVAL",
        "OTEL_LOGS_EXPORTER",
        "OTEL_BLRP_SCHEDULE_DELAY",
        "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
        "OTEL_EXPORTER_PROMETHEUS_PORT",
        "OTEL_PYTHON_LOG_CORRELATION",
        "OTEL_JAVAAGENT_ENABLED",
        "OTEL_RESOURCE_ATTRIBUTES_POD_NAME",
        "OTEL_POD_IP",
        "OTELCOL_CONFIG",
        "otel_traces_exporter",
    ] {
        good(&[(variable, "x")]);
    }
    // What Kubernetes sets for a service `otel-collector` with a port named `otlp`.
    good(&[
        ("OTEL_COLLECTOR_SERVICE_HOST", "10.0.0.9"),
        ("OTEL_COLLECTOR_SERVICE_PORT", "4317"),
        ("OTEL_COLLECTOR_SERVICE_PORT_OTLP", "4317"),
        ("OTEL_COLLECTOR_PORT", "tcp://10.0.0.9:4317"),
        ("OTEL_COLLECTOR_PORT_4317_TCP", "tcp://10.0.0.9:4317"),
        ("OTEL_COLLECTOR_PORT_4317_TCP_ADDR", "10.0.0.9"),
    ]);
}

#[test]
fn a_value_that_is_not_utf_8_is_reported_and_a_path_may_be_one() {
    let bytes = || OsString::from_vec(vec![b'a', 0xff]);
    for variable in SUPPORTED {
        let (config, reports) = Config::from_lookup(|name| (name == variable).then(bytes), [variable.into()]);
        assert_eq!(
            reports.len(),
            usize::from(variable != CA && variable != CA_TRACES && variable != SPOOL),
            "{variable}: {reports:?}"
        );
        if variable.ends_with("_CERTIFICATE") || variable.ends_with("_KEY") || variable == SPOOL {
            continue;
        }
        assert_eq!(reports[0].problem(), "expected UTF-8", "{variable}");
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()), "{variable}");
        assert_eq!(reports[0].value().is_none(), variable.ends_with("_HEADERS"), "{variable}");
    }
    let (config, _) = Config::from_lookup(|name| (name == CA).then(bytes), []);
    assert_eq!(otlp(config).certificate, Some(PathBuf::from(bytes())));
}

#[test]
fn the_environment_of_this_process_is_read() {
    let (config, _) = Config::from_env();
    assert!(!config.resource.is_empty());
}

#[test]
fn a_configuration_error_lists_every_report() {
    let (_, reports) = read(&[("OTEL_SDK_DISABLED", "1"), ("OTEL_LOG_LEVEL", "debug")]);
    let error = ConfigError::from_reports(reports.clone()).unwrap();
    assert_eq!(error.reports(), reports);
    assert_eq!(error.to_string(), format!("{}\n{}", reports[0], reports[1]));
    assert_eq!(ConfigError::from_reports(Vec::new()), None);
}

const SPOOL: &str = "TRACE_CORE_SPOOL_DIRECTORY";
const CA: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
const CA_TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE";

/// Every variable that has an effect, except `OTEL_TRACES_SAMPLER_ARG`, whose effect depends on another one.
const SUPPORTED: [&str; 39] = [
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_PROPAGATORS",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_INSECURE",
    "OTEL_EXPORTER_OTLP_TRACES_INSECURE",
    CA,
    CA_TRACES,
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "TRACE_CORE_MEMORY_BYTES_MAX",
    SPOOL,
    "TRACE_CORE_SPOOL_BYTES_MAX",
];

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => proptest::sample::select(&SUPPORTED[..]).prop_map(|name| name.as_bytes().to_vec()),
        1 => Just(b"OTEL_TRACES_SAMPLER_ARG".to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..20).prop_map(|end| [b"OTEL_", &end[..]].concat()),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..60),
        "[a-z0-9%=,;:/@?#\\[\\]. -]{0,40}".prop_map(String::into_bytes),
        "(https?://)?[^/]{0,10}(:[0-9]{0,6})?(/.{0,10})?".prop_map(String::into_bytes),
        "-?[0-9]{0,25}(\\.[0-9]{0,3})?".prop_map(String::into_bytes),
        Just(b"parentbased_traceidratio".to_vec()),
        Just(b"grpc".to_vec()),
    ]
}

proptest! {
    #[test]
    fn no_environment_panics_or_breaks_the_bounds(
        environment in proptest::collection::btree_map(name(), value(), 0..12)
    ) {
        let (config, reports) = Config::from_lookup(
            |name| environment.get(name.as_bytes()).map(|value| OsString::from_vec(value.clone())),
            environment.keys().map(|name| OsString::from_vec(name.clone())),
        );
        prop_assert!(config.batch.schedule_delay >= ms(1));
        prop_assert!(config.batch.max_queue_spans != Some(0) && config.batch.max_batch_spans != Some(0));
        prop_assert!(!config.resource.service_name().is_empty());
        if let ExporterConfig::Otlp(otlp) = &config.exporter {
            prop_assert!(matches!(otlp.endpoint.scheme_str(), Some("http" | "https")));
            prop_assert!(otlp.endpoint.host().is_some_and(|host| !host.is_empty()));
        }
        for report in reports {
            prop_assert_eq!(report.to_string().lines().count(), 1);
        }
    }
}
