//! Pieces on disk, named by their SHA-256: what a node has, it never fetches again.
//!
//! `<dir>/pieces/<sha256>.bin` is a verified piece; `<sha256>.part` is one on its way. A part is locked while a node
//! writes it, so several nodes of one machine fetch a piece once, and it survives a cut, so that the next attempt goes on
//! where the last one ended. A piece is renamed into place only after its hash was checked, and checked again on every
//! load: disks do flip bits. Where the file system has no locks, two nodes may write one part: the same bytes to the same
//! places, and what goes wrong is found by the hash.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use syn1_model::{Digest, PieceBytes};

/// A directory of pieces with a size cap.
#[derive(Clone, Debug)]
pub struct Cache {
    pieces: PathBuf,
    cap_bytes: u64,
}

/// What the cache knows about a piece.
#[derive(Debug)]
pub enum Lookup {
    /// It is there and its hash is right.
    Hit(PieceBytes),
    /// It was there, its bytes no longer had the hash, and it is deleted.
    Corrupt,
    /// It is not there.
    Miss,
}

/// A piece that is being written; holds the lock on its file, where there are locks.
#[derive(Debug)]
pub struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
    len: u64,
}

/// Why the cache could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// No environment variable says where a cache may lie.
    #[error("no place for the shard cache: set SYN1_CACHE to a folder that may be written")]
    NoHome,
    /// A file operation failed.
    #[error("shard cache: cannot {what} {path}: {source}; SYN1_CACHE sets another folder", path = path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Cache {
    /// Bytes a cache may take if nobody says otherwise: several models of the size that laptops run.
    pub const DEFAULT_CAP_BYTES: u64 = 64 << 30;

    /// `$SYN1_CACHE`, else `$XDG_CACHE_HOME/syn1`, else `~/.cache/syn1` (`%LOCALAPPDATA%\syn1` on Windows).
    ///
    /// # Errors
    /// [`CacheError::NoHome`] where none of them is set.
    pub fn default_dir() -> Result<PathBuf, CacheError> {
        default_dir(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
    }

    /// Opens the cache in `dir`, which is created if it is not there.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(dir: &Path, cap_bytes: u64) -> Result<Self, CacheError> {
        let pieces = dir.join("pieces");
        fs::create_dir_all(&pieces).map_err(failed("create", &pieces))?;
        Ok(Self { pieces, cap_bytes })
    }

    /// Reads a piece of `bytes` bytes, verifies it and marks it as used.
    ///
    /// # Errors
    /// When the file is there but cannot be read, or cannot be deleted after its hash was wrong.
    pub fn load(&self, sha256: Digest, bytes: u64) -> Result<Lookup, CacheError> {
        let path = self.path(sha256, "bin");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Lookup::Miss),
            Err(err) => return Err(failed("open", &path)(err)),
        };
        let len = file.metadata().map_err(failed("read", &path))?.len();
        if len == bytes {
            let (piece, actual) = read_hashed(&file, bytes).map_err(failed("read", &path))?;
            if actual == sha256 {
                // The time of the last use is what eviction goes by; a read-only cache still serves.
                let _ = file.set_modified(SystemTime::now());
                return Ok(Lookup::Hit(piece));
            }
        }
        drop(file);
        fs::remove_file(&path).map_err(failed("delete the corrupt", &path))?;
        Ok(Lookup::Corrupt)
    }

    /// Takes the lock on a piece's part; nothing while another node of this machine holds it.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn part(&self, sha256: Digest) -> Result<Option<Part>, CacheError> {
        let path = self.path(sha256, "part");
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = opened.map_err(failed("open", &path))?;
        if is_taken(file.try_lock()) {
            return Ok(None);
        }
        let len = file.seek(SeekFrom::End(0)).map_err(failed("measure", &path))?;
        Ok(Some(Part { file, path, target: self.path(sha256, "bin"), len }))
    }

    /// Deletes the pieces that were not used for longest until the cap holds. Pieces named in `keep` stay, and parts
    /// that cannot be locked: another node may be writing them.
    ///
    /// # Errors
    /// When the folder cannot be listed. A file that another node deletes at the same time is no error.
    pub fn evict(&self, keep: &[Digest]) -> Result<(), CacheError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.pieces).map_err(failed("list", &self.pieces))? {
            let entry = entry.map_err(failed("list", &self.pieces))?;
            let Ok(meta) = entry.metadata() else { continue };
            files.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), entry.path()));
        }
        let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
        files.sort();
        for (_, len, path) in files {
            if total <= self.cap_bytes {
                break;
            }
            let named = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let kept = named.is_some_and(|digest| keep.contains(&digest));
            let is_part = path.extension().is_some_and(|extension| extension == "part");
            // The lock is held until the file is gone.
            let lock = if is_part {
                File::options().write(true).open(&path).ok().filter(|file| file.try_lock().is_ok())
            } else {
                None
            };
            if !kept && is_part == lock.is_some() && fs::remove_file(&path).is_ok() {
                total -= len;
            }
        }
        Ok(())
    }

    fn path(&self, sha256: Digest, extension: &str) -> PathBuf {
        self.pieces.join(format!("{sha256}.{extension}"))
    }
}

