//! Tells the crate which compiler builds it: spans say so in `process.runtime.version`.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A compiler that does not answer costs two attributes, never the build.
    let Some(rustc) = env::var_os("RUSTC") else { return };
    let Ok(output) = Command::new(rustc).arg("--version").output() else { return };
    let Ok(description) = String::from_utf8(output.stdout) else { return };
    let description = description.lines().next().unwrap_or_default().trim();
    // `rustc 1.88.0 (6b00bc388 2025-06-23)`
    if let Some(version) = description.split(' ').nth(1) {
        println!("cargo::rustc-env=RUSTC_OF_TRACE_CORE_VERSION={version}");
        println!("cargo::rustc-env=RUSTC_OF_TRACE_CORE_DESCRIPTION={description}");
    }
}
