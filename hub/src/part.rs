//! A file on its way: `NAME.incomplete`, as Python's tools call it, which survives a cut.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::check::{Check, Hasher};
use crate::error::{HubError, failed};

/// Where fetched bytes go.
pub(crate) trait Sink {
    /// Bytes so far.
    fn len(&self) -> u64;
    /// Appends bytes.
    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError>;
    /// Throws away what is beyond the first `len` bytes.
    fn cut(&mut self, len: u64) -> Result<(), HubError>;
}

/// A file that is being written; holds the lock on it, where there are locks.
pub(crate) struct Part {
    file: File,
    path: PathBuf,
    len: u64,
    size: u64,
    check: Check,
    hasher: Hasher,
}

impl Part {
    /// Opens the part of `target`, a file of `size` bytes, with what an earlier attempt left.
    pub(crate) fn open(target: &Path, size: u64, check: &Check) -> Result<Self, HubError> {
        let mut path = target.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = opened.map_err(failed("open", &path))?;
        // File systems without locks, which say so in several ways, have none to hold.
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(HubError::Busy { path });
        }
        let len = file.metadata().map_err(failed("measure", &path))?.len();
        let mut part = Self { file, path, len, size, check: check.clone(), hasher: check.hasher(size) };
        if len > size {
            part.cut(0)?;
        }
        part.hasher.read(&mut part.file).map_err(failed("read", &part.path))?;
        part.file.seek(SeekFrom::End(0)).map_err(failed("read", &part.path))?;
        Ok(part)
    }

    /// Whether the part begins with these bytes.
    pub(crate) fn begins_with(&mut self, bytes: &[u8]) -> Result<bool, HubError> {
        let mut found = Vec::new();
        self.file.rewind().map_err(failed("read", &self.path))?;
        (&self.file).take(bytes.len() as u64).read_to_end(&mut found).map_err(failed("read", &self.path))?;
        self.file.seek(SeekFrom::End(0)).map_err(failed("read", &self.path))?;
        Ok(found == bytes)
    }

    /// The promised hash and the actual one, where they differ.
    pub(crate) fn mismatch(&mut self) -> Option<(String, String)> {
        let hasher = std::mem::replace(&mut self.hasher, Check::Length.hasher(0));
        let (want, got) = (self.check.name()?, hasher.finish()?);
        (want != got).then_some((want, got))
    }

    /// Moves the whole file into place.
    pub(crate) fn finish(self, target: &Path) -> Result<(), HubError> {
        self.file.sync_all().map_err(failed("write", &self.path))?;
        fs::rename(&self.path, target).map_err(failed("rename", &self.path))
    }

    /// Deletes it.
    pub(crate) fn remove(self) -> Result<(), HubError> {
        fs::remove_file(&self.path).map_err(failed("delete", &self.path))
    }
}

impl Sink for Part {
    fn len(&self) -> u64 {
        self.len
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(failed("write", &self.path))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn cut(&mut self, len: u64) -> Result<(), HubError> {
        let cut = self.file.set_len(len).and_then(|()| self.file.seek(SeekFrom::Start(len)));
        cut.map_err(failed("cut", &self.path))?;
        // Hashed files are only ever cut to nothing.
        self.hasher = self.check.hasher(self.size);
        self.len = len;
        Ok(())
    }
}

impl Sink for Vec<u8> {
    fn len(&self) -> u64 {
        self.len() as u64
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn cut(&mut self, len: u64) -> Result<(), HubError> {
        self.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_survives_its_writer_with_its_hash_and_is_locked_while_written() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("config.json");
        let check = Check::Git("b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0".into());
        let mut part = Part::open(&target, 5, &check).unwrap();
        part.append(b"hel").unwrap();
        assert!(matches!(Part::open(&target, 5, &check), Err(HubError::Busy { .. })));
        drop(part);
        let mut part = Part::open(&target, 5, &check).unwrap();
        assert!(part.begins_with(b"hel").unwrap() && !part.begins_with(b"help").unwrap());
        part.append(b"lo").unwrap();
        assert_eq!(part.mismatch(), None);
        part.finish(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"hello");
    }

    #[test]
    fn a_part_longer_than_its_file_begins_again_and_a_wrong_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        fs::write(dir.path().join("x.incomplete"), b"too long").unwrap();
        let check = Check::Git("b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0".into());
        let mut part = Part::open(&target, 5, &check).unwrap();
        assert_eq!(Sink::len(&part), 0);
        part.append(b"hellO").unwrap();
        assert!(part.mismatch().is_some());
        part.cut(0).unwrap();
        part.append(b"hello").unwrap();
        assert_eq!(part.mismatch(), None);
    }
}
