//! Whether subgroups are what the kernels take them for.

use wgpu::BufferUsages;

use super::device::GpuDevice;
use super::memory::{View, bind, buffer};
use super::readback::Readback;
use super::shader::{File, Kernels};
use crate::engine::EngineError;

/// Whether every thread's number in its workgroup follows from its subgroup and lane: subgroups are full. A device whose
/// subgroups differ in size, by kernel or by need, does not promise it.
///
/// # Errors
/// [`EngineError::Memory`] or [`EngineError::Device`].
pub(super) async fn full_subgroups(device: &GpuDevice) -> Result<bool, EngineError> {
    let bytes = 4 * u64::from(WORKGROUPS * THREADS);
    let (kernel, binds, found, readback) = device.guarded("the subgroup probe", 2 * bytes, || {
        let kernel = Kernels::plain(device).kernel(File::Probe, &[], &[]);
        let found = buffer(device, "found", bytes, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
        let binds = bind(device, &kernel, &[(0, View::whole(&found))]);
        (kernel, binds, found, Readback::new(device, bytes))
    })?;
    let mut encoder = kernel.encode(device, &binds, WORKGROUPS, 1);
    readback.copy(&mut encoder, &found, bytes);
    let pending = readback.start(bytes, device.queue.submit([encoder.finish()]));
    let mut full = false;
    let compare = |bytes: &[u8]| {
        let numbers = bytemuck::cast_slice::<u8, u32>(bytes).chunks(THREADS as usize);
        full = numbers.flat_map(|group| group.iter().zip(0..)).all(|(found, thread)| *found == thread);
    };
    readback.finish(device, pending, compare).await?;
    Ok(full)
}

/// Threads of a workgroup in probe.wgsl.
const THREADS: u32 = 128;

/// Enough for every multiprocessor to take part.
const WORKGROUPS: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subgroups_of_one_size_are_full() {
        let device = GpuDevice::open("gpu").unwrap_or_else(|error| panic!("this test needs a GPU adapter: {error}"));
        if device.subgroup_sizes().is_some() {
            assert_eq!(pollster::block_on(full_subgroups(&device)), Ok(true));
        }
    }
}
