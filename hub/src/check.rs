//! What a whole file is checked against: a SHA-256, a git id, or only its length.

use std::io::Read;

use sha2::Digest as _;
use syn1_model::Digest;

use crate::limits::CHUNK_BYTES;

/// What is promised of a file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Their SHA-256: large files, which the hub keeps outside of git.
    Sha256(Digest),
    /// Their git id, the SHA-1 of `blob LENGTH\0` and the bytes: small files. 40 lowercase hexadecimal digits.
    Git(String),
    /// Nothing: a plain web server or folder.
    Length,
}

/// A check under way.
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
    Git(sha1::Sha1),
    Length,
}

impl Check {
    /// The hash as text, which is the file's name among a cache's blobs.
    pub(crate) fn name(&self) -> Option<String> {
        match self {
            Self::Sha256(digest) => Some(digest.to_string()),
            Self::Git(id) => Some(id.clone()),
            Self::Length => None,
        }
    }

    /// What the hash is called.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::Git(_) => "git id",
            Self::Length => "length",
        }
    }

    /// Begins the check of `bytes` bytes.
    pub(crate) fn hasher(&self, bytes: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(sha2::Sha256::new()),
            Self::Git(_) => Hasher::Git(sha1::Sha1::new().chain_update(format!("blob {bytes}\0"))),
            Self::Length => Hasher::Length,
        }
    }

    /// Whether all that `source` gives has the promised hash.
    pub(crate) fn holds(&self, bytes: u64, source: &mut impl Read) -> std::io::Result<bool> {
        let mut hasher = self.hasher(bytes);
        hasher.read(source)?;
        Ok(hasher.finish() == self.name())
    }
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
            Self::Length => {}
        }
    }

    /// Takes in all that `source` gives.
    pub(crate) fn read(&mut self, source: &mut impl Read) -> std::io::Result<()> {
        if matches!(self, Self::Length) {
            return Ok(());
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match source.read(&mut chunk)? {
                0 => return Ok(()),
                n => self.update(&chunk[..n]),
            }
        }
    }

    /// The hash as text, comparable to [`Check::name`].
    pub(crate) fn finish(self) -> Option<String> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hasher) => Some(hex(&hasher.finalize())),
            Self::Git(hasher) => Some(hex(&hasher.finalize())),
            Self::Length => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_that_git_and_sha256sum_print() {
        // printf hello | git hash-object --stdin
        let git = Check::Git("b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0".into());
        assert!(git.holds(5, &mut &b"hello"[..]).unwrap());
        assert!(!git.holds(5, &mut &b"hellO"[..]).unwrap());
        let sha256 = Check::Sha256(Digest::of(b"hello"));
        assert!(sha256.holds(5, &mut &b"hello"[..]).unwrap());
        assert!(!sha256.holds(4, &mut &b"hell"[..]).unwrap());
        assert!(Check::Length.holds(4, &mut &b"hell"[..]).unwrap());
    }
}
