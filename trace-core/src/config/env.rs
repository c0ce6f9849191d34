//! The configuration that environment variables make.
//!
//! The rules are those of the specification's [configuration
//! types](https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/#configuration-types):
//! an empty value is no value, and one that cannot be read is reported and treated as if it were not there.
//! In two places we are gentler than the specification, which would throw away a whole list for one bad
//! member: the good members of `OTEL_RESOURCE_ATTRIBUTES` and of the headers are kept.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::resource::Resource;
use crate::sampler::{AnySampler, ParentBased, TraceIdRatio};

use super::report::redact_address;
use super::{
    BatchConfig, Compression, Config, ExporterConfig, MEMORY_BYTES_MAX, NO_TIMEOUT, OtlpConfig,
    PropagatorName, Protocol, Report, SpanLimits, SpoolConfig,
};

/// The largest number that the specification asks for, 2³¹ − 1.
const INTEGER_MAX: u64 = i32::MAX as u64;

/// The least memory or room on disk that is of use, 1 MiB.
const BYTES_MIN: u64 = 1 << 20;

/// More than any machine gives to traces, 1 TiB.
const BYTES_MAX: u64 = 1 << 40;

/// The most bad members of one list that are reported; a list of 100 000 commas is one mistake.
const MEMBER_REPORTS_MAX: usize = 8;

/// Headers that the protocol sets, and that a user would only break it with.
const RESERVED_HEADERS: [&str; 8] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
];

/// Starts of names that concern metrics, logs, profiles or other languages only. A cluster's variables are
/// often shared by services of many languages, so those are none of our business.
const FOREIGN_PREFIXES: [&str; 24] = [
    "OTEL_BLRP_",
    "OTEL_CPP_",
    "OTEL_DOTNET_",
    "OTEL_ERLANG_",
    "OTEL_EXPORTER_OTLP_LOGS_",
    "OTEL_EXPORTER_OTLP_METRICS_",
    "OTEL_EXPORTER_OTLP_PROFILES_",
    "OTEL_EXPORTER_PROMETHEUS_",
    "OTEL_GO_",
    "OTEL_INSTRUMENTATION_",
    "OTEL_JAVAAGENT_",
    "OTEL_JAVA_",
    "OTEL_JMX_",
    "OTEL_JS_",
    "OTEL_LOGRECORD_",
    "OTEL_LOGS_",
    "OTEL_METRICS_",
    "OTEL_METRIC_",
    "OTEL_NODE_",
    "OTEL_PHP_",
    "OTEL_PROFILES_",
    "OTEL_PYTHON_",
    "OTEL_RUBY_",
    "OTEL_SWIFT_",
];

/// Starts of names that the OpenTelemetry operator for Kubernetes sets to build other variables from.
const OPERATOR_PREFIXES: [&str; 3] = ["OTEL_RESOURCE_ATTRIBUTES_", "OTEL_POD_IP", "OTEL_NODE_IP"];

/// The variable for traces and the one for all signals; the first takes precedence.
macro_rules! variables {
    ($setting:literal) => {
        [concat!("OTEL_EXPORTER_OTLP_TRACES_", $setting), concat!("OTEL_EXPORTER_OTLP_", $setting)]
    };
}

/// Reads everything; see [`Config::from_lookup`].
pub(super) fn read(
    lookup: &dyn Fn(&str) -> Option<OsString>,
    names: impl IntoIterator<Item = OsString>,
) -> (Config, Vec<Report>) {
    let mut environment = Environment { lookup, known: BTreeSet::new(), reports: Vec::new() };
    let config = Config {
        disabled: environment.boolean(&["OTEL_SDK_DISABLED"]),
        resource: resource(&mut environment),
        propagators: propagators(&mut environment),
        exporter: exporter(&mut environment),
        sampler: sampler(&mut environment),
        batch: batch(&mut environment),
        limits: limits(&mut environment),
        memory_bytes_max: memory(&mut environment),
        spool: spool(&mut environment),
    };
    environment.report_unsupported(names);
    (config, environment.reports)
}

