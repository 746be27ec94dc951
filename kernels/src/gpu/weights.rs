//! The weights on the device: a buffer per piece.

use std::collections::HashMap;

use syn1_model::piece::PieceBytes;
use syn1_model::plan::{GROUPED_ROW_ALIGN, Matrix, Piece, Plan, TENSOR_ALIGN, Tensor};
use wgpu::{Buffer, BufferUsages};

use super::device::GpuDevice;
use super::memory::{View, buffer};
use crate::engine::{EngineError, check_pieces};

/// The pieces of a plan, uploaded.
pub(super) struct Weights {
    buffers: HashMap<Piece, Buffer>,
}

/// A part of a matrix that one binding can hold.
pub(super) struct Window {
    /// The rows' bytes.
    pub(super) view: View,
    /// The first row.
    pub(super) row_base: usize,
    /// How many rows.
    pub(super) rows: usize,
}

impl Weights {
    /// Uploads `pieces`, which are in the order of `plan.pieces`.
    ///
    /// # Errors
    /// [`EngineError::Piece`] for a piece that is missing, superfluous or of another length than the plan says;
    /// [`EngineError::Memory`] when the device has no room.
    pub(super) fn upload(device: &GpuDevice, plan: &Plan, pieces: &[PieceBytes]) -> Result<Self, EngineError> {
        check_pieces(plan, pieces)?;
        let mut buffers = HashMap::new();
        for (&piece, bytes) in plan.pieces.iter().zip(pieces) {
            let bytes = bytes.as_slice();
            let size = bytes.len() as u64;
            if size > device.limits.max_buffer_size {
                let limit = device.limits.max_buffer_size;
                return Err(device.unsupported(format!("piece {piece} has {size} bytes, a buffer at most {limit}")));
            }
            let made = device.guarded("weights", size, || {
                let made = buffer(device, &piece.to_string(), size, BufferUsages::STORAGE | BufferUsages::COPY_DST);
                let mut offset = 0;
                for part in bytes.chunks(UPLOAD) {
                    device.queue.write_buffer(&made, offset, part);
                    offset += part.len() as u64;
                    // Hands the staging memory of this part back before the next one is staged.
                    device.queue.submit([]);
                    let _ = device.device.poll(wgpu::PollType::Poll);
                }
                made
            })?;
            buffers.insert(piece, made);
        }
        device.wait(None)?;
        Ok(Self { buffers })
    }

    /// The bytes of `tensor`. Its piece must be one of the plan's.
    pub(super) fn view(&self, tensor: Tensor) -> View {
        View::new(&self.buffers[&tensor.piece], tensor.offset, tensor.bytes)
    }

    /// `matrix` in windows of at most `window_bytes` bytes.
    pub(super) fn windows(&self, matrix: &Matrix, window_bytes: u64) -> Vec<Window> {
        let row_bytes = matrix.row_bytes() as u64;
        let fits = usize::try_from(window_bytes / row_bytes).unwrap_or(usize::MAX);
        let per_window = (fits / WINDOW_ROWS).max(1) * WINDOW_ROWS;
        (0..matrix.rows)
            .step_by(per_window)
            .map(|row_base| {
                let rows = per_window.min(matrix.rows - row_base);
                let offset = matrix.data.offset + row_base as u64 * row_bytes;
                let view = View::new(&self.buffers[&matrix.data.piece], offset, rows as u64 * row_bytes);
                Window { view, row_base, rows }
            })
            .collect()
    }
}

/// Bytes uploaded at a time.
const UPLOAD: usize = 32 << 20;

/// Windows begin at multiples of this many rows: rows are multiples of 16 bytes, storage offsets of 256.
const WINDOW_ROWS: usize = TENSOR_ALIGN as usize / GROUPED_ROW_ALIGN;
