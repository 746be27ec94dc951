//! One dispatch, made before the first step.

use wgpu::{BindGroup, ComputePass, ComputePipeline};

use super::bank::Cache;
use super::device::GpuDevice;
use super::memory::{View, bind};
use super::shader::Kernel;

/// A dispatch.
pub(super) struct Launch {
    /// For one token row.
    pub(super) one: Shot,
    /// For several token rows, where that is another pipeline.
    pub(super) many: Option<Shot>,
    /// For [`MANY`] token rows and more, where that is yet another.
    pub(super) tiled: Option<Tiled>,
    /// Its bind group.
    pub(super) binds: Binds,
}

/// What many token rows need.
pub(super) struct Tiled {
    pub(super) shot: Shot,
    /// Its bind group, where that is another than that of fewer rows.
    pub(super) binds: Option<Binds>,
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
    /// `each` workgroups for every token row.
    Tokens { each: u32 },
    /// One workgroup for every token row; nothing where they are fewer than [`MANY`].
    ManyTokens,
    /// One workgroup for every head and tile of `tile` token rows.
    Heads { heads: u32, tile: u32 },
    /// One workgroup for every head, token row and split of the context.
    Attend { heads: u32 },
    /// One workgroup for every head and split; nothing where the context is not split.
    Combine { heads: u32 },
    /// One workgroup.
    Once,
}

/// What a step's grids depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    tokens: u32,
    splits: u32,
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
    /// Records the dispatch for a step of `extent` of the request with the bind groups `slot`.
    pub(super) fn record(&self, pass: &mut ComputePass<'_>, slot: &[BindGroup], extent: Extent) {
        let several = self.many.as_ref().filter(|_| extent.tokens > 1).unwrap_or(&self.one);
        let (shot, binds) = match &self.tiled {
            Some(Tiled { shot, binds }) if extent.tokens >= MANY => (shot, binds.as_ref().unwrap_or(&self.binds)),
            _ => (several, &self.binds),
        };
        let Some([x, y, z]) = shot.grid.workgroups(extent) else { return };
        let binds = match binds {
            Binds::Shared(binds) => binds,
            Binds::Slot(number) => &slot[*number],
        };
        pass.set_pipeline(&shot.pipeline);
        pass.set_bind_group(0, binds, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

impl Launch {
    /// Whether a step of one token row dispatches anything.
    pub(super) fn runs(&self, extent: Extent) -> bool {
        self.one.grid.workgroups(extent).is_some()
    }
}

impl Extent {
    /// `tokens` token rows, the first at `position`. A single row over a long context is split: few heads would keep few
    /// multiprocessors busy, and a split's own cost (the sums' way through memory and a dispatch) is that of about
    /// [`UNSPLIT`] positions.
    pub(super) fn new(position: usize, tokens: usize) -> Self {
        let context = position + 1;
        let splits = if tokens > 1 || context <= UNSPLIT { 1 } else { context.div_ceil(PER_SPLIT).min(MOST_SPLITS) };
        Self { tokens: tokens as u32, splits: splits as u32 }
    }
}

impl Grid {
    /// `blocks` workgroups for every tile of `tile` token rows, within the limit of each dimension.
    pub(super) fn tiles(blocks: u32, tile: u32) -> Self {
        let y = blocks.div_ceil(MOST_WORKGROUPS);
        Self::Tiles { x: blocks.div_ceil(y), y, tile }
    }

    fn workgroups(self, Extent { tokens, splits }: Extent) -> Option<[u32; 3]> {
        match self {
            Self::Tiles { x, y, tile } => Some([x, y, tokens.div_ceil(tile)]),
            Self::Tokens { each } => Some([each, tokens, 1]),
            Self::ManyTokens => (tokens >= MANY).then_some([1, tokens, 1]),
            Self::Heads { heads, tile } => Some([heads, tokens.div_ceil(tile), 1]),
            Self::Attend { heads } => Some([heads, tokens, splits]),
            Self::Combine { heads } => (splits > 1).then_some([heads, splits, 1]),
            Self::Once => Some([1, 1, 1]),
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
    /// The bind group of a request with `cache`, or of all that have theirs in it.
    pub(super) fn bind(&self, device: &GpuDevice, cache: &Cache) -> BindGroup {
        let mut views = self.views.clone();
        views.push((self.kv_binding, cache.layer(self.layer)));
        bind(device, &self.kernel, &views)
    }
}

/// From this many token rows on, products and attention go by tiles. A tile's way through a long row of inputs takes as long
/// for few token rows as for many, and eight rows at a time are faster up to four times that.
pub(super) const MANY: u32 = 33;

/// WebGPU's limit of workgroups in one dimension.
const MOST_WORKGROUPS: u32 = 65_535;

/// Splits of a context at most.
pub(super) const MOST_SPLITS: usize = 8;

/// Contexts up to this length are not split.
const UNSPLIT: usize = 384;

/// Positions of a split: a workgroup takes 128 at a time.
const PER_SPLIT: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ragged_number_of_token_rows_gets_a_tile_of_its_own() {
        let grid = Grid::Tiles { x: 7, y: 2, tile: 8 };
        for (tokens, tiles) in [(1, 1), (8, 1), (9, 2)] {
            assert_eq!(grid.workgroups(Extent::new(0, tokens)), Some([7, 2, tiles]));
        }
        assert_eq!(Grid::Tokens { each: 5 }.workgroups(Extent::new(0, 3)), Some([5, 3, 1]));
    }

    #[test]
    fn only_a_single_row_over_a_long_context_is_split() {
        let (attend, combine) = (Grid::Attend { heads: 12 }, Grid::Combine { heads: 12 });
        for (position, tokens, splits) in
            [(0, 1, 1), (383, 1, 1), (384, 1, 4), (1023, 1, 8), (100_000, 1, 8), (1000, 2, 1)]
        {
            let extent = Extent::new(position, tokens);
            assert_eq!(attend.workgroups(extent), Some([12, tokens as u32, splits]));
            assert_eq!(combine.workgroups(extent), (splits > 1).then_some([12, splits, 1]));
        }
    }
}
