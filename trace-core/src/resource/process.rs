//! The process and the compiler that built it.
//! [Semantic conventions](https://opentelemetry.io/docs/specs/semconv/resource/process/)

use std::path::{Path, PathBuf};

use super::Resource;

pub(super) fn detect() -> Resource {
    let mut resource = Resource::empty().with("process.pid", i64::from(std::process::id()));
    if let Some(name) = executable_name() {
        resource.set("process.executable.name", name);
    }
    // The conventions name no runtime for Rust; its users agree on the compiler's name.
    resource.set("process.runtime.name", "rustc");
    // Both are told by the build script, and missing when the compiler would not tell its version.
    if let Some(version) = option_env!("RUSTC_OF_TRACE_CORE_VERSION") {
        resource.set("process.runtime.version", version);
    }
    if let Some(description) = option_env!("RUSTC_OF_TRACE_CORE_DESCRIPTION") {
        resource.set("process.runtime.description", description);
    }
    resource
}

/// The file name of the executable, or of what the process was called by when the system does not tell.
pub(super) fn executable_name() -> Option<String> {
    let path = std::env::current_exe().ok().or_else(|| std::env::args_os().next().map(PathBuf::from))?;
    file_name(&path)
}

fn file_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy();
    // Linux says so of an executable that was replaced while it runs.
    let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_is_called_by_its_file_name_even_when_it_was_replaced() {
        assert_eq!(file_name(Path::new("/usr/bin/orders")).as_deref(), Some("orders"));
        assert_eq!(file_name(Path::new("/usr/bin/orders (deleted)")).as_deref(), Some("orders"));
        assert_eq!(file_name(Path::new("/")), None);
    }
}
