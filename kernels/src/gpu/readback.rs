//! Bringing a result back: a buffer that the CPU can map.

use std::sync::{Arc, OnceLock};

use wgpu::{Buffer, BufferUsages, CommandEncoder, MapMode, SubmissionIndex};

use super::device::GpuDevice;
use super::memory::buffer;
use crate::engine::EngineError;

/// A mappable buffer.
pub(super) struct Readback {
    buffer: Buffer,
}

/// A map that was asked for.
pub(super) struct Pending {
    bytes: u64,
    submission: SubmissionIndex,
    result: Arc<OnceLock<Result<(), wgpu::BufferAsyncError>>>,
}

impl Readback {
    /// Room for `bytes` bytes. To be called inside [`GpuDevice::guarded`].
    pub(super) fn new(device: &GpuDevice, bytes: u64) -> Self {
        Self { buffer: buffer(device, "readback", bytes, BufferUsages::MAP_READ | BufferUsages::COPY_DST) }
    }

    /// Records a copy of the first `bytes` bytes of `source`.
    pub(super) fn copy(&self, encoder: &mut CommandEncoder, source: &Buffer, bytes: u64) {
        encoder.copy_buffer_to_buffer(source, 0, &self.buffer, 0, bytes);
    }

    /// Asks for the first `bytes` bytes behind `submission`.
    pub(super) fn start(&self, bytes: u64, submission: SubmissionIndex) -> Pending {
        let result = Arc::new(OnceLock::new());
        let answer = result.clone();
        self.buffer.map_async(MapMode::Read, 0..bytes, move |mapped| {
            // The callback runs once, so the cell is empty.
            let _ = answer.set(mapped);
        });
        Pending { bytes, submission, result }
    }

    /// Waits for `pending` and lends the bytes to `use_bytes`.
    pub(super) async fn finish(
        &self,
        device: &GpuDevice,
        pending: Pending,
        use_bytes: impl FnOnce(&[u8]),
    ) -> Result<(), EngineError> {
        device.wait(Some(pending.submission))?;
        match pending.result.get() {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(device.failed(error.to_string())),
            None => return Err(device.failed("the result was not mapped behind its submission".into())),
        }
        let mapped = self.buffer.get_mapped_range(0..pending.bytes);
        let read = mapped.map(|view| use_bytes(&view)).map_err(|error| device.failed(error.to_string()));
        self.buffer.unmap();
        read
    }
}
