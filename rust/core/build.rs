//! Compiles the messages with a compiler written in Rust, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    let nouns = ["forebay/v1/policy.proto", "forebay/v1/ledger.proto"];
    for noun in nouns {
        println!("cargo:rerun-if-changed={root}/{noun}");
    }
    let files = protox::compile(nouns, [root])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
