//! The project's images: builds a static binary with the host's cargo and puts it into an image without pulling
//! anything. The server's image is the last stage of `docker/Dockerfile`, so that both ways make the same one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sha2::{Digest, Sha256};

use crate::runtime::RuntimeError;
use crate::runtime::docker::engine::{Engine, SOURCE_LABEL, hex};

/// Something that is built from the checkout into an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Artifact {
    package: &'static str,
    binary: &'static str,
    /// Where its Dockerfile stands; its last stage makes the image.
    dockerfile: &'static str,
    /// What the image depends on, beside the workspace's own files.
    sources: [&'static str; 2],
}

impl Artifact {
    /// The server.
    pub const SERVER: Self = Self {
        package: "hitless-server",
        binary: "hitless-server",
        dockerfile: "docker/Dockerfile",
        sources: ["server/Cargo.toml", "server/src"],
    };
    /// The servers that misbehave on purpose.
    pub const SABOTEUR: Self = Self {
        package: "hitless-tests",
        binary: "saboteur",
        dockerfile: "docker/saboteur.Dockerfile",
        sources: ["tests/Cargo.toml", "tests/src"],
    };
}

/// The checkout that the images are built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout(PathBuf);

/// The image cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no source here.
    #[error("no checkout of hitless around {}: `hitless image` needs the server's source; run it there", .0.display())]
    NoCheckout(PathBuf),
    /// A file of the checkout cannot be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The Dockerfile has no last stage as expected.
    #[error("{}: {reason}", path.display())]
    Dockerfile {
        /// Which.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// cargo failed; it has said why.
    #[error("failed to build a binary: `{command}` {reason}")]
    Cargo {
        /// What was called.
        command: String,
        /// How it ended.
        reason: String,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] RuntimeError),
}

/// Whether an image had to be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Built {
    /// It was there, from this very source.
    UpToDate,
    /// It was built now.
    Now,
    /// It is there, and there is no source here to compare it with.
    AsFound,
}

impl Checkout {
    /// The checkout around the current directory, or the one that `cargo run` runs in.
    ///
    /// # Errors
    /// There is none.
    pub fn find() -> Result<Self, ImageError> {
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        let cargo = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let is_root = |path: &&Path| {
            path.join("server/Cargo.toml").is_file() && path.join("docker/Dockerfile").is_file()
        };
        let around = [Some(here.as_path()), cargo.as_deref()].into_iter().flatten().flat_map(Path::ancestors);
        let root = around.into_iter().find(is_root).map(Path::to_owned);
        root.map(Self).ok_or(ImageError::NoCheckout(here))
    }

    /// The SHA-256 of everything that the image depends on.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn fingerprint(&self, artifact: &Artifact) -> Result<String, ImageError> {
        let mut files: Vec<PathBuf> =
            ["Cargo.toml", "Cargo.lock", artifact.dockerfile].map(|name| self.0.join(name)).into();
        for source in artifact.sources.map(|name| self.0.join(name)) {
            if source.is_dir() {
                collect(&source, &mut files)?;
            } else {
                files.push(source);
            }
        }
        files.sort();
        let mut digest = Sha256::new();
        for path in files {
            let content = read(&path)?;
            let name = path.strip_prefix(&self.0).unwrap_or(&path).display().to_string();
            digest.update((name.len() as u64).to_be_bytes());
            digest.update(name);
            digest.update((content.len() as u64).to_be_bytes());
            digest.update(content);
        }
        Ok(hex(&digest.finalize()))
    }

    /// Builds the static binary; cargo's progress goes to stderr.
    async fn build_binary(&self, artifact: &Artifact) -> Result<Vec<u8>, ImageError> {
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let flags_name = format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"));
        let arguments = [
            "build",
            "--locked",
            "--profile",
            "image",
            "-p",
            artifact.package,
            "--bin",
            artifact.binary,
            "--target",
            &target,
        ];
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let failed =
            |reason: String| ImageError::Cargo { command: format!("cargo {}", arguments.join(" ")), reason };
        let status = tokio::process::Command::new(&cargo)
            .args(arguments)
            .current_dir(&self.0)
            // Static linking of glibc needs the flag and an explicit target: without one it would reach proc macros.
            .env(flags_name, "-C target-feature=+crt-static")
            .env("CARGO_TARGET_DIR", self.target_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await
            .map_err(|error| failed(format!("could not be run: {error}; install Rust from rustup.rs")))?;
        if !status.success() {
            return Err(failed(format!("ended with {status}")));
        }
        read(&self.target_dir().join(&target).join("image").join(artifact.binary))
    }

    fn target_dir(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.0.join("target"), |dir| self.0.join(dir))
    }

    /// The Dockerfile of the image: the last stage of the one for people, with the binary beside it instead of in an
    /// earlier stage.
    ///
    /// # Errors
    /// The file cannot be read or has no such stage.
    pub fn dockerfile(&self, artifact: &Artifact) -> Result<(String, String), ImageError> {
        let path = self.0.join(artifact.dockerfile);
        let text = String::from_utf8_lossy(&read(&path)?).into_owned();
        last_stage(&text).map_err(|reason| ImageError::Dockerfile { path, reason })
    }
}

