# The saboteurs' image: servers that misbehave on purpose, for `hitless selftest`. Only the last stage is ever built, around
# the binary from the host's cargo.

FROM scratch
COPY --from=build /out/saboteur /saboteur
USER 65532:65532
ENTRYPOINT ["/saboteur"]
