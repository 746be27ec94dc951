//! The bytes of a piece, in memory and aligned for the kernels.

use std::collections::TryReserveError;
use std::sync::Arc;

/// The bytes of one packed piece: shared, immutable, and aligned to 64 bytes (a cache line, and an AVX-512 register).
#[derive(Clone)]
pub struct PieceBytes {
    lines: Arc<Vec<Line>>,
    len: usize,
}

/// One cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl PieceBytes {
    /// `len` bytes, filled by `fill` (which gets them zeroed).
    ///
    /// # Errors
    /// That there is no memory, and those of `fill`.
    pub fn try_with<E: From<TryReserveError>>(
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut lines = Vec::new();
        lines.try_reserve_exact(len.div_ceil(64))?;
        lines.resize(len.div_ceil(64), <Line as bytemuck::Zeroable>::zeroed());
        fill(&mut bytemuck::cast_slice_mut(&mut lines)[..len])?;
        Ok(Self { lines: Arc::new(lines), len })
    }

    /// As [`PieceBytes::try_with`], for what cannot fail but for want of memory, which ends the program.
    pub(crate) fn with(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut lines = vec![<Line as bytemuck::Zeroable>::zeroed(); len.div_ceil(64)];
        fill(&mut bytemuck::cast_slice_mut(&mut lines)[..len]);
        Self { lines: Arc::new(lines), len }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self::with(bytes.len(), |out| out.copy_from_slice(bytes))
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(self.lines.as_slice())[..self.len]
    }
}

impl std::fmt::Debug for PieceBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PieceBytes({} bytes)", self.len)
    }
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
