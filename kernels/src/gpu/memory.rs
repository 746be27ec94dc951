//! Buffers on the device, ranges of them, and the uniform slots of dispatches.

use wgpu::{BindGroup, BindGroupDescriptor, BindGroupEntry, BindingResource, Buffer, BufferBinding, BufferUsages};

use super::device::GpuDevice;
use super::shader::Kernel;

/// A range of a buffer.
#[derive(Clone)]
pub(super) struct View {
    buffer: Buffer,
    offset: u64,
    bytes: u64,
}

impl View {
    /// `bytes` bytes of `buffer` from `offset` on.
    pub(super) fn new(buffer: &Buffer, offset: u64, bytes: u64) -> Self {
        Self { buffer: buffer.clone(), offset, bytes }
    }

    /// All of `buffer`.
    pub(super) fn whole(buffer: &Buffer) -> Self {
        Self::new(buffer, 0, buffer.size())
    }

    /// The buffer.
    pub(super) fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Whether one binding can hold all of it.
    pub(super) fn fits(&self, device: &GpuDevice) -> bool {
        self.bytes <= device.limits.max_storage_buffer_binding_size
    }

    fn resource(&self) -> BindingResource<'_> {
        BindingResource::Buffer(BufferBinding {
            buffer: &self.buffer,
            offset: self.offset,
            size: std::num::NonZeroU64::new(self.bytes),
        })
    }
}

/// A new buffer, filled with zeros. To be called inside [`GpuDevice::guarded`].
pub(super) fn buffer(device: &GpuDevice, label: &str, bytes: u64, usage: BufferUsages) -> Buffer {
    device.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: bytes,
        usage,
        mapped_at_creation: false,
    })
}

/// The bind group of `kernel` with a view for each binding number.
pub(super) fn bind(device: &GpuDevice, kernel: &Kernel, views: &[(u32, View)]) -> BindGroup {
    let entries: Vec<BindGroupEntry<'_>> =
        views.iter().map(|(binding, view)| BindGroupEntry { binding: *binding, resource: view.resource() }).collect();
    device.device.create_bind_group(&BindGroupDescriptor { label: None, layout: &kernel.layout, entries: &entries })
}

/// Constants of dispatches, each in a slot of its own.
pub(super) struct Uniforms {
    device: GpuDevice,
    block: Option<Buffer>,
    used: u64,
}

impl Uniforms {
    /// None yet.
    pub(super) fn new(device: &GpuDevice) -> Self {
        Self { device: device.clone(), block: None, used: 0 }
    }

    /// A slot that holds `value`.
    pub(super) fn slot<T: bytemuck::NoUninit>(&mut self, value: &T) -> View {
        let bytes = bytemuck::bytes_of(value);
        let device = &self.device;
        let fresh = || buffer(device, "constants", BLOCK, BufferUsages::UNIFORM | BufferUsages::COPY_DST);
        let block = match &self.block {
            Some(block) if self.used < BLOCK => block,
            _ => {
                self.used = 0;
                self.block.insert(fresh())
            }
        };
        let view = View::new(block, self.used, bytes.len() as u64);
        device.queue.write_buffer(block, self.used, bytes);
        self.used += SLOT;
        view
    }
}

/// Bytes from one slot to the next: the largest offset alignment that WebGPU allows a device to ask for.
const SLOT: u64 = 256;

/// Bytes of a block of slots.
const BLOCK: u64 = 256 * SLOT;
