//! One dispatch, made before the first step.

use wgpu::{BindGroup, Buffer, ComputePass, ComputePipeline};

use super::device::GpuDevice;
use super::memory::{View, bind};
use super::shader::Kernel;

/// A dispatch.
pub(super) struct Launch {
    /// For one token row.
    pub(super) one: Shot,
    /// For several token rows, where that is another pipeline.
    pub(super) many: Option<Shot>,
    /// Its bind group.
    pub(super) binds: Binds,
}

/// A pipeline and its grid.
pub(super) struct Shot {
    pub(super) pipeline: ComputePipeline,
    pub(super) grid: Grid,
}

/// The workgroups of a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grid {
    /// `x * y` workgroups for every tile of `tile` token rows.
    Tiles { x: u32, y: u32, tile: u32 },
    /// `x` workgroups for every token row.
    Tokens { x: u32 },
    /// One workgroup.
    Once,
}

/// A dispatch's bind group.
pub(super) enum Binds {
    /// The same for all requests.
    Shared(BindGroup),
    /// The request's, by number.
    Slot(usize),
}

/// A bind group that lacks the KV cache: one is made for every request.
pub(super) struct PerSlot {
    /// Whose layout.
    pub(super) kernel: Kernel,
    /// All views but the cache.
    pub(super) views: Vec<(u32, View)>,
    /// The cache's binding number.
    pub(super) kv_binding: u32,
    /// The layer, counted from the start of the range.
    pub(super) layer: usize,
}

impl Launch {
    /// Records the dispatch for `tokens` token rows of the request with the bind groups `slot`.
    pub(super) fn record(&self, pass: &mut ComputePass<'_>, slot: &[BindGroup], tokens: usize) {
        let shot = self.many.as_ref().filter(|_| tokens > 1).unwrap_or(&self.one);
        let binds = match &self.binds {
            Binds::Shared(binds) => binds,
            Binds::Slot(number) => &slot[*number],
        };
        let [x, y, z] = shot.grid.workgroups(tokens as u32);
        pass.set_pipeline(&shot.pipeline);
        pass.set_bind_group(0, binds, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

impl Grid {
    fn workgroups(self, tokens: u32) -> [u32; 3] {
        match self {
            Self::Tiles { x, y, tile } => [x, y, tokens.div_ceil(tile)],
            Self::Tokens { x } => [x, tokens, 1],
            Self::Once => [1, 1, 1],
        }
    }
}

impl Shot {
    /// `kernel` on `grid`.
    pub(super) fn new(kernel: &Kernel, grid: Grid) -> Self {
        Self { pipeline: kernel.pipeline.clone(), grid }
    }
}

impl PerSlot {
    /// The bind group of the request with the cache `kv`, in which a layer has `layer_bytes` bytes.
    pub(super) fn bind(&self, device: &GpuDevice, kv: &Buffer, layer_bytes: u64) -> BindGroup {
        let mut views = self.views.clone();
        views.push((self.kv_binding, View::new(kv, self.layer as u64 * layer_bytes, layer_bytes)));
        bind(device, &self.kernel, &views)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ragged_number_of_token_rows_gets_a_tile_of_its_own() {
        let grid = Grid::Tiles { x: 7, y: 2, tile: 8 };
        assert_eq!(grid.workgroups(1), [7, 2, 1]);
        assert_eq!(grid.workgroups(8), [7, 2, 1]);
        assert_eq!(grid.workgroups(9), [7, 2, 2]);
        assert_eq!(Grid::Tokens { x: 12 }.workgroups(3), [12, 3, 1]);
    }
}