/// `OTEL_SERVICE_NAME` over `OTEL_RESOURCE_ATTRIBUTES` over what can be detected.
fn resource(environment: &mut Environment<'_>) -> Resource {
    let mut resource = Resource::empty();
    if let Some((variable, list)) = environment.text(&["OTEL_RESOURCE_ATTRIBUTES"], "what can be detected") {
        for (number, member) in members(&list) {
            let problem =
                match member.split_once('=').map(|(key, value)| (decode_text(key), decode_text(value))) {
                    Some((Some(key), Some(value))) if !key.is_empty() => {
                        resource.set(key, value);
                        continue;
                    }
                    Some((Some(_), Some(_))) | None => "expected name=value",
                    Some(_) => "expected percent-encoded UTF-8",
                };
            environment.report_member(variable, number, problem, "this attribute is left out", Some(member));
        }
    }
    if let Some((_, name)) = environment.text(&["OTEL_SERVICE_NAME"], "unknown_service and the executable") {
        resource.set("service.name", name);
    }
    resource.or(Resource::detect())
}

fn propagators(environment: &mut Environment<'_>) -> Vec<PropagatorName> {
    let default = || vec![PropagatorName::TraceContext, PropagatorName::Baggage];
    let Some((variable, list)) = environment.text(&["OTEL_PROPAGATORS"], "tracecontext,baggage") else {
        return default();
    };
    let (mut found, mut is_none, mut is_bad) = (Vec::new(), false, false);
    for (_, name) in members(&list) {
        let propagator = match name.to_ascii_lowercase().as_str() {
            "tracecontext" => PropagatorName::TraceContext,
            "baggage" => PropagatorName::Baggage,
            "none" => {
                is_none = true;
                continue;
            }
            _ => {
                is_bad = true;
                continue;
            }
        };
        if !found.contains(&propagator) {
            found.push(propagator);
        }
    }
    if found.is_empty() && !is_none {
        (found, is_bad) = (default(), true);
    }
    if is_bad || (is_none && !found.is_empty()) {
        let used: Vec<&str> = found.iter().map(|propagator| propagator.as_str()).collect();
        let used = if used.is_empty() { "none".to_owned() } else { used.join(",") };
        let problem =
            "expected a list of tracecontext and baggage, or none alone (no other format is supported yet)";
        environment.reports.push(Report::new(variable, problem, format!("using {used}")).with_value(&list));
    }
    found
}

fn exporter(environment: &mut Environment<'_>) -> ExporterConfig {
    // Read whatever the exporter is, so that a mistake shows before the day it matters.
    let otlp = ExporterConfig::Otlp(otlp(environment));
    environment
        .choice(&["OTEL_TRACES_EXPORTER"], "otlp", |name| match name {
            "otlp" => Ok(otlp.clone()),
            "console" => Ok(ExporterConfig::Console),
            "none" => Ok(ExporterConfig::None),
            _ => Err("expected one of otlp, console, none"),
        })
        .unwrap_or_else(|| otlp.clone())
}

fn otlp(environment: &mut Environment<'_>) -> OtlpConfig {
    let protocol = environment.choice(&variables!("PROTOCOL"), "http/protobuf", |name| match name {
        "http/protobuf" => Ok(Protocol::HttpProtobuf),
        "grpc" if cfg!(feature = "grpc") => Ok(Protocol::Grpc),
        "grpc" => Err("expected http/protobuf (built without the feature `grpc` of trace-core)"),
        "http/json" => Err("expected http/protobuf or grpc (http/json is not supported yet)"),
        _ => Err("expected http/protobuf or grpc"),
    });
    let compression = environment.choice(&variables!("COMPRESSION"), "none", |name| match name {
        "none" => Ok(Compression::None),
        "gzip" if cfg!(feature = "gzip") => Ok(Compression::Gzip),
        "gzip" => Err("expected none (built without the feature `gzip` of trace-core)"),
        _ => Err("expected gzip or none"),
    });
    let default = OtlpConfig::new(protocol.unwrap_or(Protocol::HttpProtobuf));
    let insecure = environment.boolean(&variables!("INSECURE"));
    let (client_key, client_certificate) = client_identity(environment);
    OtlpConfig {
        endpoint: endpoint(environment, &default, insecure),
        headers: headers(environment),
        timeout: environment.timeout(&variables!("TIMEOUT"), default.timeout),
        compression: compression.unwrap_or(default.compression),
        insecure,
        certificate: environment.path(&variables!("CERTIFICATE")).map(|(_, path)| path),
        client_key,
        client_certificate,
        ..default
    }
}

