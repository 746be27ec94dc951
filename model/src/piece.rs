//! The bytes of a piece, in memory and aligned for the kernels.

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
    /// Those of `fill`.
    pub fn try_with<E>(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut lines = vec![<Line as bytemuck::Zeroable>::zeroed(); len.div_ceil(64)];
        fill(&mut bytemuck::cast_slice_mut(&mut lines)[..len])?;
        Ok(Self { lines: Arc::new(lines), len })
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let filled = Self::try_with(bytes.len(), |out| {
            out.copy_from_slice(bytes);
            Ok::<(), std::convert::Infallible>(())
        });
        match filled {
            Ok(piece) => piece,
        }
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
