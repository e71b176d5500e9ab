# The commands of CONTRIBUTING.md.

# Format, lints and documentation, all without a warning.
check:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps

# Unit and integration tests; none needs a container engine.
test:
    cargo test --locked --workspace --exclude hitless-tests

# Whole systems on real containers.
system:
    cargo test --locked -p hitless-tests

# The benchmarks. `oha` and `wrk` have to be installed.
bench:
    cargo bench -p hitless --bench reqwest
    cargo bench -p hitless --bench oha
    cargo bench -p hitless --bench memory
    cargo bench -p hitless --bench render
    cargo bench -p hitless-server --bench throughput
    cargo bench -p hitless-testbed --bench restarts

# The documentation of the library.
doc:
    cargo doc --open -p hitless-server --no-deps
