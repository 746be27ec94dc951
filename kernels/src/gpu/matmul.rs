//! A matrix times many token rows: kernels and grids for matmul.wgsl and cooperative.wgsl.

use syn1_model::plan::{Gemv, Plan, WeightFormat};
use wgpu::Buffer;

use super::device::GpuDevice;
use super::gemv::{Epilogue, center};
use super::launch::{Binds, Grid, Launch, Shot, Tiled};
use super::memory::{View, bind};
use super::program::{Builder, NormShape};
use super::shader::{File, Kernel, Kernels, stored};

/// The part of a product that a workgroup makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// Token rows.
    tokens: u32,
    /// Rows of the matrix.
    outputs: u32,
    /// Groups of eight inputs taken at a time.
    depth: u32,
    /// Who multiplies.
    units: Units,
}

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Units {
    /// Threads, each 8 token rows by 4 outputs.
    Threads,
    /// Matrix units: a subgroup of this many threads has 32 token rows by 32 outputs.
    Matrices(u32),
}

impl Tile {
    /// For products in f32.
    pub(super) fn of_numbers() -> Self {
        Self { tokens: 64, outputs: 64, depth: 2, units: Units::Threads }
    }

    /// For products of f16 with rows of `cols` elements by matrix units: as deep as divides a row and has room.
    fn of_matrices(units: MatrixUnits, cols: usize) -> Self {
        let tile = |depth| Self { tokens: 64, outputs: 64, depth, units: Units::Matrices(units.lanes) };
        let fits = |tile: &Self| cols.is_multiple_of(8 * tile.depth as usize) && tile.bytes() <= units.room;
        [8, 4].map(tile).into_iter().find(fits).unwrap_or(tile(2))
    }

    /// The kernel of `gemv`.
    pub(super) fn kernel(&self, kernels: &mut Kernels<'_>, gemv: &Gemv, epilogue: Epilogue) -> Kernel {
        let (format, unit) = stored(gemv.matrix.format);
        let mut tags = vec![format];
        tags.extend_from_slice(epilogue.tags());
        let mut overrides = vec![
            ("CHUNKS", (gemv.matrix.stride / 8) as f64),
            ("TOKENS", f64::from(self.tokens)),
            ("OUTPUTS", f64::from(self.outputs)),
            ("DEPTH", f64::from(self.depth)),
            ("THREADS", f64::from(self.threads())),
            ("X_ROOM", f64::from(self.room(self.tokens))),
            ("W_ROOM", f64::from(self.room(self.outputs))),
        ];
        overrides.extend(epilogue.overrides());
        match self.units {
            Units::Threads => {
                tags.push("FULL");
                tags.push(if gemv.norm.is_some() { "NORM" } else { "PLAIN" });
                overrides.push(("ROW", (gemv.matrix.row_bytes() / unit) as f64));
                overrides.push(("CENTER", gemv.norm.map_or(0.0, |folded| center(folded.norm.kind))));
                kernels.kernel(File::Matmul, &tags, &overrides)
            }
            Units::Matrices(_) => {
                // What goes into the next product is stored as that takes it.
                tags.push(if epilogue.activates() { "HALF" } else { "FULL" });
                let unit = if gemv.matrix.format == WeightFormat::F16 { 8 } else { 4 };
                let parts = |rows: u32| f64::from(rows * self.depth / self.threads());
                overrides.push(("ROW", (gemv.matrix.row_bytes() / unit) as f64));
                overrides.push(("X_PARTS", parts(self.tokens)));
                overrides.push(("W_PARTS", parts(self.outputs)));
                overrides.push(("S_ROOM", f64::from(self.subgroups() * 64)));
                kernels.kernel(File::Cooperative, &tags, &overrides)
            }
        }
    }

    /// The grid for `rows` rows of a matrix.
    pub(super) fn grid(&self, rows: usize) -> Grid {
        Grid::tiles((rows as u32).div_ceil(self.outputs), self.tokens)
    }

    fn threads(&self) -> u32 {
        match self.units {
            Units::Threads => self.tokens / 8 * self.outputs / 4,
            Units::Matrices(lanes) => self.subgroups() * lanes,
        }
    }

    /// Subgroups, where these have matrix units.
    fn subgroups(&self) -> u32 {
        self.tokens / 32 * self.outputs / 32
    }

    /// Elements of workgroup memory for `rows` rows of a side, with padding.
    fn room(&self, rows: u32) -> u32 {
        match self.units {
            Units::Threads => 2 * self.depth * rows + 8,
            Units::Matrices(_) => 2 * rows * (2 * self.depth + 2),
        }
    }

    /// Bytes of workgroup memory.
    fn bytes(&self) -> u32 {
        let sides = self.room(self.tokens) + self.room(self.outputs);
        match self.units {
            Units::Threads => 16 * sides,
            Units::Matrices(_) => 8 * sides + 16 * 64 * self.subgroups(),
        }
    }
}

/// What subgroups have to multiply f16 with.
#[derive(Clone, Copy, Debug)]
pub(super) struct MatrixUnits {
    /// Threads of a subgroup.
    pub(super) lanes: u32,
    /// Bytes of a workgroup's memory.
    room: u32,
}

