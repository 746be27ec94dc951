//! Memory for kernels: zeros that begin at a cache line.

use bytemuck::{Pod, Zeroable};

/// Memory from a cache line's begin on, so that no register's load straddles two lines.
#[derive(Default)]
pub(super) struct Lines {
    lines: Vec<Line>,
    bytes: usize,
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Lines {
    /// `len` zeros of type `T`; `None` when there is no room. The memory is written, so what the system only promises is
    /// found out now and not in the middle of a token.
    pub(super) fn zeroed<T: Pod>(len: usize) -> Option<Self> {
        let bytes = len.checked_mul(size_of::<T>())?;
        let count = bytes.div_ceil(64);
        let mut lines = Vec::new();
        lines.try_reserve_exact(count).ok()?;
        lines.resize(count, Line::zeroed());
        Some(Self { lines, bytes })
    }

    /// The elements.
    pub(super) fn of<T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice(&bytemuck::cast_slice::<Line, u8>(&self.lines)[..self.bytes])
    }

    /// The elements, to be written.
    pub(super) fn of_mut<T: Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut bytemuck::cast_slice_mut::<Line, u8>(&mut self.lines)[..self.bytes])
    }
}
