//! Reading a small file whole, and no more of it than it may have.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// The bytes of a file of at most `max_bytes`, whatever its length is said to be.
///
/// # Errors
/// What the system says; [`ErrorKind::FileTooLarge`] for a longer file, of which the rest is not read.
pub(crate) fn read_bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        let text = format!("it has more than {max_bytes} bytes, which no such file has");
        return Err(Error::new(ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_refused_beyond() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), b"12345").expect("write");
        assert_eq!(read_bounded(file.path(), 5).expect("read"), b"12345");
        let error = read_bounded(file.path(), 4).expect_err("too long");
        assert!(error.kind() == ErrorKind::FileTooLarge && error.to_string().contains("more than 4 bytes"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_without_an_end_is_refused() {
        assert!(read_bounded(Path::new("/dev/zero"), 1000).is_err());
    }
}
