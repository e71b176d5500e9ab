//! What is built once for all tests: the `hitless` binary, the server's image, the saboteur's image.
//!
//! All three come from the host's cargo, in the profiles in which people get them: a debug build of the harness would be
//! late with its own load. The images stay on the engine when the tests are over, so that the next time is short.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use testcontainers::GenericBuildableImage;
use testcontainers::runners::AsyncBuilder;
use tokio::process::Command;
use tokio::sync::OnceCell;

/// An image that is there.
#[derive(Clone, Copy)]
pub(crate) struct Image {
    /// Without the tag.
    pub(crate) name: &'static str,
    /// The tag.
    pub(crate) tag: &'static str,
}

impl Image {
    /// As the engine takes it.
    pub(crate) fn reference(self) -> String {
        format!("{}:{}", self.name, self.tag)
    }
}

/// The server's image, made by `hitless image` the first time that a test asks for it.
pub(crate) async fn server_image() -> Image {
    static MADE: OnceCell<Image> = OnceCell::const_new();
    *MADE.get_or_init(make_server_image).await
}

/// The saboteur's image, made the first time that a test asks for it.
pub(crate) async fn saboteur_image() -> Image {
    static MADE: OnceCell<Image> = OnceCell::const_new();
    *MADE.get_or_init(make_saboteur_image).await
}

/// The top of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The `hitless` binary, built the first time that a test asks for it.
pub(crate) async fn hitless_binary() -> &'static Path {
    static BINARY: OnceCell<PathBuf> = OnceCell::const_new();
    BINARY.get_or_init(|| cargo_build("hitless", &["--release", "-p", "hitless", "--bin", "hitless"])).await
}

async fn make_server_image() -> Image {
    let made = Command::new(hitless_binary().await)
        .arg("image")
        .current_dir(workspace())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert!(made.status.success(), "`hitless image` failed: {}", String::from_utf8_lossy(&made.stderr));
    // The name that compose.yaml knows too.
    Image { name: "hitless-server", tag: "latest" }
}

/// The saboteur's static binary, built the first time that a test asks for it.
pub(crate) async fn saboteur_binary() -> &'static Path {
    static BINARY: OnceCell<PathBuf> = OnceCell::const_new();
    let target = static_target();
    let package =
        ["-p", "hitless-testbed", "--bin", "saboteur", "--no-default-features", "--features", "saboteur"];
    let arguments = [&["--profile", "image", "--target", &target], &package[..]].concat();
    BINARY.get_or_init(|| cargo_build("saboteur", &arguments)).await
}

async fn make_saboteur_image() -> Image {
    let image = Image { name: "hitless-tests-saboteur", tag: "latest" };
    let binary = saboteur_binary().await;
    let dockerfile = "FROM scratch\n\
        COPY saboteur /saboteur\n\
        USER 65532:65532\n\
        ENTRYPOINT [\"/saboteur\"]\n";
    let built = GenericBuildableImage::new(image.name, image.tag)
        .with_dockerfile_string(dockerfile)
        .with_file(binary, "saboteur")
        .build_image()
        .await;
    assert!(built.is_ok(), "cannot build {}: {:?}", image.reference(), built.err());
    image
}

/// The host's target triple with glibc, for which cargo can link statically.
fn static_target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Builds one binary and returns where cargo says that it put it.
async fn cargo_build(binary: &str, arguments: &[&str]) -> PathBuf {
    // Set by `cargo test`; it is the cargo that the rest of the build was done with.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command
        .args(["build", "--locked", "--quiet", "--message-format=json-render-diagnostics"])
        .args(arguments)
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if arguments.contains(&"--target") {
        // With `--target`, these reach the binary and its dependencies, but no build script and no proc macro.
        command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    }
    let built = command.output().await.unwrap();
    assert!(built.status.success(), "cargo could not build `{binary}`");
    let messages = String::from_utf8(built.stdout).unwrap();
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == binary)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .unwrap()
}