/// The last stage, and the name under which it expects the binary.
fn last_stage(text: &str) -> Result<(String, String), &'static str> {
    let start = text.rfind("\nFROM scratch").ok_or("it has no stage `FROM scratch`")? + 1;
    let mut binary = None;
    let lines: Vec<String> = text[start..]
        .lines()
        .map(|line| {
            let Some(rest) = line.strip_prefix("COPY --from=build ") else { return line.to_owned() };
            let (source, target) = rest.trim().split_once(' ').unwrap_or((rest, "/"));
            let name = source.rsplit('/').next().unwrap_or(source).to_owned();
            let copied = format!("COPY {name} {}", target.trim());
            binary = Some(name);
            copied
        })
        .collect();
    let binary = binary.ok_or("its last stage copies nothing from stage `build`")?;
    Ok((lines.join("\n") + "\n", binary))
}

/// Builds the image from the checkout, whether it is there or not.
///
/// # Errors
/// No checkout, no cargo, no engine, or one of them fails.
pub async fn build(
    engine: &Engine,
    checkout: &Checkout,
    artifact: &Artifact,
    tag: &str,
) -> Result<(), ImageError> {
    let (dockerfile, name) = checkout.dockerfile(artifact)?;
    let fingerprint = checkout.fingerprint(artifact)?;
    let binary = checkout.build_binary(artifact).await?;
    let context = context(&[("Dockerfile", dockerfile.as_bytes(), 0o644), (&name, &binary, 0o755)]);
    let labels = HashMap::from([(SOURCE_LABEL.to_owned(), fingerprint)]);
    let before = engine.image_id(tag).await?;
    engine.build_image(tag, &labels, context).await?;
    let after = engine.image_id(tag).await?;
    if let Some(before) = before.filter(|id| Some(id) != after.as_ref()) {
        // It has lost its name to the new one; while a container uses it, it stays.
        engine.remove_image(&before).await;
    }
    Ok(())
}

/// Makes sure that the image is there and was built from this checkout's source.
///
/// # Errors
/// It is missing and cannot be built, or it is older than its source and cannot be built.
pub async fn ensure(engine: &Engine, artifact: &Artifact, tag: &str) -> Result<Built, ImageError> {
    let labels = engine.image_labels(tag).await?;
    let checkout = match (Checkout::find(), &labels) {
        (Ok(checkout), _) => checkout,
        (Err(_), Some(_)) => return Ok(Built::AsFound),
        (Err(error), None) => return Err(error),
    };
    let fingerprint = checkout.fingerprint(artifact)?;
    if labels.is_some_and(|labels| labels.get(SOURCE_LABEL) == Some(&fingerprint)) {
        return Ok(Built::UpToDate);
    }
    build(engine, &checkout, artifact, tag).await?;
    Ok(Built::Now)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), ImageError> {
    let failed = |source| ImageError::Read { path: directory.to_owned(), source };
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    std::fs::read(path).map_err(|source| ImageError::Read { path: path.to_owned(), source })
}

/// A build context: a tar of some files.
fn context(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_cksum();
        archive.append_data(&mut header, name, *content).expect("writing to memory does not fail");
    }
    archive.into_inner().expect("writing to memory does not fail")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_stage_takes_the_binary_from_beside_it() {
        let text = "FROM rust AS build\nRUN cargo build\n\nFROM scratch\nCOPY --from=build /out/thing /thing\nUSER 1\n";
        let (stage, binary) = last_stage(text).unwrap();
        assert_eq!(stage, "FROM scratch\nCOPY thing /thing\nUSER 1\n");
        assert_eq!(binary, "thing");
        assert!(last_stage("FROM rust\n").is_err());
        assert!(last_stage("x\nFROM scratch\nUSER 1\n").is_err());
    }

    #[test]
    fn fingerprint_follows_the_source() {
        let root = tempfile::tempdir().unwrap();
        for name in
            ["Cargo.toml", "Cargo.lock", "server/Cargo.toml", "server/src/main.rs", "docker/Dockerfile"]
        {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let checkout = Checkout(root.path().to_owned());
        let before = checkout.fingerprint(&Artifact::SERVER).unwrap();
        assert_eq!(before, checkout.fingerprint(&Artifact::SERVER).unwrap());
        std::fs::write(root.path().join("server/src/main.rs"), "changed").unwrap();
        assert_ne!(before, checkout.fingerprint(&Artifact::SERVER).unwrap());
    }
}
