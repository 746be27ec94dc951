//! The head that stores logits, with room for as many rows as somebody wanted so far.

use wgpu::{Buffer, BufferUsages, ComputePass};

use super::device::GpuDevice;
use super::gemv::{GemvShape, Product};
use super::launch::{Binds, Extent, Launch};
use super::memory::{Uniforms, View, bind, buffer};
use crate::engine::EngineError;

/// What [`Logits`] are made from.
pub(super) struct Head {
    /// The product; its `views` hold everything but weights, constants and logits.
    pub(super) product: Product,
    /// Logits of a row.
    pub(super) vocab: usize,
    /// vec4s from one token row of the residual stream to the next.
    pub(super) x_stride: u32,
    /// Bytes of a binding at most.
    pub(super) window_bytes: u64,
    /// Where constants go.
    pub(super) uniforms: Uniforms,
}

/// The head with room for some logits.
pub(super) struct Logits {
    /// `rows` rows of `stride` values.
    pub(super) buffer: Buffer,
    /// Values from one row to the next.
    pub(super) stride: usize,
    /// Token rows it has room for.
    pub(super) rows: usize,
    parts: Vec<Part>,
}

/// The dispatch of one window of the matrix for one window of the logits.
struct Part {
    base: usize,
    room: usize,
    launch: Launch,
}

impl Head {
    /// Room for the logits of `rows` token rows.
    ///
    /// # Errors
    /// [`EngineError::Memory`].
    pub(super) fn logits(&mut self, device: &GpuDevice, rows: usize) -> Result<Logits, EngineError> {
        let stride = self.vocab.next_multiple_of(ROW);
        let row_bytes = 4 * stride as u64;
        let bytes = rows as u64 * row_bytes;
        if bytes > device.limits.max_buffer_size {
            return Err(EngineError::Memory { device: device.name().to_owned(), what: "logits", bytes });
        }
        device.guarded("logits", bytes, || {
            let made = buffer(device, "logits", bytes, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
            let room = room_of(self.window_bytes, row_bytes);
            let mut parts = Vec::new();
            for base in (0..rows).step_by(room) {
                let room = room.min(rows - base);
                let y = View::new(&made, base as u64 * row_bytes, room as u64 * row_bytes);
                self.parts(device, &y, base, room, &mut parts);
            }
            Logits { buffer: made, stride, rows, parts }
        })
    }

    fn parts(&mut self, device: &GpuDevice, y: &View, base: usize, room: usize, parts: &mut Vec<Part>) {
        let y_stride = (self.vocab.next_multiple_of(ROW) / 4) as u32;
        let token_limit = room as u32;
        for window in &self.product.windows {
            let x_stride = self.x_stride;
            let token_base = base as u32;
            let shape = GemvShape { token_base, token_limit, x_stride, y_stride, from_wanted: 1, ..window.shape };
            let mut views = self.product.views.clone();
            views.extend([(0, window.weights.clone()), (4, self.uniforms.slot(&shape)), (6, y.clone())]);
            let launch = window.launch(&self.product, Binds::Shared(bind(device, &self.product.one, &views)));
            parts.push(Part { base, room, launch });
        }
    }
}

impl Logits {
    /// Records the head for the last `wanted` token rows of a step.
    pub(super) fn record(&self, pass: &mut ComputePass<'_>, wanted: usize) {
        for part in &self.parts {
            if wanted > part.base {
                let tokens = (wanted - part.base).min(part.room);
                part.launch.record(pass, &[], Extent::new(0, tokens));
            }
        }
    }
}

/// Token rows of a window: whole tiles where it holds any, so that no tile is computed for two windows.
fn room_of(window_bytes: u64, row_bytes: u64) -> usize {
    let rows = usize::try_from(window_bytes / row_bytes).unwrap_or(usize::MAX).max(1);
    if rows < TILE { rows } else { rows / TILE * TILE }
}

/// Token rows per tile of gemv.wgsl, for several rows.
const TILE: usize = 8;

/// Rows of logits are padded to this many values, so that each can begin a binding.
const ROW: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_logits_has_whole_tiles_or_less_than_one() {
        for (window_bytes, rows) in [(0, 1), (99, 1), (700, 7), (899, 8), (1500, 8), (1600, 16)] {
            assert_eq!(room_of(window_bytes, 100), rows);
        }
    }
}
