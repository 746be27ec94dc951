//! Bringing a result back: a buffer that the CPU can map.

use wgpu::{Buffer, BufferUsages, CommandEncoder, MapMode, SubmissionIndex};

use super::answer::Answer;
use super::device::GpuDevice;
use super::memory::{View, buffer};
use super::patience::Patience;
use crate::engine::EngineError;

/// A mappable buffer.
pub(super) struct Readback {
    buffer: Buffer,
}

/// A map that was asked for.
pub(super) struct Pending {
    bytes: u64,
    #[cfg(not(target_family = "wasm"))]
    submission: SubmissionIndex,
    result: Answer<Result<(), wgpu::BufferAsyncError>>,
}

impl Pending {
    /// Looks for the result as long as `patience` says, then sleeps until it is there; in a browser, lets that go on.
    pub(super) async fn wait(&self, device: &GpuDevice, patience: &Patience) -> Result<(), EngineError> {
        let came = patience.look_for(|| {
            device.poll();
            self.result.said().is_some()
        });
        if came {
            return device.check();
        }
        #[cfg(not(target_family = "wasm"))]
        return device.wait(Some(self.submission.clone()));
        #[cfg(target_family = "wasm")]
        {
            // Whether it failed is looked at when it is taken.
            let _ = self.result.wait().await;
            device.settled().await
        }
    }
}

impl Readback {
    /// Room for `bytes` bytes. To be called inside [`GpuDevice::guarded`].
    pub(super) fn new(device: &GpuDevice, bytes: u64) -> Self {
        let kernels = if device.maps() { BufferUsages::STORAGE } else { BufferUsages::empty() };
        Self { buffer: buffer(device, "readback", bytes, BufferUsages::MAP_READ | BufferUsages::COPY_DST | kernels) }
    }

    /// All of it, for kernels.
    pub(super) fn view(&self) -> View {
        View::whole(&self.buffer)
    }

    /// Records a copy of the first `bytes` bytes of `source`.
    pub(super) fn copy(&self, encoder: &mut CommandEncoder, source: &Buffer, bytes: u64) {
        encoder.copy_buffer_to_buffer(source, 0, &self.buffer, 0, bytes);
    }

    /// Records a copy of `bytes` bytes of `source` from `offset` on.
    pub(super) fn copy_from(&self, encoder: &mut CommandEncoder, source: &Buffer, offset: u64, bytes: u64) {
        encoder.copy_buffer_to_buffer(source, offset, &self.buffer, 0, bytes);
    }

    /// Records a copy of the first `bytes` bytes of `source` to `offset`.
    pub(super) fn copy_to(&self, encoder: &mut CommandEncoder, source: &Buffer, offset: u64, bytes: u64) {
        encoder.copy_buffer_to_buffer(source, 0, &self.buffer, offset, bytes);
    }

    /// Asks for the first `bytes` bytes behind `submission`.
    pub(super) fn start(&self, bytes: u64, submission: SubmissionIndex) -> Pending {
        let (result, tell) = Answer::new();
        self.buffer.map_async(MapMode::Read, 0..bytes, tell);
        #[cfg(target_family = "wasm")]
        let _ = submission;
        Pending {
            bytes,
            #[cfg(not(target_family = "wasm"))]
            submission,
            result,
        }
    }

    /// Takes the map back without waiting for the result, which nobody wants any more.
    pub(super) fn forget(&self, _pending: Pending) {
        self.buffer.unmap();
    }

    /// Waits for `pending` and lends the bytes to `use_bytes`. Takes the map back also on an error.
    pub(super) async fn finish(
        &self,
        device: &GpuDevice,
        pending: Pending,
        use_bytes: impl FnOnce(&[u8]),
    ) -> Result<(), EngineError> {
        let waited = pending.wait(device, &Patience::none()).await;
        self.take(device, pending, waited, use_bytes)
    }

    /// Lends the bytes of `pending`, which was waited for, to `use_bytes`. Takes the map back also on an error.
    pub(super) fn take(
        &self,
        device: &GpuDevice,
        pending: Pending,
        waited: Result<(), EngineError>,
        use_bytes: impl FnOnce(&[u8]),
    ) -> Result<(), EngineError> {
        let read = match pending.result.said() {
            Some(Err(error)) => waited.and(Err(device.failed(error.to_string()))),
            Some(Ok(())) => waited.and_then(|()| {
                let mapped = self.buffer.get_mapped_range(0..pending.bytes);
                mapped.map(|view| use_bytes(&view)).map_err(|error| device.failed(error.to_string()))
            }),
            None => waited.and(Err(device.failed("the result was not mapped behind its submission".into()))),
        };
        // Whatever happened: a buffer that stays mapped, or is still to be mapped, can take no further result. That there
        // is nothing to unmap behind a map that failed is no news.
        let scope = read.is_err().then(|| device.device.push_error_scope(wgpu::ErrorFilter::Validation));
        self.buffer.unmap();
        // What the scope has caught goes with it.
        drop(scope);
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_was_not_fetched_leaves_room_for_the_next() {
        let device = GpuDevice::open("gpu").unwrap_or_else(|error| panic!("this test needs a GPU adapter: {error}"));
        let readback = Readback::new(&device, 16);
        let fetch = |length: &mut usize| {
            let pending = readback.start(16, device.queue.submit([]));
            pollster::block_on(readback.finish(&device, pending, |bytes| *length = bytes.len()))
        };
        let mut length = 0;
        // A write beyond the buffer's end: the device reports it while the result is waited for.
        device.queue.write_buffer(&readback.buffer, 16, &[0; 4]);
        let failed = fetch(&mut length);
        assert!(matches!(failed, Err(EngineError::Device { .. })), "{failed:?}");
        assert_eq!((fetch(&mut length), length), (Ok(()), 16));
    }
}
