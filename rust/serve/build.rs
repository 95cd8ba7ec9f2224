//! Compiles the inference messages with a compiler written in Rust, so that no `protoc` is needed.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    println!("cargo:rerun-if-changed={root}/inference");
    let files = protox::compile(["inference/grpc_service.proto"], [root])?;
    // The HTTP front writes descriptive answers as JSON by the names in the protocol itself.
    let descriptors = PathBuf::from(std::env::var("OUT_DIR")?).join("inference.descriptors");
    std::fs::write(descriptors, files.encode_to_vec())?;
    // Bytes are slices of what arrived; ordered maps encode equal parameters equally.
    prost_build::Config::new().bytes(["."]).btree_map(["."]).compile_fds(files)?;
    Ok(())
}
