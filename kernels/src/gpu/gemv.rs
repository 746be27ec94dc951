//! A matrix times every token row: kernels, constants and grids for gemv.wgsl.

use syn1_model::plan::{Gemv, Matrix};
use syn1_model::spec::{Activation, NormKind};

use super::launch::{Binds, Grid, Launch, Shot, Tiled};
use super::matmul::Tile;
use super::memory::View;
use super::shader::{File, Kernel, Kernels, stored};
use super::weights::{Weights, Window};

/// `Shape` in gemv.wgsl.
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct GemvShape {
    pub(super) row_base: u32,
    pub(super) rows: u32,
    pub(super) x_stride: u32,
    pub(super) y_stride: u32,
    pub(super) from_wanted: u32,
    pub(super) token_base: u32,
    pub(super) inverse_cols: f32,
    pub(super) eps: f32,
    pub(super) q_rows: u32,
    pub(super) head_dim: u32,
    pub(super) max_positions: u32,
    pub(super) blocks: u32,
    pub(super) block_base: u32,
    pub(super) token_limit: u32,
    pub(super) rotated_rows: u32,
    pub(super) rope_quads: u32,
}

const _: () = assert!(size_of::<GemvShape>() == 64);

/// What happens to the sums.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Epilogue {
    /// `y = sums`, kept within a cap if there is one.
    Store { cap: Option<f32> },
    /// `y += sums`.
    Add,
    /// `y = act(sums)`.
    Activate(Activation),
    /// `y[i] = act(sums[2 i]) * sums[2 i + 1]`.
    Gate(Activation),
    /// Queries to `y`, keys and values to the KV cache; queries and keys are rotated or not.
    Kv { rotated: bool },
    /// The largest of each workgroup to `winners`, as `Store` would have it; with noise where tokens are drawn.
    Best { cap: Option<f32> },
}

impl Epilogue {
    /// The tags of its kernels.
    pub(super) fn tags(self) -> &'static [&'static str] {
        match self {
            Self::Store { .. } | Self::Add | Self::Activate(_) => &["ROWS"],
            Self::Gate(_) => &["GATE"],
            Self::Kv { rotated: false } => &["KV"],
            Self::Kv { rotated: true } => &["KV", "ROPE"],
            Self::Best { .. } => &["BEST"],
        }
    }

    /// The overrides of its kernels.
    pub(super) fn overrides(self) -> [(&'static str, f64); 3] {
        let activation = match self {
            Self::Activate(Activation::GeluTanh) | Self::Gate(Activation::GeluTanh) => 1.0,
            Self::Activate(Activation::Silu) | Self::Gate(Activation::Silu) => 2.0,
            _ => 0.0,
        };
        let cap = match self {
            Self::Store { cap } | Self::Best { cap } => cap.map_or(0.0, f64::from),
            _ => 0.0,
        };
        [("ADD", if self == Self::Add { 1.0 } else { 0.0 }), ("ACTIVATION", activation), ("CAP", cap)]
    }

    /// Whether this makes the hidden rows of an MLP.
    pub(super) fn activates(self) -> bool {
        matches!(self, Self::Activate(_) | Self::Gate(_))
    }
}

/// A product in all its windows.
pub(super) struct Product {
    /// For one token row.
    pub(super) one: Kernel,
    /// For several token rows.
    pub(super) many: Option<Kernel>,
    /// For many token rows.
    pub(super) tiled: Option<Kernel>,
    /// The matrix's windows.
    pub(super) windows: Vec<ProductWindow>,
    /// Views that all windows share: c1 and c2, gamma.
    pub(super) views: Vec<(u32, View)>,
}

/// One window's part of a product.
pub(super) struct ProductWindow {
    /// The weights.
    pub(super) weights: View,
    /// Constants; those that depend on `x`, `y` and the KV cache are zero.
    pub(super) shape: GemvShape,
    /// The grid for one token row.
    pub(super) one: Grid,
    /// The grid for several token rows.
    pub(super) many: Grid,
    /// The grid for many token rows.
    pub(super) tiled: Grid,
}

impl ProductWindow {
    /// The dispatch of this window of `product` with the bind group `binds`, for any number of token rows.
    pub(super) fn launch(&self, product: &Product, binds: Binds) -> Launch {
        let many = product.many.as_ref().map(|many| Shot::new(many, self.many));
        let tiled = product.tiled.as_ref().map(|tiled| Tiled { shot: Shot::new(tiled, self.tiled), binds: None });
        Launch { one: Shot::new(&product.one, self.one), many, tiled, binds }
    }
}

