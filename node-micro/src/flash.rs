//! The coordinator's files in a node's own flash, for nodes that no HTTP server can be reached from.
//!
//! A store is what [`find`] reads: for each file its name's length (a byte) and its own (four bytes, little endian), its name
//! and its bytes; then a zero. The names are those that a node asks for: `manifest.json`, and a piece's SHA-256 in hex
//! digits.
//!
//! ```
//! let mut store = Vec::new();
//! for (name, bytes) in [("manifest.json", &b"{}"[..]), ("00ff", b"abc")] {
//!     store.extend(syn1_node_micro::flash::head(name, bytes.len()).unwrap());
//!     store.extend(name.as_bytes());
//!     store.extend(bytes);
//! }
//! store.push(0);
//! assert_eq!(syn1_node_micro::flash::find(&store, "00ff"), Some(&b"abc"[..]));
//! assert_eq!(syn1_node_micro::flash::find(&store, "else"), None);
//! ```

/// What precedes a file's name and bytes; none for a name of no or more than 255 bytes, or a file beyond 4 GiB.
#[must_use]
pub fn head(name: &str, bytes: usize) -> Option<[u8; 5]> {
    let name = u8::try_from(name.len()).ok().filter(|len| *len > 0)?;
    let [a, b, c, d] = u32::try_from(bytes).ok()?.to_le_bytes();
    Some([name, a, b, c, d])
}

/// The file of this name in a store; whatever the bytes are, nothing beyond them is read.
#[must_use]
pub fn find<'s>(store: &'s [u8], name: &str) -> Option<&'s [u8]> {
    let mut rest = store;
    loop {
        let ([name_len, len @ ..], behind) = rest.split_first_chunk::<5>()?;
        if *name_len == 0 {
            return None;
        }
        let (found, behind) = behind.split_at_checked(usize::from(*name_len))?;
        let (bytes, behind) = behind.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
        if found == name.as_bytes() {
            return Some(bytes);
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flash_without_a_store_has_no_files() {
        for empty in [&[0u8; 64][..], &[0xff; 64], &[], &[5, 0, 0, 0, 0, b'a']] {
            assert_eq!(find(empty, "manifest.json"), None);
        }
    }
}