impl Part {
    /// Bytes written so far, those of an earlier attempt included.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// When the disk is full or gone.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        self.file.write_all(bytes).map_err(failed("write", &self.path))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Begins again from nothing.
    ///
    /// # Errors
    /// When the file cannot be cut.
    pub fn reset(&mut self) -> Result<(), CacheError> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(failed("cut", &self.path))?;
        self.len = 0;
        Ok(())
    }

    /// Verifies the bytes and moves them into the cache; the actual hash where it is wrong (the part is then empty).
    ///
    /// # Errors
    /// When a file operation fails.
    pub fn finish(&mut self, sha256: Digest) -> Result<Result<PieceBytes, Digest>, CacheError> {
        let io = |what| failed(what, &self.path);
        self.file.rewind().map_err(io("read"))?;
        let (piece, actual) = read_hashed(&self.file, self.len).map_err(io("read"))?;
        if actual != sha256 {
            self.reset()?;
            return Ok(Err(actual));
        }
        self.file.sync_all().map_err(io("write"))?;
        match fs::rename(&self.path, &self.target) {
            // Without locks another node may have moved it already: the bytes at hand are the right ones all the same.
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(io("rename")(err)),
            _ => Ok(Ok(piece)),
        }
    }
}

fn read_hashed(mut file: &File, bytes: u64) -> io::Result<(PieceBytes, Digest)> {
    let len = usize::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let piece = PieceBytes::try_with(len, |out| file.read_exact(out))?;
    let actual = Digest::of(piece.as_slice());
    Ok((piece, actual))
}

/// Whether another node holds a lock. File systems without locks, which say so in several ways, have none to hold.
fn is_taken(lock: Result<(), TryLockError>) -> bool {
    matches!(lock, Err(TryLockError::WouldBlock))
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError::Io { what, path: path.clone(), source }
}