impl Product {
    /// The kernels and windows of `gemv`, `many` also for several token rows.
    pub(super) fn new(
        kernels: &mut Kernels<'_>,
        weights: &Weights,
        gemv: &Gemv,
        epilogue: Epilogue,
        many: bool,
        window_bytes: u64,
    ) -> Self {
        let few = kernels.on_few_threads();
        let mut one_threads = Threads::for_one(&gemv.matrix, kernels.subgroup_sizes(), epilogue);
        let mut many_threads = Threads::for_many(kernels.subgroup_sizes());
        if few {
            (one_threads, many_threads) = (one_threads.alone(), many_threads.alone());
        }
        let one = kernel(kernels, gemv, epilogue, &one_threads);
        let tile = Tile::of_numbers();
        let tiled = many.then(|| tile.kernel(kernels, gemv, epilogue));
        let many = many.then(|| kernel(kernels, gemv, epilogue, &many_threads));
        let mut block_base = 0;
        let mut windows = Vec::new();
        for window in weights.windows(&gemv.matrix, window_bytes) {
            let Window { view, row_base, rows } = window;
            let blocks = one_threads.blocks(rows);
            let shape = GemvShape {
                row_base: row_base as u32,
                rows: rows as u32,
                inverse_cols: 1.0 / gemv.matrix.cols as f32,
                eps: gemv.norm.map_or(0.0, |folded| folded.norm.eps),
                blocks,
                block_base,
                token_limit: u32::MAX,
                ..GemvShape::default()
            };
            block_base += blocks;
            let (one, many, tiled) = (one_threads.grid(rows), many_threads.grid(rows), tile.grid(rows));
            windows.push(ProductWindow { weights: view, shape, one, many, tiled });
        }
        let mut views = vec![(1, weights.view(gemv.aux))];
        views.extend(gemv.norm.map(|folded| (5, weights.view(folded.gamma))));
        Self { one, many, tiled, windows, views }
    }

    /// Workgroups of all windows, for one token row.
    pub(super) fn blocks(&self) -> u32 {
        self.windows.last().map_or(0, |window| window.shape.block_base + window.shape.blocks)
    }
}

fn kernel(kernels: &mut Kernels<'_>, gemv: &Gemv, epilogue: Epilogue, threads: &Threads) -> Kernel {
    let tile = if threads.tile == 1 { "T1" } else { "T8" };
    let norm = if gemv.norm.is_some() { "NORM" } else { "PLAIN" };
    let (format, unit) = stored(gemv.matrix.format);
    let mut tags = vec![tile, norm, format];
    tags.extend_from_slice(epilogue.tags());
    let all = threads.lanes * threads.groups;
    let parts = kernels.subgroup_sizes().map_or(all, |(smallest, _)| all.div_ceil(smallest));
    let mut overrides = vec![
        ("CHUNKS", (gemv.matrix.stride / 8) as f64),
        ("ROW", (gemv.matrix.row_bytes() / unit) as f64),
        ("LANES", f64::from(threads.lanes)),
        ("GROUPS", f64::from(threads.groups)),
        ("THREADS", f64::from(all)),
        ("SUMS", f64::from(threads.tile * parts)),
        ("CENTER", gemv.norm.map_or(0.0, |folded| center(folded.norm.kind))),
    ];
    overrides.extend(epilogue.overrides());
    kernels.kernel(File::Gemv, &tags, &overrides)
}

/// The override `CENTER`: whether a norm takes the mean out.
pub(super) fn center(kind: NormKind) -> f64 {
    if kind == NormKind::Layer { 1.0 } else { 0.0 }
}

/// How a workgroup is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Threads {
    /// Threads per four rows of the matrix.
    lanes: u32,
    /// Such groups in a workgroup.
    groups: u32,
    /// Token rows per tile.
    tile: u32,
}

