//! Compiles the `.proto` file in pure Rust, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../relay.proto");
    let descriptors = protox::compile(["../relay.proto"], [".."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
