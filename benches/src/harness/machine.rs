//! What the numbers were measured on, and which versions were compared.

use std::fmt;
use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::callgrind;

/// The lock file that this program was built by.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// The crates that are compared.
const PEERS: &[&str] = &[
    "axum",
    "axum-otel",
    "axum-tracing-opentelemetry",
    "fastrace",
    "fastrace-axum",
    "fastrace-opentelemetry",
    "fastrace-reqwest",
    "fastrace-tonic",
    "fastrace-tracing",
    "opentelemetry-http",
    "opentelemetry-instrumentation-tower",
    "opentelemetry-otlp",
    "opentelemetry_sdk",
    "reqwest",
    "reqwest-middleware",
    "reqwest-tracing",
    "tonic",
    "tonic-tracing-opentelemetry",
    "tower-http",
    "tower-otel",
    "tracing",
    "tracing-opentelemetry",
    "tracing-subscriber",
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    pub(super) kernel: String,
    rustc: String,
    load: String,
    pub(crate) valgrind: Option<String>,
    peers: Vec<String>,
}

impl Machine {
    pub(crate) fn describe() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let first_word = |text: String| text.split_whitespace().next().unwrap_or("unknown").to_owned();
        Self {
            processor: processor(&read("/proc/cpuinfo")),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: first_word(read("/proc/sys/kernel/osrelease")),
            rustc: rustc(),
            load: first_word(read("/proc/loadavg")),
            valgrind: callgrind::version(),
            peers: PEERS.iter().filter_map(|name| Some(format!("{name} {}", version(LOCK, name)?))).collect(),
        }
    }

    /// Whether figures of both can stand side by side: all is the same but the load.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let but_load = |machine: &Self| Self { load: String::new(), ..machine.clone() };
        but_load(self) == but_load(other)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, kernel, rustc, load, valgrind, peers } = self;
        let valgrind = valgrind.as_deref().unwrap_or("no valgrind, so no instructions are counted");
        writeln!(
            f,
            "{processor}, {cores} cores, load {load} at the start; Linux {kernel}; {rustc}; {valgrind}."
        )?;
        write!(f, "{}.", peers.join(", "))
    }
}

/// Its name, and its family and model, where they are told: a name is often shared by generations that are not alike.
fn processor(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| key.trim_end() == name).map(|(_, value)| value.trim())
    };
    let name = field("model name").unwrap_or("unknown processor");
    match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name.to_owned(),
    }
}

fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let version = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    version.map_or_else(|| "rustc unknown".to_owned(), |version| version.trim().to_owned())
}

/// The highest version of a crate in a lock file: a lower one is another's dependency.
fn version<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let heading = format!("name = \"{name}\"");
    let mut lines = lock.lines();
    let mut last = None;
    while let Some(line) = lines.next() {
        if line == heading {
            last = lines.next()?.strip_prefix("version = \"")?.strip_suffix('"');
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_was_built() {
        let lock = "name = \"a\"\nversion = \"0.6.1\"\n\nname = \"a\"\nversion = \"0.7.0\"\n\nname = \"ab\"\nversion = \"2.0.0\"\n";
        assert_eq!(version(lock, "a"), Some("0.7.0"));
        assert_eq!(version(lock, "b"), None);
        assert!(PEERS.iter().all(|peer| version(LOCK, peer).is_some()));
    }

    #[test]
    fn the_processor_is_named() {
        let told = "cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: Some CPU @ 2 GHz\n\ncpu family\t: 26\n";
        assert_eq!(processor(told), "Some CPU @ 2 GHz (family 25, model 17)");
        assert_eq!(processor("vendor_id\t: X\nmodel name\t: Some CPU\n"), "Some CPU");
        assert_eq!(processor(""), "unknown processor");
    }
}
