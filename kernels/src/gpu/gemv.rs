//! A matrix times every token row: kernels, constants and grids for gemv.wgsl and gemv_rows.wgsl.

use syn1_model::plan::Gemv;
use syn1_model::spec::{Activation, NormKind};

use super::division::{Division, Room, chunks, parts};
use super::launch::{Binds, Grid, Launch, Shot, Tiled};
use super::matmul::Tile;
use super::memory::View;
use super::shader::{File, Kernel, Kernels, stored};
use super::weights::{Weights, Window};

/// `Shape` in gemv.wgsl and gemv_rows.wgsl.
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
    /// The kernels and windows of `gemv`, divided by `division` for one token row, `many` also for several.
    pub(super) fn new(
        kernels: &mut Kernels<'_>,
        weights: &Weights,
        gemv: &Gemv,
        epilogue: Epilogue,
        division: Division,
        many: bool,
        window_bytes: u64,
    ) -> Self {
        let mut threads = Threads::new(kernels.subgroup_sizes());
        if kernels.on_few_threads() {
            threads = threads.alone();
        }
        let one = one_row(kernels, gemv, epilogue, division);
        let tile = Tile::of_numbers();
        let tiled = many.then(|| tile.kernel(kernels, gemv, epilogue));
        let many = many.then(|| several_rows(kernels, gemv, epilogue, threads));
        let mut block_base = 0;
        let mut windows = Vec::new();
        for window in weights.windows(&gemv.matrix, window_bytes) {
            let (rows, blocks) = (window.rows, division.blocks(window.rows));
            let shape = GemvShape { blocks, block_base, ..GemvShape::of(gemv, &window) };
            block_base += blocks;
            let (one, many, tiled) = (Grid::tiles(blocks, 1), threads.grid(rows), tile.grid(rows));
            windows.push(ProductWindow { weights: window.view, shape, one, many, tiled });
        }
        Self { one, many, tiled, windows, views: views(weights, gemv) }
    }

    /// As [`Product::new`], with no kernel but that for several token rows.
    pub(super) fn several(
        kernels: &mut Kernels<'_>,
        weights: &Weights,
        gemv: &Gemv,
        epilogue: Epilogue,
        window_bytes: u64,
    ) -> Self {
        let threads = Threads::new(kernels.subgroup_sizes());
        let kernel = several_rows(kernels, gemv, epilogue, threads);
        let windows = weights.windows(&gemv.matrix, window_bytes).into_iter().map(|window| {
            let grid = threads.grid(window.rows);
            let shape = GemvShape::of(gemv, &window);
            ProductWindow { weights: window.view, shape, one: grid, many: grid, tiled: grid }
        });
        Self { one: kernel, many: None, tiled: None, windows: windows.collect(), views: views(weights, gemv) }
    }

    /// Workgroups of all windows, for one token row.
    pub(super) fn blocks(&self) -> u32 {
        self.windows.last().map_or(0, |window| window.shape.block_base + window.shape.blocks)
    }
}

impl GemvShape {
    /// Those of a window that depend on neither `x`, `y` nor the division.
    fn of(gemv: &Gemv, window: &Window) -> Self {
        Self {
            row_base: window.row_base as u32,
            rows: window.rows as u32,
            inverse_cols: 1.0 / gemv.matrix.cols as f32,
            eps: gemv.norm.map_or(0.0, |folded| folded.norm.eps),
            token_limit: u32::MAX,
            ..Self::default()
        }
    }
}

/// The views that all windows share.
fn views(weights: &Weights, gemv: &Gemv) -> Vec<(u32, View)> {
    let gamma = gemv.norm.map(|folded| (5, weights.view(folded.gamma)));
    [(1, weights.view(gemv.aux))].into_iter().chain(gamma).collect()
}

/// gemv.wgsl for `gemv`.
fn one_row(kernels: &mut Kernels<'_>, gemv: &Gemv, epilogue: Epilogue, division: Division) -> Kernel {
    let Division { lanes, groups, quads, staged } = division;
    let (matrix, room) = (&gemv.matrix, Room::of(kernels.device(), kernels.subgroup_sizes()));
    let norm = if gemv.norm.is_some() { "NORM" } else { "PLAIN" };
    let (quads_tag, inputs) = (if quads == 1 { "Q1" } else { "Q2" }, if staged { "STAGED" } else { "DIRECT" });
    let mut tags = vec![quads_tag, inputs, norm, stored(matrix.format).0];
    tags.extend_from_slice(epilogue.tags());
    let chunks = chunks(matrix);
    let mut overrides = vec![
        ("CHUNKS", f64::from(chunks)),
        ("ROW", (matrix.row_bytes() / 16) as f64),
        ("INPUTS", (chunks as usize * parts(matrix.format)) as f64),
        ("LANES", f64::from(lanes)),
        ("GROUPS", f64::from(groups)),
        ("FINISHERS", f64::from(groups * quads)),
        ("THREADS", f64::from(division.threads())),
        ("ROUNDS", f64::from(chunks.div_ceil(lanes))),
        ("SUMS", f64::from(division.sums(room))),
        ("CENTER", gemv.norm.map_or(0.0, |folded| center(folded.norm.kind))),
    ];
    overrides.extend(epilogue.overrides());
    kernels.kernel(File::Gemv, &tags, &overrides)
}

