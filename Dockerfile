# The four images, for people with Docker (./test makes the same ones without: tests/cluster/images.sh):
#   docker build --target controller -t dormouse/controller:0.1.0 .
#   docker build --target activator  -t dormouse/activator:0.1.0 .
#   docker build --target sample     -t dormouse/sample:0.1.0 .
#   docker build --target parker     -t dormouse/parker:0.1.0 .
# Each holds one program and the C library that it was linked with (scripts/image-root.sh says why not a static one). No
# transparent huge pages, whatever the node does by default: they double the memory of calls that wait.
FROM rust:1.95.0-slim-bookworm AS build
# Not the file rust-toolchain.toml: its formatter and linter are not needed here.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --locked --release -p dormouse -p dormouse-controller -p dormouse-activator && \
    cargo rustc --locked --release -p dormouse-parker -- -C target-feature=+crt-static && \
    for program in dormouse dormouse-controller dormouse-activator; do \
        scripts/image-root.sh target/release/$program /out/$program || exit 1; \
    done && cp target/release/dormouse-parker /out/

FROM scratch AS controller
COPY --from=build /out/dormouse-controller /
ENV MIMALLOC_ALLOW_THP=0
USER 65532:65532
ENTRYPOINT ["/dormouse-controller"]

FROM scratch AS activator
COPY --from=build /out/dormouse-activator /
ENV MIMALLOC_ALLOW_THP=0
USER 65532:65532
ENTRYPOINT ["/dormouse-activator"]

FROM scratch AS sample
COPY --from=build /out/dormouse /
ENV MIMALLOC_ALLOW_THP=0
USER 65532:65532
ENTRYPOINT ["/dormouse", "sample"]

FROM scratch AS parker
COPY --from=build /out/dormouse-parker /
USER 65532:65532
ENTRYPOINT ["/dormouse-parker"]
