//! Memory-mapped files: the one place of this crate with unsafe code.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a whole file for reading. Empty files cannot be mapped; callers check the length before.
///
/// While the map lives, the file must not be shortened (a read beyond its new end ends the process, by the system's
/// rules) nor rewritten (reads may see old and new bytes). Model folders are not written to while they are read, and
/// what is made from them carries a SHA-256.
///
/// # Errors
/// What the system says.
#[allow(unsafe_code)]
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only and only ever read as bytes, of which every value is valid. It is shared with the file:
    // that nobody shortens or rewrites it while it is open here is the stated condition of opening a model folder.
    unsafe { Mmap::map(file) }
}

/// Tells the system that a part of the map need not stay in memory. Where that cannot be said, it decides by itself.
#[allow(unsafe_code)]
pub(crate) fn release(map: &Mmap, offset: usize, len: usize) {
    #[cfg(unix)]
    {
        // SAFETY: the map is read-only and shared with a file, so dropped pages come back from the file with the same bytes.
        // A refusal changes nothing but how much memory is in use.
        let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len) };
    }
    #[cfg(not(unix))]
    let _ = (map, offset, len);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_reads_what_the_file_holds() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let bytes: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(file.path(), &bytes).expect("write");
        let map = map(&File::open(file.path()).expect("open")).expect("map");
        assert_eq!(&map[..], bytes);
        release(&map, 100, 9_000);
        assert_eq!(&map[..], bytes);
    }
}