/// The key and the certificates that prove who this process is: both or neither.
fn client_identity(environment: &mut Environment<'_>) -> (Option<PathBuf>, Option<PathBuf>) {
    let key = environment.path(&variables!("CLIENT_KEY"));
    let certificate = environment.path(&variables!("CLIENT_CERTIFICATE"));
    let (variable, problem) = match (key, certificate) {
        (Some((_, key)), Some((_, certificate))) => return (Some(key), Some(certificate)),
        (Some((variable, _)), None) => (variable, "expected OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE beside it"),
        (None, Some((variable, _))) => (variable, "expected OTEL_EXPORTER_OTLP_CLIENT_KEY beside it"),
        (None, None) => return (None, None),
    };
    environment.reports.push(Report::new(variable, problem, "the client does not prove who it is"));
    (None, None)
}

/// [Endpoint URLs for
/// OTLP/HTTP](https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp)
fn endpoint(environment: &mut Environment<'_>, default: &OtlpConfig, insecure: bool) -> Uri {
    let [for_traces, for_all] = variables!("ENDPOINT");
    let default_text = default.endpoint.to_string();
    let found = environment.first(&[for_traces, for_all], &default_text, redact_address, |variable, text| {
        match default.protocol {
            Protocol::HttpProtobuf if variable == for_all => base_address(text).and_then(with_signal_path),
            Protocol::HttpProtobuf => base_address(text),
            Protocol::Grpc if text.contains("://") => base_address(text),
            Protocol::Grpc if text.starts_with("unix:") => None,
            // "This option only applies to OTLP/gRPC when an endpoint is provided without the `http` or
            // `https` scheme."
            Protocol::Grpc if insecure => base_address(&format!("http://{text}")),
            Protocol::Grpc => base_address(&format!("https://{text}")),
        }
        .ok_or(match default.protocol {
            Protocol::HttpProtobuf => "expected a URL such as http://collector:4318",
            Protocol::Grpc => "expected a URL such as http://collector:4317",
        })
    });
    found.map_or_else(|| default.endpoint.clone(), |(_, endpoint)| endpoint)
}

/// An absolute `http` or `https` address with a host, and with a port that is a number.
fn base_address(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let authority = uri.authority()?;
    let has_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let port = authority.as_str().rsplit('@').next()?.strip_prefix(authority.host())?;
    let has_good_port = matches!(port, "" | ":") || authority.port_u16().is_some_and(|port| port > 0);
    (has_scheme && !authority.host().is_empty() && has_good_port).then_some(uri)
}

/// "Traces: `v1/traces`", relative to the base address.
fn with_signal_path(base: Uri) -> Option<Uri> {
    let path = format!("{}/v1/traces", base.path().trim_end_matches('/'));
    let mut parts = base.into_parts();
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}

fn headers(environment: &mut Environment<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let Some((variable, list)) = environment.secret(&variables!("HEADERS"), "no headers") else {
        return headers;
    };
    for (number, member) in members(&list) {
        // A member without a good name may be a secret as a whole, so that only its number is told.
        let problem = match header(member) {
            Ok((name, value)) => {
                headers.insert(&name, value);
                continue;
            }
            Err(problem) => problem,
        };
        environment.report_member(variable, number, &problem, "this header is not sent", None);
    }
    headers
}

