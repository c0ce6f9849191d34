//! Compiles the `.proto` file in pure Rust, so that no `protoc` has to be installed.

use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/inventory.proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_file("inventory.proto")?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    // By which the server's layer knows its methods.
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("inventory.bin"), compiler.encode_file_descriptor_set())?;
    Ok(())
}