fn default_dir(var: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, CacheError> {
    var("SYN1_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("syn1")))
        .or_else(|| var("LOCALAPPDATA").map(|dir| dir.join("syn1")))
        .or_else(|| var("HOME").map(|dir| dir.join(".cache").join("syn1")))
        .ok_or(CacheError::NoHome)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cache(cap_bytes: u64) -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), cap_bytes).unwrap();
        (dir, cache)
    }

    fn store(cache: &Cache, bytes: &[u8]) -> Digest {
        let sha256 = Digest::of(bytes);
        let mut part = cache.part(sha256).unwrap().unwrap();
        part.append(bytes).unwrap();
        part.finish(sha256).unwrap().unwrap();
        sha256
    }

    #[test]
    fn a_stored_piece_comes_back_bit_for_bit() {
        let (_dir, cache) = cache(u64::MAX);
        let sha256 = store(&cache, b"weights");
        let Lookup::Hit(piece) = cache.load(sha256, 7).unwrap() else { panic!("not there") };
        assert_eq!(piece.as_slice(), b"weights");
    }

    #[test]
    fn one_flipped_bit_is_noticed_and_the_file_is_deleted() {
        let (dir, cache) = cache(u64::MAX);
        let sha256 = store(&cache, b"weights");
        let path = dir.path().join("pieces").join(format!("{sha256}.bin"));
        let mut bytes = fs::read(&path).unwrap();
        bytes[3] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(matches!(cache.load(sha256, 7).unwrap(), Lookup::Corrupt));
        assert!(!path.exists());
        assert!(matches!(cache.load(sha256, 7).unwrap(), Lookup::Miss));
    }

    #[test]
    fn a_part_survives_its_writer_and_is_locked_while_written() {
        let (_dir, cache) = cache(u64::MAX);
        let sha256 = Digest::of(b"weights");
        let mut part = cache.part(sha256).unwrap().unwrap();
        part.append(b"weig").unwrap();
        assert!(cache.part(sha256).unwrap().is_none());
        drop(part);
        let mut part = cache.part(sha256).unwrap().unwrap();
        assert_eq!(part.len(), 4);
        part.append(b"hts").unwrap();
        assert_eq!(part.finish(sha256).unwrap().unwrap().as_slice(), b"weights");
    }

    #[test]
    fn a_wrong_hash_is_named_and_never_becomes_a_piece() {
        let (_dir, cache) = cache(u64::MAX);
        let sha256 = Digest::of(b"weights");
        let mut part = cache.part(sha256).unwrap().unwrap();
        part.append(b"poison!").unwrap();
        assert_eq!(part.finish(sha256).unwrap().unwrap_err(), Digest::of(b"poison!"));
        assert!(part.is_empty());
        assert!(matches!(cache.load(sha256, 7).unwrap(), Lookup::Miss));
    }

    #[test]
    fn eviction_takes_the_least_recently_used_and_spares_what_is_kept() {
        let (dir, cache) = cache(10);
        let names: Vec<Digest> = [b"aaaaa", b"bbbbb", b"ccccc", b"ddddd"].iter().map(|b| store(&cache, *b)).collect();
        for (age, name) in names.iter().enumerate() {
            let file = File::options().write(true).open(dir.path().join("pieces").join(format!("{name}.bin"))).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(age as u64)).unwrap();
        }
        assert!(matches!(cache.load(names[1], 5).unwrap(), Lookup::Hit(_)), "a use makes it young");
        cache.evict(&[names[0]]).unwrap();
        let left: Vec<bool> =
            names.iter().map(|name| matches!(cache.load(*name, 5).unwrap(), Lookup::Hit(_))).collect();
        assert_eq!(left, [true, true, false, false]);
    }

    #[test]
    fn eviction_leaves_a_part_that_is_being_written_and_takes_one_that_is_not() {
        let (dir, cache) = cache(0);
        let sha256 = Digest::of(b"weights");
        let path = dir.path().join("pieces").join(format!("{sha256}.part"));
        let mut part = cache.part(sha256).unwrap().unwrap();
        part.append(b"weig").unwrap();
        cache.evict(&[]).unwrap();
        assert!(path.exists());
        drop(part);
        cache.evict(&[]).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_system_without_locks_has_no_lock_that_is_taken() {
        assert!(is_taken(Err(TryLockError::WouldBlock)));
        assert!(!is_taken(Err(TryLockError::Error(io::ErrorKind::Unsupported.into()))));
        assert!(!is_taken(Ok(())));
    }

    #[test]
    fn a_part_that_another_node_has_moved_into_place_is_no_error() {
        let (dir, cache) = cache(u64::MAX);
        let sha256 = Digest::of(b"weights");
        let mut part = cache.part(sha256).unwrap().unwrap();
        part.append(b"weights").unwrap();
        let file = |extension: &str| dir.path().join("pieces").join(format!("{sha256}.{extension}"));
        fs::rename(file("part"), file("bin")).unwrap();
        assert_eq!(part.finish(sha256).unwrap().unwrap().as_slice(), b"weights");
        assert!(matches!(cache.load(sha256, 7).unwrap(), Lookup::Hit(_)));
    }

    #[test]
    fn the_environment_decides_where_the_cache_lies() {
        let vars = |set: &'static [(&'static str, &'static str)]| {
            default_dir(move |name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)))
        };
        const ALL: &[(&str, &str)] = &[("SYN1_CACHE", "c"), ("XDG_CACHE_HOME", "x"), ("HOME", "h")];
        assert_eq!(vars(ALL).unwrap(), PathBuf::from("c"));
        assert_eq!(vars(&ALL[1..]).unwrap(), Path::new("x").join("syn1"));
        assert_eq!(vars(&ALL[2..]).unwrap(), Path::new("h").join(".cache").join("syn1"));
        assert!(matches!(vars(&[]), Err(CacheError::NoHome)));
    }
}