/// gemv_rows.wgsl for `gemv`.
fn several_rows(kernels: &mut Kernels<'_>, gemv: &Gemv, epilogue: Epilogue, threads: Threads) -> Kernel {
    let norm = if gemv.norm.is_some() { "NORM" } else { "PLAIN" };
    let (format, unit) = stored(gemv.matrix.format);
    let mut tags = vec![norm, format, "FULL"];
    tags.extend_from_slice(epilogue.tags());
    let all = threads.lanes * threads.groups;
    let parts = kernels.subgroup_sizes().map_or(all, |(smallest, _)| all.div_ceil(smallest));
    let mut overrides = vec![
        ("CHUNKS", (gemv.matrix.stride / 8) as f64),
        ("ROW", (gemv.matrix.row_bytes() / unit) as f64),
        ("LANES", f64::from(threads.lanes)),
        ("GROUPS", f64::from(threads.groups)),
        ("THREADS", f64::from(all)),
        ("SUMS", f64::from(TILE * parts)),
        ("CENTER", gemv.norm.map_or(0.0, |folded| center(folded.norm.kind))),
    ];
    overrides.extend(epilogue.overrides());
    kernels.kernel(File::GemvRows, &tags, &overrides)
}

/// The override `CENTER`: whether a norm takes the mean out.
pub(super) fn center(kind: NormKind) -> f64 {
    if kind == NormKind::Layer { 1.0 } else { 0.0 }
}

/// How a workgroup of gemv_rows.wgsl is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Threads {
    /// Threads per four rows of the matrix.
    lanes: u32,
    /// Such groups in a workgroup.
    groups: u32,
}

impl Threads {
    /// Sums of eight token rows must fit 16 KiB of workgroup memory, and a group of threads must hold whole subgroups.
    fn new(subgroups: Option<(u32, u32)>) -> Self {
        let lanes = subgroups.map_or(32, |(_, largest)| largest.max(32));
        let threads = if subgroups.is_some() { 128 } else { 64 };
        Self { lanes, groups: (threads / lanes).max(1) }
    }

    /// The same with as few threads for each four rows as finish them: one that decodes waits for no other.
    fn alone(self) -> Self {
        Self { lanes: TILE, groups: ALONE.min(64 / TILE) }
    }

    /// The grid for `rows` rows of a matrix.
    fn grid(self, rows: usize) -> Grid {
        Grid::tiles((rows as u32).div_ceil(4 * self.groups), TILE)
    }
}

/// Token rows per tile of gemv_rows.wgsl.
const TILE: u32 = 8;

/// Groups of a workgroup at most where threads are the turns of a loop: few, so that small matrices are work for all cores.
pub(super) const ALONE: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workgroup_for_several_rows_fits_webgpus_smallest_device_and_holds_whole_subgroups() {
        for subgroups in [None, Some((4, 8)), Some((32, 32)), Some((64, 128))] {
            let threads = Threads::new(subgroups);
            let alone = Some(threads.alone()).filter(|_| subgroups.is_none());
            for threads in [threads].into_iter().chain(alone) {
                assert!(threads.lanes * threads.groups <= 256, "{threads:?}");
                assert!(threads.lanes.is_power_of_two());
                assert!(subgroups.is_none_or(|(_, largest)| threads.lanes % largest == 0), "{threads:?}");
                assert!(TILE * threads.groups <= threads.lanes * threads.groups);
                // 24 bytes a sum: four outputs and two statistics.
                let parts = subgroups.map_or(1, |(smallest, _)| smallest);
                assert!(TILE * threads.lanes * threads.groups / parts * 24 <= 16_384, "{threads:?}");
            }
        }
    }

    #[test]
    fn a_grid_covers_all_rows_within_the_dispatch_limit() {
        for blocks in [1_u32, 2, 65_535, 65_536, 250_001] {
            let Grid::Tiles { x, y, .. } = Grid::tiles(blocks, 1) else { unreachable!() };
            assert!(x <= 65_535 && y <= 65_535);
            assert!(x * y >= blocks && x * y < blocks + y);
        }
    }
}