impl MatrixUnits {
    /// Those of `device` for the products of `plan`. f32 weights are meant to be exact and stay away from f16.
    pub(super) fn of(device: &GpuDevice, plan: &Plan) -> Option<Self> {
        let lanes = device.cooperative_lanes().filter(|_| plan.format != WeightFormat::F32)?;
        Some(Self { lanes, room: device.limits.max_compute_workgroup_storage_size })
    }
}

/// How a product goes through matrix units.
pub(super) struct Halved {
    tile: Tile,
    kernel: Kernel,
    /// Its rows in f16.
    x: View,
    /// Where it stores f16, for the next product.
    y: Option<View>,
}

impl Builder<'_> {
    /// The kernel of `gemv` for matrix units, and in front of it the norm of its rows, which are in `x`. Nothing where there
    /// are none.
    pub(super) fn halved(&mut self, gemv: &Gemv, epilogue: Epilogue, x: &Buffer) -> Option<Halved> {
        let tile = Tile::of_matrices(self.units?, gemv.matrix.stride);
        let kernel = tile.kernel(&mut self.kernels, gemv, epilogue);
        let halves = &self.activations.halves;
        let y = epilogue.activates().then(|| View::whole(&halves.h));
        let Some(folded) = gemv.norm else {
            let x = if *x == self.activations.a { &halves.a } else { &halves.h };
            return Some(Halved { tile, kernel, x: View::whole(x), y });
        };
        let overrides = [("QUADS", (gemv.matrix.stride / 4) as f64), ("CENTER", center(folded.norm.kind))];
        let norm = self.kernels.kernel(File::Norm, &[], &overrides);
        let shape = NormShape { inverse_cols: 1.0 / gemv.matrix.cols as f32, eps: folded.norm.eps, pad: [0; 2] };
        let views = [
            (0, View::whole(x)),
            (1, self.weights.view(folded.gamma)),
            (2, View::whole(&halves.x)),
            (3, self.uniforms.slot(&shape)),
        ];
        let binds = Binds::Shared(bind(self.device, &norm, &views));
        let one = Shot::new(&norm, Grid::ManyTokens);
        self.program.body.push(Launch { one, many: None, tiled: None, binds });
        Some(Halved { tile, kernel, x: View::whole(&halves.x), y })
    }
}

impl Halved {
    /// The dispatch for `rows` rows of the matrix, its views being `views` but for what is in f16 and the norm's gamma.
    pub(super) fn shot(&self, rows: u32, views: &[(u32, View)]) -> (Shot, Vec<(u32, View)>) {
        let mut own = vec![(X_BINDING, self.x.clone())];
        own.extend(self.y.iter().map(|y| (Y_BINDING, y.clone())));
        let replaced = |binding| binding == GAMMA_BINDING || own.iter().any(|(number, _)| *number == binding);
        let others = views.iter().filter(|(binding, _)| !replaced(*binding)).cloned().collect::<Vec<_>>();
        own.extend(others);
        (Shot::new(&self.kernel, self.tile.grid(rows as usize)), own)
    }

    /// The same with a bind group of its own, where no KV cache is needed.
    pub(super) fn tiled(&self, device: &GpuDevice, rows: u32, views: &[(u32, View)]) -> Tiled {
        let (shot, views) = self.shot(rows, views);
        Tiled { shot, binds: Some(Binds::Shared(bind(device, &self.kernel, &views))) }
    }

    /// Whose layout its bind groups have.
    pub(super) fn kernel(&self) -> &Kernel {
        &self.kernel
    }
}

/// Binding of the token rows, in all products.
const X_BINDING: u32 = 2;

/// Binding of the results, in all products.
const Y_BINDING: u32 = 6;

/// Binding of the norm's gamma, in products with a norm folded in.
const GAMMA_BINDING: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_has_threads_for_its_parts_and_keeps_within_webgpus_limits() {
        let units = |room| MatrixUnits { lanes: 32, room };
        let deep = [96, 768].map(|cols| (Tile::of_matrices(units(49_152), cols), 49_152));
        for (tile, room) in
            [(Tile::of_numbers(), 16_384), (Tile::of_matrices(units(16_384), 768), 16_384)].into_iter().chain(deep)
        {
            assert!(tile.threads() <= 256, "{tile:?}");
            assert!(tile.bytes() <= room, "{tile:?} needs {} bytes", tile.bytes());
            match tile.units {
                Units::Threads => {
                    assert!((tile.tokens + tile.outputs) / 4 * tile.depth <= tile.threads(), "{tile:?}");
                }
                Units::Matrices(_) => {
                    for rows in [tile.tokens, tile.outputs] {
                        let parts = rows * tile.depth;
                        assert!(parts.is_multiple_of(tile.threads()) && parts / tile.threads() <= 4, "{tile:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_tile_is_as_deep_as_its_room_and_divides_a_row() {
        for (room, cols, depth) in [(49_152, 768, 8), (49_152, 96, 4), (16_384, 768, 2)] {
            assert_eq!(Tile::of_matrices(MatrixUnits { lanes: 32, room }, cols).depth, depth);
        }
    }
}
