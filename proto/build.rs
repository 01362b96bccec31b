//! Compiles the .proto files with protox: no protoc binary is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["dormouse/v1/routes.proto", "dormouse/v1/demand.proto", "dormouse/v1/ledger.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
