//! Who is speaking: the attributes that every span of a process shares.
//!
//! A resource is put together once, when a pipeline is set up, and never changes. Its attributes are named by
//! the [semantic conventions](https://opentelemetry.io/docs/specs/semconv/resource/); each source of them is
//! one file of this module, a detector: a function that gives back what it found, finds nothing without
//! complaint, and is quick.
//!
//! Not collected: the command line, the owner of the process and the environment, which may hold secrets.

mod host;
mod process;
mod service;

use std::fmt;

use crate::otlp::OwnedValue;

/// The attributes that name the origin of spans: service, process, host.
///
/// ```
/// use trace_core::Resource;
///
/// let resource = Resource::detect().with("service.name", "orders").with("service.version", "1.4.0");
/// assert_eq!(resource.service_name(), "orders");
/// assert_eq!(resource.get("telemetry.sdk.language").and_then(|value| value.as_str()), Some("rust"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// In the order in which they were first set; a key stands once.
    attributes: Vec<(String, OwnedValue)>,
}

impl Resource {
    /// No attributes at all.
    pub const fn empty() -> Self {
        Self { attributes: Vec::new() }
    }

    /// What can be known without being told.
    ///
    /// | attribute | value |
    /// |---|---|
    /// | `service.name` | `unknown_service:` and the name of the executable |
    /// | `service.instance.id` | a random UUID (version 4), the same for the life of the process |
    /// | `telemetry.sdk.language`, `.name`, `.version` | `rust`, `trace-core`, the version of this crate |
    /// | `process.pid`, `process.executable.name` | of this process |
    /// | `process.runtime.name`, `.version`, `.description` | `rustc`, and the compiler's version, when the build could tell |
    /// | `host.name` | the name of the host; in a Kubernetes pod, the pod's name |
    ///
    /// Environment variables of OpenTelemetry are not read here but by
    /// [`Config::from_env`](crate::config::Config::from_env).
    pub fn detect() -> Self {
        let sdk = Self::empty()
            .with("telemetry.sdk.language", "rust")
            .with("telemetry.sdk.name", "trace-core")
            .with("telemetry.sdk.version", env!("CARGO_PKG_VERSION"));
        service::detect().or(sdk).or(process::detect()).or(host::detect())
    }

    /// Sets an attribute; one of the same name is replaced.
    pub fn with(mut self, key: impl Into<String>, value: impl Into<OwnedValue>) -> Self {
        self.set(key, value);
        self
    }

    /// Sets an attribute; one of the same name is replaced.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<OwnedValue>) {
        let (key, value) = (key.into(), value.into());
        match self.attributes.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => self.attributes.push((key, value)),
        }
    }

    /// Adds the attributes of `other` that are missing or an empty string here.
    ///
    /// This is the [merge](https://opentelemetry.io/docs/specs/otel/resource/sdk/#merge) of the
    /// specification, with `self` as the one that takes precedence.
    pub fn or(mut self, other: Self) -> Self {
        for (key, value) in other.attributes {
            match self.attributes.iter_mut().find(|(known, _)| *known == key) {
                Some((_, old)) if old.as_str() == Some("") => *old = value,
                Some(_) => {}
                None => self.attributes.push((key, value)),
            }
        }
        self
    }

    /// The value of an attribute.
    pub fn get(&self, key: &str) -> Option<&OwnedValue> {
        self.attributes.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// The name of the service; `unknown_service` when there is none.
    pub fn service_name(&self) -> &str {
        self.get("service.name").and_then(OwnedValue::as_str).unwrap_or(service::UNKNOWN)
    }

    /// All attributes; each key comes once.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &OwnedValue)> {
        self.attributes.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether there is no attribute.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty()
    }
}

impl fmt::Display for Resource {
    /// One line: `key=value` for each attribute.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.iter().enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl<K: Into<String>, V: Into<OwnedValue>> FromIterator<(K, V)> for Resource {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(attributes: I) -> Self {
        attributes.into_iter().fold(Self::empty(), |resource, (key, value)| resource.with(key, value))
    }
}

#[cfg(test)]
mod tests;
