//! The project's images: a static binary of the checkout, put into an image without pulling anything. The server's image
//! is the last stage of `docker/Dockerfile`, so that both ways make the same one.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::artifacts::checkout::{Artifact, Checkout, CheckoutError, read};
use crate::host::engine::{Engine, EngineError, SOURCE_LABEL};

/// The image cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no checkout, or its binary cannot be built.
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    /// The Dockerfile has no last stage as expected.
    #[error("{}: {reason}", path.display())]
    Dockerfile {
        /// Which.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
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

/// The Dockerfile of an artifact's image, and the name under which it expects the binary: the last stage of the one for
/// people, with the binary beside it instead of in an earlier stage.
///
/// # Errors
/// The file cannot be read or has no such stage.
pub fn dockerfile(checkout: &Checkout, artifact: &Artifact) -> Result<(String, String), ImageError> {
    let path = checkout.path(artifact.dockerfile);
    let text = String::from_utf8_lossy(&read(&path)?).into_owned();
    last_stage(&text).map_err(|reason| ImageError::Dockerfile { path, reason })
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
    let (dockerfile, name) = dockerfile(checkout, artifact)?;
    let sha256 = checkout.sha256(artifact)?;
    let binary = read(&checkout.build_binary(artifact).await?)?;
    let context = context(&[("Dockerfile", dockerfile.as_bytes(), 0o644), (&name, &binary, 0o755)]);
    let labels = HashMap::from([(SOURCE_LABEL.to_owned(), sha256)]);
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
        (Err(error), None) => return Err(error.into()),
    };
    let sha256 = checkout.sha256(artifact)?;
    if labels.is_some_and(|labels| labels.get(SOURCE_LABEL) == Some(&sha256)) {
        return Ok(Built::UpToDate);
    }
    build(engine, &checkout, artifact, tag).await?;
    Ok(Built::Now)
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
}
