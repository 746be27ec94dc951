//! Bringing a step's input to the device: a buffer that the CPU writes and the step's own commands read.
//!
//! It is mapped again as soon as the device is done with it, which the wait for the step's result sees to. So when the next
//! frame comes its rows are written where the device reads them: no buffer is made, and nothing is recorded.

use wgpu::{Buffer, BufferAsyncError, BufferUsages, CommandEncoder, MapMode};

use super::activations::{Activations, StepState};
use super::answer::Answer;
use super::device::GpuDevice;
use super::memory::{View, buffer};
use crate::engine::EngineError;

/// A [`StepState`], and behind it token ids or rows of the residual stream.
pub(super) struct Inbox {
    buffer: Buffer,
    /// What became of the last map that was asked for; nothing between two maps.
    mapped: Option<Answer<Result<(), BufferAsyncError>>>,
}

/// What a step brings.
#[derive(Clone, Copy)]
pub(super) enum Mail<'a> {
    /// Token ids.
    Ids(&'a [u32]),
    /// Rows of so many elements, so many apart in the device's memory.
    Rows { values: &'a [f32], width: usize, stride: usize },
}

impl Inbox {
    /// Room for `values` ids, or elements of rows with their padding. To be called inside [`GpuDevice::guarded`].
    pub(super) fn new(device: &GpuDevice, values: usize) -> Self {
        let bytes = STATE + 4 * values as u64;
        let kernels = if device.maps() { BufferUsages::STORAGE } else { BufferUsages::empty() };
        let usage = BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC | kernels;
        let mut inbox = Self { buffer: buffer(device, "inbox", bytes, usage), mapped: None };
        inbox.reopen();
        inbox
    }

    /// Writes what the next submit reads.
    ///
    /// # Errors
    /// [`EngineError::Device`] where the buffer cannot be mapped.
    pub(super) async fn fill(
        &mut self,
        device: &GpuDevice,
        state: StepState,
        mail: Mail<'_>,
    ) -> Result<(), EngineError> {
        if self.mapped.is_none() {
            self.reopen();
        }
        self.wait(device).await?;
        let view = self.buffer.get_mapped_range_mut(0..self.buffer.size());
        let mut view = view.map_err(|error| device.failed(error.to_string()))?;
        let state = [state];
        let state: &[u8] = bytemuck::cast_slice(&state);
        view.slice(..state.len()).copy_from_slice(state);
        let mut begin = state.len();
        match mail {
            Mail::Ids(ids) => view.slice(begin..begin + 4 * ids.len()).copy_from_slice(bytemuck::cast_slice(ids)),
            Mail::Rows { values, width, stride } if width == stride => {
                view.slice(begin..begin + 4 * values.len()).copy_from_slice(bytemuck::cast_slice(values));
            }
            Mail::Rows { values, width, stride } => {
                for row in values.chunks_exact(width) {
                    view.slice(begin..begin + 4 * width).copy_from_slice(bytemuck::cast_slice(row));
                    view.slice(begin + 4 * width..begin + 4 * stride).fill(0);
                    begin += 4 * stride;
                }
            }
        }
        drop(view);
        self.mapped = None;
        self.buffer.unmap();
        Ok(())
    }

    /// All of it, for kernels.
    pub(super) fn view(&self) -> View {
        View::whole(&self.buffer)
    }

    /// Records the copies of a step of `rows` rows: of ids, or of rows that are `stride` apart.
    pub(super) fn copy(&self, encoder: &mut CommandEncoder, to: &Activations, rows: usize, stride: Option<usize>) {
        let Some(stride) = stride else {
            return encoder.copy_buffer_to_buffer(&self.buffer, 0, &to.state, 0, STATE + 4 * rows as u64);
        };
        encoder.copy_buffer_to_buffer(&self.buffer, 0, &to.state, 0, STATE);
        encoder.copy_buffer_to_buffer(&self.buffer, STATE, &to.x, 0, 4 * (rows * stride) as u64);
    }

    /// Asks for the buffer behind the submit that reads it.
    pub(super) fn reopen(&mut self) {
        let (result, tell) = Answer::new();
        self.buffer.map_async(MapMode::Write, .., tell);
        self.mapped = Some(result);
    }

    /// Waits for the map. It is there already, but in front of the first step and behind one that failed.
    async fn wait(&mut self, device: &GpuDevice) -> Result<(), EngineError> {
        let answer = |inbox: &Self| inbox.mapped.as_ref().and_then(Answer::said);
        #[cfg(not(target_family = "wasm"))]
        if answer(self).is_none() {
            device.wait(None)?;
        }
        #[cfg(target_family = "wasm")]
        if let Some(mapped) = &self.mapped {
            let _ = mapped.wait().await;
        }
        match answer(self) {
            Some(Ok(())) => Ok(()),
            failed => {
                // What was asked for did not come; the next step asks anew.
                self.mapped = None;
                let why =
                    failed.and_then(Result::err).map_or("nothing was mapped".to_owned(), |error| error.to_string());
                Err(device.failed(format!("the inbox: {why}")))
            }
        }
    }
}

/// Bytes in front of ids or rows.
const STATE: u64 = size_of::<StepState>() as u64;
