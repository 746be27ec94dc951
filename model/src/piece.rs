//! The bytes of a piece, in memory and aligned for the kernels.

use std::alloc::Layout;
use std::collections::TryReserveError;
use std::sync::Arc;

use crate::lines::Lines;

/// The bytes of one packed piece: shared, immutable, and aligned to 64 bytes (a cache line, and an AVX-512 register).
#[derive(Clone)]
pub struct PieceBytes {
    lines: Arc<Lines>,
}

impl PieceBytes {
    /// `len` bytes, filled by `fill` (which gets them zeroed).
    ///
    /// # Errors
    /// That there is no memory, and those of `fill`.
    pub fn try_with<E: From<TryReserveError>>(
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut lines = Lines::of_bytes(len)?;
        fill(lines.of_mut())?;
        Ok(Self { lines: Arc::new(lines) })
    }

    /// As [`PieceBytes::try_with`], for what cannot fail but for want of memory, which ends the program.
    pub(crate) fn with(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut lines = Lines::zeroed::<u8>(len).unwrap_or_else(|| out_of_memory(len));
        fill(lines.of_mut());
        Self { lines: Arc::new(lines) }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self::with(bytes.len(), |out| out.copy_from_slice(bytes))
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.lines.of()
    }
}

impl std::fmt::Debug for PieceBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PieceBytes({} bytes)", self.as_slice().len())
    }
}

/// Ends the program, as the allocator's own answer to a want of memory does.
fn out_of_memory(bytes: usize) -> ! {
    std::alloc::handle_alloc_error(Layout::array::<u8>(bytes).unwrap_or(Layout::new::<u8>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_no_memory_can_hold_is_an_error_and_is_not_filled() {
        let piece = PieceBytes::try_with(isize::MAX as usize, |_| Err(std::io::Error::other("it was filled")));
        assert_eq!(piece.expect_err("no room").kind(), std::io::ErrorKind::OutOfMemory);
    }
}
