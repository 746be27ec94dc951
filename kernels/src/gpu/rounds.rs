//! The time of dispatches as they are within a token: again and again in one submit, and in front of each time a read of
//! other memory, so that caches hold what they would hold then. What submit and read cost is taken away.

use std::time::Duration;

use web_time::Instant;
use wgpu::{BindGroup, BufferUsages, ComputePass};

use super::device::GpuDevice;
use super::engine::pass;
use super::memory::{Uniforms, View, bind, buffer};
use super::shader::{File, Kernel, Kernels};
use crate::engine::EngineError;

/// Measures rounds of dispatches.
pub(super) struct Rounds<'a> {
    device: &'a GpuDevice,
    between: Option<Between>,
}

/// The read between two rounds.
struct Between {
    kernel: Kernel,
    binds: BindGroup,
    workgroups: u32,
}

impl<'a> Rounds<'a> {
    /// In front of each round `bytes` bytes are read. The dispatches must bind `shared`, so that they wait for that read
    /// and it waits for them.
    ///
    /// # Errors
    /// [`EngineError::Memory`] or [`EngineError::Device`].
    pub(super) fn new(device: &'a GpuDevice, bytes: u64, shared: &View) -> Result<Self, EngineError> {
        let most = device.limits.max_storage_buffer_binding_size.min(device.limits.max_buffer_size).min(LARGEST);
        let blocks = bytes.min(most) / BLOCK;
        if blocks == 0 {
            return Ok(Self { device, between: None });
        }
        let workgroups = blocks.min(WORKGROUPS);
        let bytes = blocks / workgroups * workgroups * BLOCK;
        let between = device.guarded("the measurement of kernels", bytes, || {
            let kernel = Kernels::plain(device).kernel(File::Read, &[], &[]);
            let memory = buffer(device, "between", bytes, BufferUsages::STORAGE);
            let shape = Uniforms::new(device).slot(&[(bytes / 16) as u32, 0, 0, 0]);
            let binds = bind(device, &kernel, &[(0, View::whole(&memory)), (1, shared.clone()), (2, shape)]);
            Between { kernel, binds, workgroups: workgroups as u32 }
        })?;
        Ok(Self { device, between: Some(between) })
    }

    /// One submit of `rounds` rounds, from submit to end.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    pub(super) fn submit(
        &self,
        rounds: u32,
        record: &mut dyn FnMut(&mut ComputePass<'_>),
    ) -> Result<Duration, EngineError> {
        let device = self.device;
        let mut encoder = device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = pass(&mut encoder);
        for _ in 0..rounds {
            if let Some(Between { kernel, binds, workgroups }) = &self.between {
                pass.set_pipeline(&kernel.pipeline);
                pass.set_bind_group(0, binds, &[]);
                pass.dispatch_workgroups(*workgroups, 1, 1);
            }
            record(&mut pass);
        }
        drop(pass);
        let commands = encoder.finish();
        let begun = Instant::now();
        device.queue.submit([commands]);
        pollster::block_on(device.idle())?;
        Ok(begun.elapsed())
    }

    /// Rounds that make a submit of about [`MEASUREMENT`]; the first submit warms up.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub(super) fn enough(&self, record: &mut dyn FnMut(&mut ComputePass<'_>)) -> Result<u32, EngineError> {
        self.submit(1, record)?;
        let once = self.submit(1, record)?.max(Duration::from_nanos(1));
        Ok((MEASUREMENT.as_nanos() / once.as_nanos()).clamp(1, MOST_ROUNDS) as u32)
    }

    /// What `record` takes in each of `rounds` rounds.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub(super) fn sample(
        &self,
        rounds: u32,
        before: &dyn Fn(),
        record: &mut dyn FnMut(&mut ComputePass<'_>),
    ) -> Result<Duration, EngineError> {
        before();
        let with = self.submit(rounds, record)?;
        before();
        let without = self.submit(rounds, &mut |_| ())?;
        Ok(with.saturating_sub(without) / rounds)
    }
}

/// Bytes that a workgroup of read.wgsl reads at a time: 64 for each of 256 threads.
const BLOCK: u64 = 256 * 64;

/// Workgroups of the read at most, as in the bandwidth measurement.
const WORKGROUPS: u64 = 1024;

/// How long a submit should take: its own cost, which varies by microseconds, hardly counts.
const MEASUREMENT: Duration = Duration::from_millis(4);

/// Rounds of a submit at most.
const MOST_ROUNDS: u128 = 64;

/// Bytes of a read at most: more than any cache holds.
const LARGEST: u64 = 256 << 20;
