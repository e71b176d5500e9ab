//! Where the program of a replica that is a process comes from: our server's binary beside this executable or built from
//! the checkout, or what the scenario says. Starts no replica.

use std::path::{Path, PathBuf};

use crate::artifacts::checkout::{Artifact, Checkout, CheckoutError};

/// There is no program to run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Our server's binary is nowhere.
    #[error(
        "no `{}` in {}, and {source}; put it there, or name a program with --command",
        Artifact::SERVER.binary,
        beside.display()
    )]
    NoServer {
        /// Where it was looked for first.
        beside: PathBuf,
        /// Why it cannot be built.
        source: CheckoutError,
    },
    /// Our server's binary cannot be built from the checkout that is here.
    #[error(transparent)]
    Build(#[from] CheckoutError),
}

/// Where our server's binary is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It is here.
    File(PathBuf),
    /// cargo builds it here, or says that it is up to date.
    Build(Checkout),
}

/// The path of our server's binary, which is built if it has to be.
///
/// # Errors
/// It is neither here nor can it be built.
pub async fn server() -> Result<PathBuf, ProgramError> {
    Ok(match find()? {
        Source::File(path) => path,
        Source::Build(checkout) => checkout.build_binary(&Artifact::SERVER).await?,
    })
}

/// Looks for our server's binary; builds nothing.
///
/// # Errors
/// It is nowhere, and there is no checkout to build it from.
pub fn find() -> Result<Source, ProgramError> {
    let executable = std::env::current_exe().unwrap_or_default();
    found(executable.parent().unwrap_or(Path::new("/")), Checkout::find())
}

/// Beside this executable, but not in the checkout's target directory: what lies there may be older than its source.
fn found(beside: &Path, checkout: Result<Checkout, CheckoutError>) -> Result<Source, ProgramError> {
    let file = beside.join(Artifact::SERVER.binary);
    match checkout {
        Ok(checkout) if is_within(beside, &checkout.target_dir()) => Ok(Source::Build(checkout)),
        _ if file.is_file() => Ok(Source::File(file)),
        Ok(checkout) => Ok(Source::Build(checkout)),
        Err(source) => Err(ProgramError::NoServer { beside: beside.to_owned(), source }),
    }
}

fn is_within(path: &Path, directory: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(path).starts_with(real(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkout(root: &Path) -> Checkout {
        Checkout::at(root).unwrap()
    }

    fn none() -> Result<Checkout, CheckoutError> {
        Err(CheckoutError::None("/home/somebody".into()))
    }

    #[test]
    fn binary_beside_this_one_comes_before_the_checkout_unless_it_may_be_older_than_its_source() {
        let root = tempfile::tempdir().unwrap();
        let installed = root.path().join("bin");
        let source = root.path().join("source");
        for name in ["server/Cargo.toml", "docker/Dockerfile"] {
            let path = source.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::fs::create_dir(&installed).unwrap();
        let from_source = || checkout(&source);

        assert_eq!(found(&installed, Ok(from_source())).unwrap(), Source::Build(from_source()), "not there");
        std::fs::write(installed.join("hitless-server"), "").unwrap();
        let file = Source::File(installed.join("hitless-server"));
        assert_eq!(found(&installed, Ok(from_source())).unwrap(), file);
        assert_eq!(found(&installed, none()).unwrap(), file);
        let built = from_source().target_dir().join("release");
        assert_eq!(found(&built, Ok(from_source())).unwrap(), Source::Build(from_source()));
    }

    #[test]
    fn server_that_is_nowhere_is_one_line_with_what_to_do() {
        let error = found(Path::new("/opt/hitless"), none()).unwrap_err().to_string();
        for told in ["`hitless-server` in /opt/hitless", "around /home/somebody", "--command"] {
            assert!(error.contains(told) && !error.contains('\n'), "{error}");
        }
    }
}
