//! Compiles the policy message with a compiler written in Rust, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    println!("cargo:rerun-if-changed={root}/forebay/v1/policy.proto");
    let files = protox::compile(["forebay/v1/policy.proto"], [root])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
