//! A matrix times every token row: kernels, constants and grids for gemv.wgsl and gemv_rows.wgsl.

use syn1_model::plan::Gemv;
use syn1_model::spec::{Activation, NormKind};

use super::division::{BUSY_THREADS, Division, MOST_THREADS, Room, USUAL_THREADS, chunks, parts};
use super::launch::{Binds, Grid, Launch, Several, Shot, TILES, Tiled};
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
    /// For several token rows, by tiles of so many as [`TILES`] says.
    pub(super) many: Option<[Kernel; TILES.len()]>,
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
    /// The grids for several token rows.
    pub(super) many: [Grid; TILES.len()],
    /// The grid for many token rows.
    pub(super) tiled: Grid,
}

impl ProductWindow {
    /// The dispatch of this window of `product` with the bind group `binds`, for any number of token rows.
    pub(super) fn launch(&self, product: &Product, binds: Binds) -> Launch {
        let several = |kernels: &[Kernel; TILES.len()]| Several {
            shots: std::array::from_fn(|number| Shot::new(&kernels[number], self.many[number])),
        };
        let many = product.many.as_ref().map(several);
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
        let threads = Threads::of_tiles(kernels, gemv);
        let one = one_row(kernels, gemv, epilogue, division);
        let tile = Tile::of_numbers();
        let tiled = many.then(|| tile.kernel(kernels, gemv, epilogue));
        let many = many.then(|| threads.map(|threads| several_rows(kernels, gemv, epilogue, threads)));
        let mut block_base = 0;
        let mut windows = Vec::new();
        for window in weights.windows(&gemv.matrix, window_bytes) {
            let (rows, blocks) = (window.rows, division.blocks(window.rows));
            let shape = GemvShape { blocks, block_base, ..GemvShape::of(gemv, &window) };
            block_base += blocks;
            let (one, many, tiled) = (Grid::tiles(blocks, 1), threads.map(|t| t.grid(rows)), tile.grid(rows));
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
        let threads = Threads::of_tiles(kernels, gemv);
        let many = threads.map(|threads| several_rows(kernels, gemv, epilogue, threads));
        let windows = weights.windows(&gemv.matrix, window_bytes).into_iter().map(|window| {
            let grids = threads.map(|threads| threads.grid(window.rows));
            let shape = GemvShape::of(gemv, &window);
            ProductWindow { weights: window.view, shape, one: grids[0], many: grids, tiled: grids[0] }
        });
        let (one, windows) = (many[0].clone(), windows.collect());
        Self { one, many: Some(many), tiled: None, windows, views: views(weights, gemv) }
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
    let mut tags = vec![norm, format, "FULL", TILE_TAGS[threads.tile]];
    tags.extend_from_slice(epilogue.tags());
    let (all, chunks) = (threads.lanes * threads.groups, (gemv.matrix.stride / 8) as u32);
    let parts = kernels.subgroup_sizes().map_or(all, |(smallest, _)| all.div_ceil(smallest));
    let mut overrides = vec![
        ("CHUNKS", f64::from(chunks)),
        ("ROW", (gemv.matrix.row_bytes() / unit) as f64),
        ("LANES", f64::from(threads.lanes)),
        ("GROUPS", f64::from(threads.groups)),
        ("THREADS", f64::from(all)),
        ("ROUNDS", f64::from(chunks.div_ceil(threads.lanes))),
        ("SUMS", f64::from(TILES[threads.tile] * parts)),
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
    /// Which of [`TILES`].
    tile: usize,
}

impl Threads {
    /// Those for `gemv`, for each of [`TILES`].
    fn of_tiles(kernels: &Kernels<'_>, gemv: &Gemv) -> [Self; TILES.len()] {
        let subgroups = kernels.subgroup_sizes();
        std::array::from_fn(|tile| match kernels.on_few_threads() {
            true => Self::alone(tile),
            false => Self::new(subgroups, gemv.matrix.rows, gemv.matrix.stride, tile),
        })
    }

    /// As for one token row: enough threads to keep many loads on their way, but the fewer the more sums they have to add up
    /// over the group. A group of threads must hold whole subgroups, and all sums must fit 16 KiB of workgroup memory.
    fn new(subgroups: Option<(u32, u32)>, rows: usize, stride: usize, tile: usize) -> Self {
        let most = if subgroups.is_some() { MOST_THREADS } else { 512 / TILES[tile] };
        let (chunks, quads) = ((stride / 8) as u32, rows.div_ceil(4) as u32);
        let busy = BUSY_THREADS * TILES[0] / TILES[tile];
        let mut lanes = subgroups.map_or(32, |(_, largest)| largest.max(32));
        while lanes < chunks && 2 * lanes <= most && quads.saturating_mul(lanes) < busy {
            lanes *= 2;
        }
        Self { lanes, groups: (USUAL_THREADS.min(most) / lanes).max(1), tile }
    }

    /// As few threads for each four rows as finish them: one that decodes waits for no other.
    fn alone(tile: usize) -> Self {
        let lanes = TILES[tile];
        Self { lanes, groups: ALONE.min(64 / lanes), tile }
    }

    /// The grid for `rows` rows of a matrix.
    fn grid(self, rows: usize) -> Grid {
        Grid::tiles((rows as u32).div_ceil(4 * self.groups), TILES[self.tile])
    }
}

/// The tags of [`TILES`].
const TILE_TAGS: [&str; TILES.len()] = ["T2", "T4", "T8"];

/// Groups of a workgroup at most where threads are the turns of a loop: few, so that small matrices are work for all cores.
pub(super) const ALONE: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workgroup_for_several_rows_fits_webgpus_smallest_device_and_holds_whole_subgroups() {
        for subgroups in [None, Some((4, 8)), Some((32, 32)), Some((64, 128))] {
            for (rows, stride) in [(96, 96), (768, 3072), (2048, 2048), (128_256, 2048), (2048, 8192)] {
                for (tile, tokens) in TILES.into_iter().enumerate() {
                    let alone = Some(Threads::alone(tile)).filter(|_| subgroups.is_none());
                    for threads in [Threads::new(subgroups, rows, stride, tile)].into_iter().chain(alone) {
                        assert!(threads.lanes * threads.groups <= 256, "{threads:?}");
                        assert!(threads.lanes.is_power_of_two());
                        assert!(subgroups.is_none_or(|(_, largest)| threads.lanes % largest == 0), "{threads:?}");
                        assert!(tokens <= threads.lanes, "{threads:?} cannot finish all outputs");
                        // 24 bytes a sum: four outputs and two statistics.
                        let parts = subgroups.map_or(1, |(smallest, _)| smallest);
                        assert!(tokens * threads.lanes * threads.groups / parts * 24 <= 16_384, "{threads:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn few_rows_of_a_matrix_get_more_threads_each() {
        let subgroups = Some((32, 32));
        let lanes = |rows, tile| Threads::new(subgroups, rows, 2048, tile).lanes;
        assert!((0..TILES.len()).all(|tile| lanes(2048, tile) > lanes(128_256, tile)));
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
