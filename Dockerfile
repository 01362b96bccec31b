# The three images, for people with Docker (./test makes the same ones without: tests/cluster/images.sh):
#   docker build --target controller -t dormouse/controller:0.1.0 .
#   docker build --target activator  -t dormouse/activator:0.1.0 .
#   docker build --target sample     -t dormouse/sample:0.1.0 .
# Alpine's Rust builds for musl, so each program is static and its image holds nothing else.
FROM rust:1.95.0-alpine3.22 AS build
RUN apk add --no-cache build-base
# Not the file rust-toolchain.toml: its formatter and linter are not needed here.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release -p dormouse -p dormouse-controller -p dormouse-activator && \
    mkdir /out && cp target/release/dormouse target/release/dormouse-controller target/release/dormouse-activator /out/

FROM scratch AS controller
COPY --from=build /out/dormouse-controller /dormouse-controller
USER 65532:65532
ENTRYPOINT ["/dormouse-controller"]

FROM scratch AS activator
COPY --from=build /out/dormouse-activator /dormouse-activator
USER 65532:65532
ENTRYPOINT ["/dormouse-activator"]

FROM scratch AS sample
COPY --from=build /out/dormouse /dormouse
USER 65532:65532
ENTRYPOINT ["/dormouse", "sample"]