impl Threads {
    /// For decoding: enough threads to keep many loads in flight, but no more per row than it has inputs to read.
    fn for_one(matrix: &Matrix, subgroups: Option<(u32, u32)>, epilogue: Epilogue) -> Self {
        let (chunks, quads) = ((matrix.stride / 8) as u32, matrix.rows.div_ceil(4) as u32);
        let mut lanes = fewest_lanes(subgroups);
        while lanes < chunks && lanes < MOST_LANES && quads.saturating_mul(lanes) < BUSY_THREADS {
            lanes *= 2;
        }
        // The token loop's turn reads a winner per workgroup of the head: the fewer the better.
        let threads = if matches!(epilogue, Epilogue::Best { .. }) { 256 } else { 128 };
        Self { lanes, groups: (threads / lanes).max(1), tile: 1 }
    }

    /// For prefill: sums of eight token rows must fit 16 KiB of workgroup memory.
    fn for_many(subgroups: Option<(u32, u32)>) -> Self {
        let lanes = fewest_lanes(subgroups);
        let threads = if subgroups.is_some() { 128 } else { 64 };
        Self { lanes, groups: (threads / lanes).max(1), tile: 8 }
    }

    /// The same with as few threads for each four rows as finish them: one that decodes waits for no other.
    fn alone(self) -> Self {
        Self { lanes: self.tile, groups: ALONE.min(64 / self.tile), ..self }
    }

    /// Workgroups for `rows` rows of a matrix.
    fn blocks(&self, rows: usize) -> u32 {
        (rows as u32).div_ceil(4 * self.groups)
    }

    /// The grid for `rows` rows of a matrix.
    fn grid(&self, rows: usize) -> Grid {
        Grid::tiles(self.blocks(rows), self.tile)
    }
}

/// A group of threads must hold whole subgroups.
fn fewest_lanes(subgroups: Option<(u32, u32)>) -> u32 {
    subgroups.map_or(32, |(_, largest)| largest.max(32))
}

/// Threads per four rows at most: WebGPU's workgroups have 256.
const MOST_LANES: u32 = 256;

/// Groups of a workgroup at most where threads are the turns of a loop: few, so that small matrices are work for all cores.
const ALONE: u32 = 16;

/// Threads that fill a large GPU (132 multiprocessors of 1,024): below, rows are divided among more threads.
const BUSY_THREADS: u32 = 1 << 17;

#[cfg(test)]
mod tests {
    use syn1_model::plan::{Piece, Tensor, WeightFormat};

    use super::*;

    fn matrix(rows: usize, cols: usize) -> Matrix {
        let data = Tensor { piece: Piece::Tokens, offset: 0, bytes: 0 };
        Matrix { data, rows, cols, stride: cols, format: WeightFormat::F16 }
    }

    #[test]
    fn a_workgroup_never_has_more_threads_than_webgpu_allows_and_holds_whole_subgroups() {
        for (rows, cols) in [(96, 96), (768, 3072), (2304, 768), (50257, 768), (128_256, 2048)] {
            for subgroups in [None, Some((4, 8)), Some((32, 32)), Some((64, 128))] {
                let matrix = matrix(rows, cols);
                let one = Threads::for_one(&matrix, subgroups, Epilogue::Store { cap: None });
                let best = Threads::for_one(&matrix, subgroups, Epilogue::Best { cap: None });
                let many = Threads::for_many(subgroups);
                let alone = [one.alone(), many.alone()].into_iter().filter(|_| subgroups.is_none());
                for threads in [one, best, many].into_iter().chain(alone) {
                    assert!(threads.lanes * threads.groups <= 256, "{threads:?}");
                    assert!(threads.lanes.is_power_of_two());
                    assert!(subgroups.is_none_or(|(_, largest)| threads.lanes % largest == 0), "{threads:?}");
                    assert!(threads.tile * threads.groups <= threads.lanes * threads.groups);
                    // 24 bytes a sum: four outputs and two statistics.
                    let parts = subgroups.map_or(1, |(smallest, _)| smallest);
                    assert!(threads.tile * threads.lanes * threads.groups / parts * 24 <= 16_384, "{threads:?}");
                }
            }
        }
    }

    #[test]
    fn a_grid_covers_all_rows_within_the_dispatch_limit() {
        let threads = Threads { lanes: 32, groups: 1, tile: 1 };
        for rows in [1, 4, 5, 262_140, 262_141, 1_000_003] {
            let Grid::Tiles { x, y, .. } = threads.grid(rows) else { unreachable!() };
            assert!(x <= 65_535 && y <= 65_535);
            assert!(u64::from(x) * u64::from(y) * 4 >= rows as u64);
            assert!(x * y < threads.blocks(rows) + y);
        }
    }
}