fn header(member: &str) -> Result<(HeaderName, HeaderValue), Cow<'static, str>> {
    let (name, value) = member.split_once('=').ok_or("expected name=value")?;
    let name: HeaderName =
        name.trim().parse().map_err(|_| "expected the name of an HTTP header before the `=`")?;
    if RESERVED_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("grpc-") {
        return Err(format!("{name}: expected a header that does not belong to the protocol").into());
    }
    let value = decode(value.trim()).and_then(|value| HeaderValue::from_maybe_shared(value).ok());
    let mut value =
        value.ok_or_else(|| format!("{name}: expected a percent-encoded value that a header may have"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn sampler(environment: &mut Environment<'_>) -> AnySampler {
    const NAMES: &str = "expected one of always_on, always_off, traceidratio, parentbased_always_on, \
                         parentbased_always_off, parentbased_traceidratio";
    const ARGUMENT: [&str; 1] = ["OTEL_TRACES_SAMPLER_ARG"];
    environment.known.extend(ARGUMENT);
    let reports_before = environment.reports.len();
    let name = environment.choice(&["OTEL_TRACES_SAMPLER"], "parentbased_always_on", |name| match name {
        "always_on" | "always_off" | "traceidratio" => Ok(name.to_owned()),
        "parentbased_always_on" | "parentbased_always_off" | "parentbased_traceidratio" => {
            Ok(name.to_owned())
        }
        _ => Err(NAMES),
    });
    let name = name.as_deref().unwrap_or("parentbased_always_on");
    let (is_parent_based, root) = match name.strip_prefix("parentbased_") {
        Some(root) => (true, root),
        None => (false, name),
    };
    let root = match root {
        "always_off" => AnySampler::AlwaysOff,
        "traceidratio" => environment
            .first(&ARGUMENT, "1", str::to_owned, |_, text| {
                let ratio = text.parse().ok().and_then(|ratio| TraceIdRatio::new(ratio).ok());
                ratio.ok_or("expected a ratio, a number from 0 to 1")
            })
            .map_or(AnySampler::AlwaysOn, |(_, ratio)| ratio.into()),
        _ => AnySampler::AlwaysOn,
    };
    // Who sets a ratio and no sampler would otherwise send everything without a word.
    let name_is_good = environment.reports.len() == reports_before;
    if name_is_good
        && !name.ends_with("traceidratio")
        && let Some((variable, text)) = environment.text(&ARGUMENT, "")
    {
        let problem = "expected OTEL_TRACES_SAMPLER to be traceidratio or parentbased_traceidratio";
        environment.reports.push(Report::new(variable, problem, format!("using {name}")).with_value(&text));
    }
    if is_parent_based { ParentBased::new(root).into() } else { root }
}

fn batch(environment: &mut Environment<'_>) -> BatchConfig {
    let default = BatchConfig::default();
    let positive = 1..=INTEGER_MAX;
    let schedule_delay =
        environment.milliseconds(&["OTEL_BSP_SCHEDULE_DELAY"], positive.clone(), default.schedule_delay);
    let max_queue_spans =
        environment.integer(&["OTEL_BSP_MAX_QUEUE_SIZE"], positive.clone(), "a bound in bytes");
    let max_batch_spans =
        environment.integer(&["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"], positive, "batches by bytes");
    let max_batch_spans = match (max_batch_spans, max_queue_spans) {
        // "Must be less than or equal to OTEL_BSP_MAX_QUEUE_SIZE."
        (Some(batch), Some(queue)) if batch > queue => {
            let problem = format!("expected at most OTEL_BSP_MAX_QUEUE_SIZE, which is {queue}");
            let report = Report::new("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", problem, format!("using {queue}"));
            environment.reports.push(report.with_value(&batch.to_string()));
            Some(queue)
        }
        (batch, _) => batch,
    };
    BatchConfig {
        schedule_delay,
        max_queue_spans,
        max_batch_spans,
        export_timeout: environment.timeout(&["OTEL_BSP_EXPORT_TIMEOUT"], default.export_timeout),
    }
}

/// "If a limit for the model is not set, the SDK has to fall back on the general one":
/// <https://opentelemetry.io/docs/specs/otel/common/#attribute-limits>
fn limits(environment: &mut Environment<'_>) -> SpanLimits {
    const ALL: &str = "OTEL_ATTRIBUTE_COUNT_LIMIT";
    let default = SpanLimits::default();
    let mut count = |names: &[&'static str], default: usize| {
        environment.integer(names, 0..=INTEGER_MAX, &default.to_string()).unwrap_or(default)
    };
    SpanLimits {
        attribute_count: count(&["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", ALL], default.attribute_count),
        event_count: count(&["OTEL_SPAN_EVENT_COUNT_LIMIT"], default.event_count),
        link_count: count(&["OTEL_SPAN_LINK_COUNT_LIMIT"], default.link_count),
        event_attribute_count: count(
            &["OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", ALL],
            default.event_attribute_count,
        ),
        link_attribute_count: count(&["OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", ALL], default.link_attribute_count),
        attribute_value_length: environment.integer(
            &["OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"],
            0..=INTEGER_MAX,
            "no limit",
        ),
    }
}

fn memory(environment: &mut Environment<'_>) -> usize {
    let default = MEMORY_BYTES_MAX;
    environment
        .integer(&["TRACE_CORE_MEMORY_BYTES_MAX"], BYTES_MIN..=BYTES_MAX, &default.to_string())
        .unwrap_or(default)
}

fn spool(environment: &mut Environment<'_>) -> Option<SpoolConfig> {
    let directory = environment.path(&["TRACE_CORE_SPOOL_DIRECTORY"]);
    let default = SpoolConfig::new(directory.as_ref().map_or(Path::new(""), |(_, path)| path));
    let bytes_max = environment.number(
        &["TRACE_CORE_SPOOL_BYTES_MAX"],
        &(BYTES_MIN..=BYTES_MAX),
        "a number of bytes",
        &default.bytes_max.to_string(),
        "",
    );
    if directory.is_none()
        && let Some(bytes_max) = bytes_max
    {
        let report = Report::new(
            "TRACE_CORE_SPOOL_BYTES_MAX",
            "expected TRACE_CORE_SPOOL_DIRECTORY beside it",
            "nothing is spooled",
        );
        environment.reports.push(report.with_value(&bytes_max.to_string()));
    }
    directory.map(|_| SpoolConfig { bytes_max: bytes_max.unwrap_or(default.bytes_max), ..default })
}

/// The variables, which of them were asked for, and what was wrong with them.
struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<OsString>,
    known: BTreeSet<&'static str>,
    reports: Vec<Report>,
}

impl Environment<'_> {
    /// The first of these variables whose value `parse` accepts; it gives back what it expected otherwise.
    /// Each one that it does not accept is reported, with its value as `show` shows it, and with what is used
    /// in the end.
    fn first<T, P: Into<Cow<'static, str>>>(
        &mut self,
        variables: &[&'static str],
        default: &str,
        show: impl Fn(&str) -> String,
        mut parse: impl FnMut(&'static str, &str) -> Result<T, P>,
    ) -> Option<(&'static str, T)> {
        self.known.extend(variables);
        let mut refused = Vec::new();
        let found = variables.iter().find_map(|&variable| {
            let raw = (self.lookup)(variable)?;
            let Some(text) = raw.to_str() else {
                refused.push((variable, Cow::from("expected UTF-8"), show(&raw.to_string_lossy())));
                return None;
            };
            let text = text.trim();
            if text.is_empty() {
                return None;
            }
            match parse(variable, text) {
                Ok(value) => Some((variable, value)),
                Err(problem) => {
                    refused.push((variable, problem.into(), show(text)));
                    None
                }
            }
        });
        for (variable, problem, value) in refused {
            let remedy = match &found {
                Some((used, _)) => format!("using {used}"),
                None => format!("using the default, {default}"),
            };
            // A variable that several settings fall back on is read several times.
            if self.reports.iter().any(|known| known.source() == variable && known.problem() == problem) {
                continue;
            }
            let report = Report::new(variable, problem, remedy);
            self.reports.push(if value.is_empty() { report } else { report.with_value(&value) });
        }
        found
    }

    /// Any text.
    fn text(&mut self, variables: &[&'static str], default: &str) -> Option<(&'static str, String)> {
        self.first(variables, default, str::to_owned, |_, text| Ok::<_, &str>(text.to_owned()))
    }

    /// Any text, no part of which is ever shown.
    fn secret(&mut self, variables: &[&'static str], default: &str) -> Option<(&'static str, String)> {
        self.first(variables, default, |_| String::new(), |_, text| Ok::<_, &str>(text.to_owned()))
    }

    /// One of some names, in upper or lower case.
    fn choice<T>(
        &mut self,
        variables: &[&'static str],
        default: &str,
        mut parse: impl FnMut(&str) -> Result<T, &'static str>,
    ) -> Option<T> {
        let parse = |_: &'static str, text: &str| parse(&text.to_ascii_lowercase());
        self.first(variables, default, str::to_owned, parse).map(|(_, value)| value)
    }

    /// "Any value not explicitly defined here as a true value MUST be interpreted as false": so a bad value
    /// for traces does not give way to the one for all signals.
    fn boolean(&mut self, variables: &[&'static str]) -> bool {
        let mut bad = None;
        let found = self.first(variables, "false", str::to_owned, |variable, text| {
            let is_true = text.eq_ignore_ascii_case("true");
            if !is_true && !text.eq_ignore_ascii_case("false") {
                bad = Some(Report::new(variable, "expected true or false", "using false").with_value(text));
            }
            Ok::<_, &str>(is_true)
        });
        self.reports.extend(bad);
        found.is_some_and(|(_, value)| value)
    }

    fn integer(
        &mut self,
        variables: &[&'static str],
        range: RangeInclusive<u64>,
        default: &str,
    ) -> Option<usize> {
        self.number(variables, &range, "a whole number", default, "")
            .and_then(|number| number.try_into().ok())
    }

    fn milliseconds(
        &mut self,
        variables: &[&'static str],
        range: RangeInclusive<u64>,
        default: Duration,
    ) -> Duration {
        let default_text = default.as_millis().to_string();
        let number = self.number(variables, &range, "milliseconds, a whole number", &default_text, "");
        number.map_or(default, Duration::from_millis)
    }

    /// "Implementations SHOULD interpret timeout zero values as no limit."
    fn timeout(&mut self, variables: &[&'static str], default: Duration) -> Duration {
        let default_text = default.as_millis().to_string();
        let number = self.number(
            variables,
            &(0..=INTEGER_MAX),
            "milliseconds, a whole number",
            &default_text,
            " (no time-out)",
        );
        match number {
            None => default,
            Some(0) => NO_TIMEOUT,
            Some(number) => Duration::from_millis(number),
        }
    }

    fn number(
        &mut self,
        variables: &[&'static str],
        range: &RangeInclusive<u64>,
        what: &str,
        default: &str,
        meaning_of_start: &str,
    ) -> Option<u64> {
        let found = self.first(variables, default, str::to_owned, |_, text| {
            text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
                format!("expected {what} from {}{meaning_of_start} to {}", range.start(), range.end())
            })
        });
        found.map(|(_, number)| number)
    }

    /// A path, which need not be UTF-8.
    fn path(&mut self, variables: &[&'static str]) -> Option<(&'static str, PathBuf)> {
        self.known.extend(variables);
        variables.iter().find_map(|&variable| {
            let path = (self.lookup)(variable).filter(|path| !path.is_empty())?;
            Some((variable, PathBuf::from(path)))
        })
    }

    /// Reports one bad member of a list, unless there were too many before it.
    fn report_member(
        &mut self,
        variable: &'static str,
        number: usize,
        problem: &str,
        remedy: &str,
        member: Option<&str>,
    ) {
        let before = self.reports.iter().filter(|report| report.source() == variable).count();
        if before > MEMBER_REPORTS_MAX {
            return;
        }
        self.reports.push(match member {
            _ if before == MEMBER_REPORTS_MAX => {
                Report::new(variable, "further members are bad too", "they are left out")
            }
            Some(member) => {
                Report::new(variable, format!("member {number}: {problem}"), remedy).with_value(member)
            }
            None => Report::new(variable, format!("member {number}: {problem}"), remedy),
        });
    }

    /// Reports each variable that is set, was never asked for, and may concern traces. Not its value: it may
    /// be a secret.
    fn report_unsupported(&mut self, names: impl IntoIterator<Item = OsString>) {
        let names: BTreeSet<String> = names
            .into_iter()
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| name.starts_with("OTEL_") || name.starts_with("TRACE_CORE_"))
            .filter(|name| !self.known.contains(name.as_str()))
            .filter(|name| (self.lookup)(name).is_some_and(|value| !value.is_empty()))
            .collect();
        // Kubernetes tells each container of every service in its namespace: for a service `otel-collector`
        // it sets `OTEL_COLLECTOR_SERVICE_HOST`, `OTEL_COLLECTOR_SERVICE_PORT`, `OTEL_COLLECTOR_PORT` and
        // more.
        let services: Vec<&str> =
            names.iter().filter_map(|name| name.strip_suffix("_SERVICE_HOST")).collect();
        let is_of_service = |name: &str| {
            let rest = services.iter().filter_map(|service| name.strip_prefix(service));
            rest.into_iter()
                .any(|rest| rest.starts_with("_SERVICE_") || rest == "_PORT" || rest.starts_with("_PORT_"))
        };
        let foreign = |name: &str| {
            FOREIGN_PREFIXES.iter().chain(&OPERATOR_PREFIXES).any(|start| name.starts_with(start))
        };
        for name in &names {
            if !foreign(name) && !is_of_service(name) {
                self.reports.push(Report::new(name, "not supported yet", "it has no effect"));
            }
        }
    }
}

/// The members of a comma-separated list with their numbers, counted from 1. Empty ones are left out.
fn members(list: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..)
        .zip(list.split(','))
        .map(|(number, member)| (number, member.trim()))
        .filter(|(_, member)| !member.is_empty())
}

/// Text that is percent-encoded in the manner of [W3C Baggage](https://www.w3.org/TR/baggage/#value).
fn decode_text(text: &str) -> Option<String> {
    String::from_utf8(decode(text.trim())?.into()).ok()
}

/// `None` when a `%` is not followed by two hexadecimal digits.
fn decode(text: &str) -> Option<Bytes> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            byte => byte,
        });
    }
    Some(decoded.into())
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| digit.try_into().ok())
}
