//! Compiles the .proto files with protox: no protoc binary is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "dormouse/v1/routes.proto",
        "dormouse/v1/demand.proto",
        "dormouse/v1/ledger.proto",
        "dormouse/v1/budgets.proto",
        "dormouse/v1/fires.proto",
        // OpenTelemetry's own files, as they are published: how traces leave.
        "opentelemetry/proto/collector/trace/v1/trace_service.proto",
        "opentelemetry/proto/trace/v1/trace.proto",
        "opentelemetry/proto/common/v1/common.proto",
        "opentelemetry/proto/resource/v1/resource.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    // Their comments have drawings in them that documentation tests would take for code.
    tonic_prost_build::configure().bytes(".").disable_comments([".opentelemetry"]).compile_fds(descriptors)?;
    Ok(())
}
