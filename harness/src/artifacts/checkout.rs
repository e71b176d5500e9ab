//! The checkout of this project, and what the host's cargo builds from it: static binaries, for images and for processes.
//! Asks no engine.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::model::sha256::Sha256;

/// Something that is built from the checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Artifact {
    package: &'static str,
    /// What of the package is built; nothing else is, so that it builds in seconds.
    feature: &'static str,
    /// The file's name.
    pub(crate) binary: &'static str,
    /// Where its Dockerfile stands; its last stage makes the image.
    pub(crate) dockerfile: &'static str,
    /// What the image depends on, beside the workspace's own files.
    sources: &'static [&'static str],
}

impl Artifact {
    /// The server.
    pub const SERVER: Self = Self {
        package: "hitless-testbed",
        feature: "server",
        binary: "hitless-server",
        dockerfile: "docker/Dockerfile",
        sources: &["server/Cargo.toml", "server/src", "server/testbed/Cargo.toml", "server/testbed/src"],
    };
    /// The servers that misbehave on purpose.
    pub const SABOTEUR: Self = Self {
        package: "hitless-testbed",
        feature: "saboteur",
        binary: "saboteur",
        dockerfile: "docker/saboteur.Dockerfile",
        sources: &["server/testbed/Cargo.toml", "server/testbed/src"],
    };
}

/// A checkout of this project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout(PathBuf);

/// Nothing can be built from the checkout.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// There is no source here.
    #[error("no checkout of hitless around {} to build the server from; run it in one", .0.display())]
    None(PathBuf),
    /// A file of the checkout cannot be read.
    #[error("failed to read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// cargo failed; it has said why.
    #[error("failed to build a binary: `{command}` {reason}")]
    Cargo {
        /// What was called.
        command: String,
        /// How it ended.
        reason: String,
    },
}

impl Checkout {
    /// The checkout around the current directory, or the one that `cargo run` runs in.
    ///
    /// # Errors
    /// There is none.
    pub fn find() -> Result<Self, CheckoutError> {
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        let cargo = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let around = [Some(here.as_path()), cargo.as_deref()].into_iter().flatten();
        let found = around.flat_map(Path::ancestors).find_map(Self::at);
        found.ok_or(CheckoutError::None(here))
    }

    /// The checkout whose top this directory is, if it is one.
    pub(crate) fn at(top: &Path) -> Option<Self> {
        let is_top = top.join("server/Cargo.toml").is_file() && top.join("docker/Dockerfile").is_file();
        is_top.then(|| Self(top.to_owned()))
    }

    /// The SHA-256 of everything that the image depends on.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn sha256(&self, artifact: &Artifact) -> Result<String, CheckoutError> {
        let mut files: Vec<PathBuf> =
            ["Cargo.toml", "Cargo.lock", artifact.dockerfile].map(|name| self.0.join(name)).into();
        for source in artifact.sources.iter().map(|name| self.0.join(name)) {
            if source.is_dir() {
                collect(&source, &mut files)?;
            } else {
                files.push(source);
            }
        }
        files.sort();
        let mut sha256 = Sha256::default();
        for path in files {
            let content = read(&path)?;
            let name = path.strip_prefix(&self.0).unwrap_or(&path).display().to_string();
            sha256.feed(&(name.len() as u64).to_be_bytes());
            sha256.feed(name.as_bytes());
            sha256.feed(&(content.len() as u64).to_be_bytes());
            sha256.feed(&content);
        }
        Ok(sha256.finish())
    }

    /// Builds the static binary, if it is not there from this very source, and says where it is. cargo's progress goes
    /// to stderr.
    ///
    /// # Errors
    /// There is no cargo, or it fails.
    pub async fn build_binary(&self, artifact: &Artifact) -> Result<PathBuf, CheckoutError> {
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
            "--no-default-features",
            "--features",
            artifact.feature,
            "--target",
            &target,
        ];
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let failed = |reason: String| CheckoutError::Cargo {
            command: format!("cargo {}", arguments.join(" ")),
            reason,
        };
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
        Ok(self.target_dir().join(&target).join("image").join(artifact.binary))
    }

    /// A file of the checkout.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Where cargo puts what it builds.
    pub(crate) fn target_dir(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.0.join("target"), |dir| self.0.join(dir))
    }
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), CheckoutError> {
    let failed = |source| CheckoutError::Read { path: directory.to_owned(), source };
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

/// Reads a file of the checkout, or one that was built from it.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, CheckoutError> {
    std::fs::read(path).map_err(|source| CheckoutError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_follows_the_source() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "Cargo.toml",
            "Cargo.lock",
            "server/Cargo.toml",
            "server/src/lib.rs",
            "server/testbed/Cargo.toml",
            "server/testbed/src/lib.rs",
            "docker/Dockerfile",
        ] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let checkout = Checkout(root.path().to_owned());
        let before = checkout.sha256(&Artifact::SERVER).unwrap();
        assert_eq!(before, checkout.sha256(&Artifact::SERVER).unwrap());
        for changed in ["server/src/lib.rs", "server/testbed/src/lib.rs"] {
            std::fs::write(root.path().join(changed), "changed").unwrap();
            assert_ne!(before, checkout.sha256(&Artifact::SERVER).unwrap());
            std::fs::write(root.path().join(changed), changed).unwrap();
        }
    }
}
