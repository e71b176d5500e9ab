//! The directory of a group: who may write to it, and the lock that is held while a place in it is taken.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::time::{Instant, sleep};

/// The lock's name in the directory.
const LOCK: &str = "lock";

/// How long the lock is tried. A replica holds it for a few system calls.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two tries: no event tells that flock(2) would succeed.
const PAUSE: Duration = Duration::from_millis(10);

/// Takes the directory's lock, which lasts as long as the file is open.
///
/// # Errors
///
/// [`PermissionDenied`](io::ErrorKind::PermissionDenied) if other users can write to the directory,
/// [`WouldBlock`](io::ErrorKind::WouldBlock) if another process kept the lock for two seconds.
pub(super) async fn lock(directory: &Path) -> io::Result<File> {
    check(directory)?;
    let file = open(&directory.join(LOCK))?;
    let begin = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begin.elapsed() < PATIENCE => sleep(PAUSE).await,
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    format!("another process holds {}", directory.join(LOCK).display()),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Whoever can write to the directory can replace the sockets and the lock in it, and its owner can allow that to
/// anybody. The sticky bit does not help: it keeps nobody from being the first.
fn check(directory: &Path) -> io::Result<()> {
    let found = fs::metadata(directory)?;
    let denied = |why: String| {
        let line = format!("{} {why}; use a directory of the service's user, mode 0700", directory.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, line))
    };
    if !found.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::NotADirectory,
            format!("{} is not a directory", directory.display()),
        ));
    }
    let owner = found.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return denied(format!("belongs to user {owner}"));
    }
    if found.mode() & 0o022 != 0 {
        return denied(format!("can be written by other users (mode {:04o})", found.mode() & 0o7777));
    }
    Ok(())
}

/// Opens the lock file, and leaves whatever is in it. A file that others can open, as earlier releases left it, is
/// closed to them: flock(2) needs no more than a descriptor.
fn open(path: &Path) -> io::Result<File> {
    // NONBLOCK: opening a FIFO must not wait for its other end (fifo(7)).
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(i32::try_from(flags).unwrap_or_default())
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other(format!("{} is not a regular file", path.display())));
    }
    if found.mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn the_lock_is_open_to_its_user_only_even_if_an_earlier_release_made_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(LOCK);
        drop(lock(directory.path()).await.unwrap());
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        drop(lock(directory.path()).await.unwrap());
        assert_eq!(mode(&path), 0o600);
    }

    #[tokio::test]
    async fn a_symlink_named_lock_is_refused_and_its_target_keeps_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("data");
        fs::write(&target, "precious").unwrap();
        symlink(&target, directory.path().join(LOCK)).unwrap();
        assert!(lock(directory.path()).await.is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_lock_file_with_content_is_not_truncated() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(LOCK);
        fs::write(&path, "precious").unwrap();
        lock(directory.path()).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn something_else_than_a_file_named_lock_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(LOCK)).unwrap();
        assert!(lock(directory.path()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_another_process_keeps_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let _kept = lock(directory.path()).await.unwrap();
        let error = lock(directory.path()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn a_directory_that_others_can_write_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for bits in [0o777, 0o1777, 0o770, 0o702] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(bits)).unwrap();
            let error = lock(directory.path()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{bits:o}");
            assert!(!directory.path().join(LOCK).exists());
        }
        for bits in [0o700, 0o755] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(bits)).unwrap();
            lock(directory.path()).await.unwrap();
        }
    }
}
