//! The board's settings: text in the last page of its flash.

use crate::map::SETTINGS;

/// Bytes that are read of the page.
pub const SETTINGS_BYTES: usize = 256;

/// The settings: lines such as `join=192.168.1.5:7700`, up to the first byte that is no text (erased flash has none).
#[must_use]
pub fn settings() -> &'static str {
    // SAFETY: the page is memory of the board that no part of the program lies in (memory.x ends below) and nothing writes.
    let page: &[u8] =
        unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(SETTINGS), SETTINGS_BYTES) };
    let end = page.iter().position(|byte| !matches!(byte, b'\n' | b' '..=b'~')).unwrap_or(SETTINGS_BYTES);
    core::str::from_utf8(page.get(..end).unwrap_or_default()).unwrap_or_default()
}
