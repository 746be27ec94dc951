//! The weights on the device: a buffer per piece.

use std::collections::HashMap;

use syn1_model::piece::PieceBytes;
use syn1_model::plan::{GROUPED_ROW_ALIGN, Matrix, Piece, Plan, TENSOR_ALIGN, Tensor, piece_bytes};
use wgpu::{Buffer, BufferUsages};

use super::device::GpuDevice;
use super::memory::{View, buffer};
use crate::engine::{EngineError, check_pieces};

/// The pieces of a plan, uploaded.
pub(super) struct Weights {
    /// All pieces in two buffers.
    pub(super) arena: Option<Arena>,
    /// Where each piece is: a buffer of its own, or a part of the arena.
    places: HashMap<Piece, (Buffer, u64)>,
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
    pub(super) fn upload(
        device: &GpuDevice,
        plan: &Plan,
        pieces: &[PieceBytes],
        in_one: bool,
    ) -> Result<Self, EngineError> {
        check_pieces(plan, pieces)?;
        let weights = Self::room(device, plan, in_one)?;
        for (&piece, bytes) in plan.pieces.iter().zip(pieces) {
            weights.write(device, piece, 0, bytes.as_slice())?;
        }
        #[cfg(not(target_family = "wasm"))]
        device.wait(None)?;
        Ok(weights)
    }

    /// Room for the pieces of `plan`, filled with zeros.
    ///
    /// # Errors
    /// [`EngineError::Memory`] when the device has none, [`EngineError::Unsupported`] for a piece that no buffer can hold.
    pub(super) fn room(device: &GpuDevice, plan: &Plan, in_one: bool) -> Result<Self, EngineError> {
        let mut places = HashMap::new();
        let mut arena = if in_one { Some(Arena::new(device, plan)?) } else { None };
        for &piece in &plan.pieces {
            let size = piece_bytes(&plan.spec, plan.format, piece);
            if size > device.limits.max_buffer_size {
                let limit = device.limits.max_buffer_size;
                return Err(device.unsupported(format!("piece {piece} has {size} bytes, a buffer at most {limit}")));
            }
            let place = device.guarded("weights", size, || match &mut arena {
                Some(arena) => arena.place(piece, size),
                None => (buffer(device, &piece.to_string(), size, USAGE), 0),
            })?;
            places.insert(piece, place);
        }
        Ok(Self { places, arena })
    }

    /// Puts `bytes` into `piece` from its byte `from` on; both are multiples of 4, and it ends within the piece.
    ///
    /// # Errors
    /// [`EngineError::Memory`] when there is no room to stage them, [`EngineError::Device`] when the device is gone.
    pub(super) fn write(&self, device: &GpuDevice, piece: Piece, from: u64, bytes: &[u8]) -> Result<(), EngineError> {
        let (buffer, base) = self.place(piece);
        device.guarded("weights", bytes.len() as u64, || {
            let mut offset = base + from;
            for part in bytes.chunks(UPLOAD) {
                device.queue.write_buffer(buffer, offset, part);
                offset += part.len() as u64;
                // Hands the staging memory of this part back before the next one is staged.
                device.queue.submit([]);
                let _ = device.device.poll(wgpu::PollType::Poll);
            }
        })
    }

    /// The buffer of a piece, and where it begins. It must be one of the plan's.
    pub(super) fn place(&self, piece: Piece) -> (&Buffer, u64) {
        let (buffer, base) = &self.places[&piece];
        (buffer, *base)
    }

    /// The bytes of `tensor`. Its piece must be one of the plan's.
    pub(super) fn view(&self, tensor: Tensor) -> View {
        let (buffer, base) = self.place(tensor.piece);
        View::new(buffer, base + tensor.offset, tensor.bytes)
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
                let (buffer, base) = self.place(matrix.data.piece);
                let offset = base + matrix.data.offset + row_base as u64 * row_bytes;
                let view = View::new(buffer, offset, rows as u64 * row_bytes);
                Window { view, row_base, rows }
            })
            .collect()
    }
}

/// All pieces in two buffers, for a kernel that reads them all.
pub(super) struct Arena {
    /// The blocks, in order.
    pub(super) blocks: Buffer,
    /// Embedding, positions and head.
    pub(super) tables: Buffer,
    /// Bytes of the two that have a piece.
    used: [u64; 2],
}

impl Arena {
    /// Bytes of the two.
    pub(super) fn bytes(plan: &Plan) -> [u64; 2] {
        let mut bytes = [0; 2];
        for &piece in &plan.pieces {
            bytes[Self::index(piece)] += aligned(piece_bytes(&plan.spec, plan.format, piece));
        }
        bytes
    }

    fn new(device: &GpuDevice, plan: &Plan) -> Result<Self, EngineError> {
        let [blocks, tables] = Self::bytes(plan);
        device.guarded("weights", blocks + tables, || Self {
            blocks: buffer(device, "blocks", blocks, USAGE),
            tables: buffer(device, "tables", tables.max(TENSOR_ALIGN), USAGE),
            used: [0; 2],
        })
    }

    /// Room for the next piece, of `bytes` bytes.
    fn place(&mut self, piece: Piece, bytes: u64) -> (Buffer, u64) {
        let index = Self::index(piece);
        let base = self.used[index];
        self.used[index] += aligned(bytes);
        ([&self.blocks, &self.tables][index].clone(), base)
    }

    /// 0: a block's; 1: a table's.
    fn index(piece: Piece) -> usize {
        usize::from(!matches!(piece, Piece::Block(_)))
    }
}

fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(TENSOR_ALIGN)
}

/// What a buffer of weights is for.
const USAGE: BufferUsages = BufferUsages::STORAGE.union(BufferUsages::COPY_DST);

/// Bytes uploaded at a time.
const UPLOAD: usize = 32 << 20;

/// Windows begin at multiples of this many rows: rows are multiples of 16 bytes, storage offsets of 256.
const WINDOW_ROWS: usize = TENSOR_ALIGN as usize / GROUPED_ROW_ALIGN;
