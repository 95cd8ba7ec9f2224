//! Compiles the inference messages with a compiler written in Rust, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    println!("cargo:rerun-if-changed={root}/inference/grpc_service.proto");
    let files = protox::compile(["inference/grpc_service.proto"], [root])?;
    // Bytes are slices of what arrived; ordered maps encode equal parameters equally.
    prost_build::Config::new().bytes(["."]).btree_map(["."]).compile_fds(files)?;
    Ok(())
}
