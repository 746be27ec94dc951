//! KV caches side by side, so that one dispatch can see those of several requests.

use syn1_model::plan::{Plan, WeightFormat};
use wgpu::{BindGroup, Buffer, BufferUsages};

use super::device::GpuDevice;
use super::launch::PerSlot;
use super::memory::{View, buffer};
use super::prepared::Prepared;
use crate::engine::EngineConfig;

/// How the caches of a bank lie: `[layer][cache]`, so that those of a layer are one binding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// Caches of a bank.
    pub(super) caches: usize,
    /// Bytes of one layer of one cache, whole storage offsets.
    cache_bytes: u64,
    layers: usize,
    /// Bytes of eight elements.
    eight: u64,
}

/// A buffer of caches. Its memory is taken when the first of them is opened, and kept.
pub(super) struct Bank {
    kv: Buffer,
    /// Caches that requests have had.
    used: usize,
    /// Bind groups that see all caches, for rows of several requests.
    pub(super) binds: Vec<BindGroup>,
    /// Commands of the group that most likely comes next.
    pub(super) prepared: Option<Prepared>,
}

/// The part of a bank that a bind group sees, in every layer.
pub(super) struct Cache {
    kv: Buffer,
    /// From one layer to the next.
    layer_bytes: u64,
    offset: u64,
    bytes: u64,
}

impl Layout {
    /// As many caches as `config` has, as far as a layer's fit `window_bytes` and all fit a buffer; `cache_bytes` are those
    /// of a layer of one.
    pub(super) fn new(
        device: &GpuDevice,
        plan: &Plan,
        config: &EngineConfig,
        cache_bytes: u64,
        window_bytes: u64,
    ) -> Self {
        let layers = plan.layers.len();
        let fits =
            (window_bytes / cache_bytes).min(device.limits.max_buffer_size / (cache_bytes * layers.max(1) as u64));
        let caches = usize::try_from(fits).unwrap_or(usize::MAX).min(config.slots).max(1);
        let eight = if plan.format.kv() == WeightFormat::F32 { 32 } else { 16 };
        Self { caches, cache_bytes, layers, eight }
    }

    /// The same with a bank for every cache.
    pub(super) fn apart(self) -> Self {
        Self { caches: 1, ..self }
    }

    /// Bytes of a bank.
    pub(super) fn bytes(&self) -> u64 {
        self.layer_bytes() * self.layers as u64
    }

    /// Groups of eight elements in front of cache number `place` in its layer.
    pub(super) fn eights(&self, place: usize) -> u32 {
        (place as u64 * self.cache_bytes / self.eight) as u32
    }

    /// Bytes from one layer of a cache to the next.
    pub(super) fn layer_bytes(&self) -> u64 {
        self.caches as u64 * self.cache_bytes
    }
}

impl Bank {
    /// An empty one. To be called inside [`GpuDevice::guarded`].
    pub(super) fn new(device: &GpuDevice, layout: &Layout, together: &[PerSlot]) -> Self {
        let kv = buffer(device, "KV caches", layout.bytes(), BufferUsages::STORAGE);
        let layer_bytes = layout.layer_bytes();
        let all = Cache { kv: kv.clone(), layer_bytes, offset: 0, bytes: layer_bytes };
        let binds = together.iter().map(|part| part.bind(device, &all)).collect();
        Self { kv, used: 0, binds, prepared: None }
    }

    /// Whether all caches have been given away.
    pub(super) fn is_full(&self, layout: &Layout) -> bool {
        self.used >= layout.caches
    }

    /// The number of the cache that is given away next.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Gives it away.
    pub(super) fn take(&mut self) {
        self.used += 1;
    }

    /// Cache number `place`.
    pub(super) fn cache(&self, layout: &Layout, place: usize) -> Cache {
        let bytes = layout.cache_bytes;
        Cache { kv: self.kv.clone(), layer_bytes: layout.layer_bytes(), offset: place as u64 * bytes, bytes }
    }
}

impl Cache {
    /// The part of one layer.
    pub(super) fn layer(&self, layer: usize) -> View {
        View::new(&self.kv, layer as u64 * self.layer_bytes + self.offset, self.bytes)
    }

    /// From its beginning to the end of the bank: all layers, with other caches between them where the bank has any.
    pub(super) fn onwards(&self) -> View {
        View::new(&self.kv, self.offset, self.kv.size() - self.offset)
    }
}
