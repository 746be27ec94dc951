//! Where weights go as they come: into WebAssembly's memory for the CPU, past it for a GPU.

use syn1_kernels::engine::EngineError;
use syn1_kernels::gpu::{GpuOptions, Upload};
use syn1_model::{Piece, PieceBytes, Plan};

use crate::device::Open;

/// Takes the pieces of a plan in.
pub(crate) struct Taker(Taking);

/// Where they are.
pub(crate) enum Taking {
    /// In this order.
    Memory(Plan, Vec<PieceBytes>),
    /// On the device, which goes last.
    Gpu(Open, Upload, GpuOptions),
}

impl Taker {
    pub(crate) fn in_memory(plan: Plan) -> Self {
        Self(Taking::Memory(plan, Vec::new()))
    }

    /// # Errors
    /// When the GPU has no room, or fails.
    pub(crate) async fn on_gpu(open: Open, plan: Plan, options: GpuOptions) -> Result<Self, EngineError> {
        let upload = Upload::new(open.gpu(), plan)?;
        upload.settled().await?;
        Ok(Self(Taking::Gpu(open, upload, options)))
    }

    /// The GPU's, which takes pieces in parts; nothing where they are to be whole.
    pub(crate) fn in_parts(&mut self) -> Option<&mut Upload> {
        match &mut self.0 {
            Taking::Memory(..) => None,
            Taking::Gpu(_, upload, _) => Some(upload),
        }
    }

    /// The next piece of the plan, whole.
    ///
    /// # Errors
    /// Those of the GPU.
    pub(crate) async fn whole(&mut self, piece: Piece, bytes: PieceBytes) -> Result<(), EngineError> {
        match &mut self.0 {
            Taking::Memory(_, pieces) => pieces.push(bytes),
            Taking::Gpu(_, upload, _) => {
                upload.begin(piece)?;
                for part in bytes.as_slice().chunks(STAGE) {
                    upload.put(part)?;
                    upload.settled().await?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn end(self) -> Taking {
        self.0
    }
}

/// Bytes of weights that are in this tab's memory at a time, on their way to a GPU.
pub(crate) const STAGE: usize = 8 << 20;
