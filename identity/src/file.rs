//! A key in a file, and random bytes.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::Keys;

/// Why a key could not be read or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// A file operation failed.
    #[error("cannot {what} the key file {path}: {source}", path = path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path} has {bytes} bytes and is no key file, which has 32: name another file", path = path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The operating system gives no random numbers.
    #[error("the operating system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

impl Keys {
    /// Keys that nobody had before.
    ///
    /// # Errors
    /// The operating system gives no random numbers.
    pub fn generate() -> Result<Self, KeyFileError> {
        nonce().map(|secret| Self::from_secret(&secret))
    }

    /// The keys whose secret the file at `path` holds; if there is none, new ones that are written there for the next time,
    /// readable for the file's owner only. Several processes may call this at once: they get the same keys.
    ///
    /// # Errors
    /// The file can't be read or written, or holds something else.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
        let secret = keep(path, || nonce().map(|secret| secret.to_vec()))?;
        Self::from_file(path, &secret)
    }

    fn from_file(path: &Path, bytes: &[u8]) -> Result<Self, KeyFileError> {
        let secret = bytes.try_into().map_err(|_| KeyFileError::Length { path: path.into(), bytes: bytes.len() })?;
        Ok(Self::from_secret(secret))
    }
}

/// What the private file at `path` holds; if there is none, what `make` gives, which is written there for the next time,
/// readable for the file's owner only. Several processes may call this at once: they get the same bytes.
///
/// # Errors
/// The file can't be read or written, or `make` fails.
pub fn keep<E: From<KeyFileError>>(path: &Path, make: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Vec<u8>, E> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(create(path, make()?)?),
        read => Ok(read.map_err(failed("read", path))?),
    }
}

/// Writes a private file anew, readable for its owner only: whoever reads it meanwhile sees the old bytes or the new ones.
///
/// # Errors
/// The file can't be written.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), KeyFileError> {
    let draft = draft(path, bytes)?;
    fs::rename(&draft, path).map_err(failed("write", path))
}

fn create(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>, KeyFileError> {
    let draft = draft(path, &bytes)?;
    // A link fails where another process was first, and the file is never seen half written.
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft).map_err(failed("remove the draft of", &draft))?;
    let written = match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // A file system without links: the next best is to be the one who creates the file.
            write_private(path, &bytes)
        }
        linked => linked,
    };
    match written {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::read(path).map_err(failed("read", path)),
        Err(error) => Err(failed("write", path)(error)),
    }
}

/// Writes `bytes` beside `path`, under a name that nobody else has.
fn draft(path: &Path, bytes: &[u8]) -> Result<PathBuf, KeyFileError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed("make the folder of", path))?;
    let (name, tag) = (path.file_name().unwrap_or_default().to_string_lossy(), nonce()?);
    let draft = folder.join(format!(".{name}.{:016x}", u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| tag[i]))));
    write_private(&draft, bytes).map_err(failed("write", &draft))?;
    Ok(draft)
}

/// 32 bytes that nobody can foresee, for one Hello.
///
/// # Errors
/// The operating system gives no random numbers.
pub fn nonce() -> Result<[u8; 32], KeyFileError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(KeyFileError::Random)?;
    Ok(bytes)
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyFileError {
    let path = path.to_owned();
    move |source| KeyFileError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/node.key");
        let made = Keys::load_or_create(&path).unwrap();
        assert_eq!(Keys::load_or_create(&path).unwrap().public(), made.public());
        assert_ne!(Keys::load_or_create(&folder.path().join("other.key")).unwrap().public(), made.public());
        assert_eq!(fs::read_dir(folder.path().join("deep")).unwrap().count(), 1, "no draft is left behind");
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        Keys::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn threads_that_start_at_once_get_the_same_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        let keys = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| Keys::load_or_create(&path).unwrap().public())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    }

    #[cfg(unix)]
    #[test]
    fn a_replaced_file_has_the_new_bytes_and_stays_its_owners() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leaf");
        assert_eq!(keep(&path, || Ok::<_, KeyFileError>(b"old".to_vec())).unwrap(), b"old");
        replace(&path, b"new").unwrap();
        assert_eq!(keep::<KeyFileError>(&path, || panic!("it is there")).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left behind");
    }

    #[test]
    fn another_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        fs::write(&path, "not a key").unwrap();
        let error = Keys::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("node.key has 9 bytes"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"not a key");
    }
}
