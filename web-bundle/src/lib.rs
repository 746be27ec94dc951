//! The browser's node as bytes: what `cargo xtask web` has built before this crate was compiled.
//!
//! A checkout has no bundle, so a program without one is a program all the same: it says by name what is missing
//! ([`MISSING`]).
#![forbid(unsafe_code)]

/// A file of the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name below `/web/`.
    pub name: &'static str,
    /// Its media type.
    pub kind: &'static str,
    /// Its bytes, compressed by gzip.
    pub gzip: &'static [u8],
}

/// All of them; none if the bundle was not built.
pub const FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// What to say where there is no bundle.
pub const MISSING: &str = "this syn1 was built without the browser's node: run `cargo xtask web`, and build it again";

/// The file of this name.
pub fn file(name: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_whole_or_not_there() {
        assert!(FILES.is_empty() || FILES.len() == 4);
        assert!(FILES.iter().all(|file| file.gzip.starts_with(&[0x1f, 0x8b])));
        assert_eq!(file("syn1.js").is_some(), !FILES.is_empty());
        assert_eq!(file("../Cargo.toml"), None);
    }
}
