//! The host.
//! [Semantic conventions](https://opentelemetry.io/docs/specs/semconv/resource/host/)

use super::Resource;

pub(super) fn detect() -> Resource {
    match host_name() {
        Some(name) => Resource::empty().with("host.name", name),
        None => Resource::empty(),
    }
}

/// From the Linux kernel, which knows the name that a container has; elsewhere from the environment.
fn host_name() -> Option<String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let environment = || ["HOSTNAME", "COMPUTERNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let name = kernel.or_else(environment)?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}
