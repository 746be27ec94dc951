//! What a device can do: how fast it reads its memory, and how much of it there is.

use std::time::Duration;

use web_time::Instant;
use wgpu::BufferUsages;

use super::device::GpuDevice;
use super::memory::{Uniforms, View, bind, buffer};
use super::patience::Patience;
use super::readback::Readback;
use super::shader::{File, Kernels};
use crate::engine::EngineError;

/// Bytes a second that the device reads from its memory: the limit of decoding, which reads every weight once a token.
///
/// Reads a buffer of up to 256 MiB (less where a binding is smaller, and on software adapters) several times in one
/// submit, takes away the cost of the submit itself, and gives the median of five such measurements.
///
/// # Errors
/// [`EngineError::Memory`] or [`EngineError::Device`].
pub async fn read_bandwidth(device: &GpuDevice) -> Result<u64, EngineError> {
    let wish = if device.is_software() { SOFTWARE_BUFFER } else { BUFFER };
    let most = wish.min(device.limits.max_storage_buffer_binding_size).min(device.limits.max_buffer_size);
    let bytes = (most / ROUND).max(1) * ROUND;
    let (kernel, binds) = device.guarded("the bandwidth measurement", bytes, || {
        let kernel = Kernels::plain(device).kernel(File::Read, &[], &[]);
        let memory = buffer(device, "bandwidth", bytes, BufferUsages::STORAGE);
        let sink = buffer(device, "sink", 16, BufferUsages::STORAGE);
        let shape = Uniforms::new(device).slot(&[(bytes / 16) as u32, 0, 0, 0]);
        let binds = bind(device, &kernel, &[(0, View::whole(&memory)), (1, View::whole(&sink)), (2, shape)]);
        (kernel, binds)
    })?;
    device.settled().await?;
    let time = async |reads: u32| -> Result<Duration, EngineError> {
        let commands = kernel.encode(device, &binds, WORKGROUPS, reads).finish();
        let start = Instant::now();
        device.queue.submit([commands]);
        device.idle().await?;
        Ok(start.elapsed())
    };
    // The first fills the buffer with zeros, the second shows how many reads make a measurement.
    time(1).await?;
    let once = time(1).await?.max(Duration::from_nanos(1));
    let reads = (MEASUREMENT.as_nanos() / once.as_nanos()).clamp(1, MOST_READS) as u32;
    let mut samples = Vec::new();
    for _ in 0..SAMPLES {
        let (short, long) = (time(1).await?, time(1 + reads).await?);
        samples.push(long.saturating_sub(short).max(Duration::from_nanos(1)));
    }
    samples.sort_unstable();
    let seconds = samples[SAMPLES / 2].as_secs_f64();
    Ok((f64::from(reads) * bytes as f64 / seconds) as u64)
}

/// What it costs to have the device do something, however little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// A submit of nothing, and sleeping until the device is done with it.
    pub empty: Duration,
    /// A submit of one small dispatch and a copy of 16 bytes, sleeping until they can be read, and reading them.
    pub mapped_asleep: Duration,
    /// The same as the engine waits: looking for the bytes again and again where they come soon.
    pub mapped: Duration,
}

/// Medians of `times` round trips of each kind. Commands are recorded before the time is taken.
///
/// # Errors
/// [`EngineError::Memory`] or [`EngineError::Device`].
pub async fn round_trip(device: &GpuDevice, times: usize) -> Result<RoundTrip, EngineError> {
    let (kernel, binds, sink, readback) = device.guarded("the round trip measurement", ROUND, || {
        let kernel = Kernels::plain(device).kernel(File::Read, &[], &[]);
        let memory = buffer(device, "round trip", 256 * 64, BufferUsages::STORAGE);
        let sink = buffer(device, "sink", 16, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
        let shape = Uniforms::new(device).slot(&[256 * 64 / 16_u32, 0, 0, 0]);
        let binds = bind(device, &kernel, &[(0, View::whole(&memory)), (1, View::whole(&sink)), (2, shape)]);
        (kernel, binds, sink, Readback::new(device, 16))
    })?;
    device.settled().await?;
    let empty = async || {
        let start = Instant::now();
        device.queue.submit([]);
        device.idle().await?;
        Ok(start.elapsed())
    };
    let mapped = async |patience: &mut Patience| {
        let mut encoder = kernel.encode(device, &binds, 1, 1);
        readback.copy(&mut encoder, &sink, 16);
        let commands = encoder.finish();
        let start = Instant::now();
        let pending = readback.start(16, device.queue.submit([commands]));
        let waited = pending.wait(device, patience).await;
        patience.came(start.elapsed());
        readback.take(device, pending, waited, |_| ())?;
        Ok(start.elapsed())
    };
    // Software's results are never looked for.
    let (mut asleep, mut awake) = (Patience::none(), Patience::new(device.is_software()));
    Ok(RoundTrip {
        empty: median(times, empty).await?,
        mapped_asleep: median(times, async || mapped(&mut asleep).await).await?,
        mapped: median(times, async || mapped(&mut awake).await).await?,
    })
}

/// The median of `times` measurements, of one at least.
async fn median(
    times: usize,
    mut measure: impl AsyncFnMut() -> Result<Duration, EngineError>,
) -> Result<Duration, EngineError> {
    let mut samples = Vec::with_capacity(times.max(1));
    for _ in 0..times.max(1) {
        samples.push(measure().await?);
    }
    samples.sort_unstable();
    Ok(samples[samples.len() / 2])
}

/// Bytes that the device has room for now, `most` at most, found by allocating: drivers do not say, and some lie.
///
/// Asks for large buffers and halves their size each time one is refused, down to 64 MiB. All are given back.
///
/// # Errors
/// [`EngineError::Device`] if the device fails in another way than for want of memory.
pub async fn memory_bytes(device: &GpuDevice, most: u64) -> Result<u64, EngineError> {
    let mut held = Vec::new();
    let mut total = 0;
    let mut size = device.limits.max_buffer_size.min(LARGEST_PROBE);
    while size >= SMALLEST_PROBE && total < most {
        let bytes = (size.min(most - total) / 4).max(1) * 4;
        let made =
            device.guarded("the memory measurement", bytes, || buffer(device, "probe", bytes, BufferUsages::STORAGE));
        match device.settled().await.and(made) {
            Ok(buffer) => {
                held.push(buffer);
                total += bytes;
            }
            Err(EngineError::Memory { .. }) => size /= 2,
            Err(error) => return Err(error),
        }
    }
    // A browser's collector of garbage would take its time.
    held.iter().for_each(wgpu::Buffer::destroy);
    device.idle().await?;
    Ok(total.min(most))
}

/// Threads of the read kernel's grid times the 64 bytes that each reads in a round.
const ROUND: u64 = WORKGROUPS as u64 * 256 * 64;

/// Workgroups of 256 threads: enough to fill 132 multiprocessors, and a round reads 16 MiB.
const WORKGROUPS: u32 = 1024;

/// Larger than any cache.
const BUFFER: u64 = 256 << 20;

/// A software adapter reads the machine's memory, slowly.
const SOFTWARE_BUFFER: u64 = 64 << 20;

/// How long one measurement should read.
const MEASUREMENT: Duration = Duration::from_millis(10);

/// Reads in one measurement at most.
const MOST_READS: u128 = 64;

/// Measurements.
const SAMPLES: usize = 5;

/// The memory measurement begins with buffers of this size.
const LARGEST_PROBE: u64 = 4 << 30;

/// The memory measurement ends with buffers of this size.
const SMALLEST_PROBE: u64 = 64 << 20;
