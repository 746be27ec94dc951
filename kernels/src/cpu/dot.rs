//! Products of weight rows with token rows.
//!
//! Every dot product has one accumulator register, filled in rising order of the inputs and summed over its lanes at
//! the end. So its bits depend on the two rows alone: not on how many rows are computed beside it, nor on which of the
//! two kernels computes it. [`gemv`] reads each weight once, in the order of memory as nearly as it can: as many rows
//! side by side as keep the arithmetic hidden behind the reading, and no more. [`gemm`] keeps a tile of weight rows times
//! token rows in registers.

use syn1_model::plan::{GROUP, WeightFormat};

use super::lanes::{LARGEST_HALF, Lanes};

/// Rows of weights as [`WeightFormat`] describes them, each one padded to whole groups.
pub(super) trait Stored: 'static {
    const FORMAT: WeightFormat;

    /// What [`LINE_GROUPS`](Self::LINE_GROUPS) groups have in common, in memory: a register takes a part of it in the same
    /// instruction that loads it.
    type Line: Copy;

    /// Groups of a line.
    const LINE_GROUPS: usize;

    /// What the weights of a group have in common.
    type Group<L: Lanes>: Copy;

    /// Reads the line that begins with group `first`, a multiple of [`LINE_GROUPS`](Self::LINE_GROUPS).
    ///
    /// # Safety
    /// As for [`Lanes`]; `row` is a row of `stride` elements that has this group.
    unsafe fn line<L: Lanes>(row: *const u8, stride: usize, first: usize) -> Self::Line;

    /// The group at `index` of a line.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn group<L: Lanes>(line: &Self::Line, index: usize) -> Self::Group<L>;

    /// Loads a register's worth of weights from element `k` on, which are of this group, [arranged](Self::arranged).
    ///
    /// # Safety
    /// As for [`Lanes`]; `row` is a row in which these elements lie.
    unsafe fn load<L: Lanes>(row: *const u8, k: usize, group: Self::Group<L>) -> L::V;

    /// A register of elements in the order in which `load` gives weights.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    unsafe fn arranged<L: Lanes>(v: L::V) -> L::V {
        v
    }

    /// What is [arranged](Self::arranged) in the order of memory again.
    ///
    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    unsafe fn in_order<L: Lanes>(v: L::V) -> L::V {
        v
    }
}

/// [`WeightFormat::F32`].
pub(super) struct Single;

impl Stored for Single {
    const FORMAT: WeightFormat = WeightFormat::F32;
    type Line = ();
    const LINE_GROUPS: usize = 8;
    type Group<L: Lanes> = ();

    #[inline(always)]
    unsafe fn line<L: Lanes>(_: *const u8, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn group<L: Lanes>((): &(), _: usize) {}

    #[inline(always)]
    unsafe fn load<L: Lanes>(row: *const u8, k: usize, (): ()) -> L::V {
        // SAFETY: the caller's promise is the same.
        unsafe { L::load(row.cast::<f32>().add(k)) }
    }
}

/// [`WeightFormat::F16`].
pub(super) struct Half;

impl Stored for Half {
    const FORMAT: WeightFormat = WeightFormat::F16;
    type Line = ();
    const LINE_GROUPS: usize = 8;
    type Group<L: Lanes> = ();

    #[inline(always)]
    unsafe fn line<L: Lanes>(_: *const u8, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn group<L: Lanes>((): &(), _: usize) {}

    #[inline(always)]
    unsafe fn load<L: Lanes>(row: *const u8, k: usize, (): ()) -> L::V {
        // SAFETY: the caller's promise is the same.
        unsafe { L::load_half(row.cast::<u16>().add(k)) }
    }
}

/// [`WeightFormat::Int8`]. Scale and step have 19 bits together, so their product is exact.
pub(super) struct Int8;

impl Stored for Int8 {
    const FORMAT: WeightFormat = WeightFormat::Int8;
    /// Scales.
    type Line = [f32; 8];
    const LINE_GROUPS: usize = 8;
    /// The scale.
    type Group<L: Lanes> = L::V;

    #[inline(always)]
    unsafe fn line<L: Lanes>(row: *const u8, stride: usize, first: usize) -> [f32; 8] {
        // SAFETY: the row's steps are followed by a scale for every group, padded to whole lines.
        unsafe { L::eight_halves(row.add(stride + 2 * first).cast()) }
    }

    #[inline(always)]
    unsafe fn group<L: Lanes>(line: &[f32; 8], index: usize) -> L::V {
        // SAFETY: the caller's promise is the same.
        unsafe { L::splat(line[index % 8]) }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(row: *const u8, k: usize, scale: L::V) -> L::V {
        // SAFETY: the caller's promise is the same.
        unsafe { L::mul(L::load_int8(row.add(k)), scale) }
    }
}

/// [`WeightFormat::Int4`]. Scale and step have 15 bits together, so that there is one rounding, fused or not.
pub(super) struct Int4;

impl Stored for Int4 {
    const FORMAT: WeightFormat = WeightFormat::Int4;
    /// Pairs of scale and low.
    type Line = [f32; 8];
    const LINE_GROUPS: usize = 4;
    type Group<L: Lanes> = L::Sixteen;

    #[inline(always)]
    unsafe fn line<L: Lanes>(row: *const u8, stride: usize, first: usize) -> [f32; 8] {
        // SAFETY: the row's steps are followed by a scale and a low for every group, padded to whole lines.
        unsafe { L::eight_halves(row.add(stride / 2 + 4 * first).cast()) }
    }

    #[inline(always)]
    unsafe fn group<L: Lanes>(line: &[f32; 8], index: usize) -> L::Sixteen {
        let at = 2 * (index % 4);
        // SAFETY: the caller's promise is the same.
        unsafe { L::sixteen(line[at], line[at + 1]) }
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(row: *const u8, k: usize, values: L::Sixteen) -> L::V {
        // SAFETY: the caller's promise is the same.
        unsafe { L::load_int4(row.add(k / 2), values) }
    }

    #[inline(always)]
    unsafe fn arranged<L: Lanes>(v: L::V) -> L::V {
        // SAFETY: the caller's promise is the same.
        unsafe { L::arranged_int4(v) }
    }

    #[inline(always)]
    unsafe fn in_order<L: Lanes>(v: L::V) -> L::V {
        // SAFETY: the caller's promise is the same.
        unsafe { L::int4_in_order(v) }
    }
}

/// An element of a KV cache in memory.
pub(super) trait Element: bytemuck::Pod + Send + Sync {
    /// How rows of it are stored.
    type Row: Stored;

    /// Loads and widens a register's worth.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn load<L: Lanes>(from: *const Self) -> L::V;

    /// The nearest element; f16 takes what is beyond its largest as its largest, as the GPU's kernels do.
    fn nearest(value: f32) -> Self;
}

impl Element for f32 {
    type Row = Single;

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L::V {
        // SAFETY: the caller's promise is the same.
        unsafe { L::load(from) }
    }

    fn nearest(value: f32) -> Self {
        value
    }
}

/// The bits of an f16.
impl Element for u16 {
    type Row = Half;

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L::V {
        // SAFETY: the caller's promise is the same.
        unsafe { L::load_half(from) }
    }

    fn nearest(value: f32) -> Self {
        half::f16::from_f32(value.clamp(-LARGEST_HALF, LARGEST_HALF)).to_bits()
    }
}

/// `to[i]` is the nearest f16 of `values[i]`, as [`Element::nearest`] has it.
///
/// # Safety
/// As for [`Lanes`]. Both are equally long.
#[inline(always)]
pub(super) unsafe fn narrow<L: Lanes>(values: &[f32], to: &mut [u16]) {
    let whole = values.len() - values.len() % L::N;
    for at in (0..whole).step_by(L::N) {
        // SAFETY: `N` elements from `at` on lie inside both.
        unsafe { L::store_half(to.as_mut_ptr().add(at), L::load(values.as_ptr().add(at))) };
    }
    to[whole..].iter_mut().zip(&values[whole..]).for_each(|(to, value)| *to = u16::nearest(*value));
}

/// `out[r * stride + k] = w[r][k]` for every row, widened.
///
/// # Safety
/// As for [`Lanes`]. `stride` is whole groups, `out` has whole rows of that length and `w` as many.
#[inline(always)]
pub(super) unsafe fn read<L: Lanes, S: Stored>(w: &[u8], stride: usize, out: &mut [f32]) {
    let (row_bytes, groups) = (S::FORMAT.row_bytes(stride), stride / GROUP);
    for (row, out) in w.chunks_exact(row_bytes).zip(out.chunks_exact_mut(stride)) {
        for first in (0..groups).step_by(S::LINE_GROUPS) {
            // SAFETY: the groups from `first` on lie inside both rows.
            unsafe {
                let line = S::line::<L>(row.as_ptr(), stride, first);
                for index in 0..S::LINE_GROUPS.min(groups - first) {
                    let (begin, group) = ((first + index) * GROUP, S::group::<L>(&line, index));
                    for k in (begin..begin + GROUP).step_by(L::N) {
                        let weights = S::in_order::<L>(S::load::<L>(row.as_ptr(), k, group));
                        L::store(out.as_mut_ptr().add(k), weights);
                    }
                }
            }
        }
    }
}

/// `y[r] = sum_k w[r][k] * x[k]` for every `r < y.len()`, `R` rows side by side.
///
/// # Safety
/// As for [`Lanes`]. `x` is whole groups, and `w` has `y.len()` rows of that length.
#[inline(always)]
pub(super) unsafe fn gemv<L: Lanes, S: Stored, const R: usize>(w: &[u8], x: &[f32], y: &mut [f32]) {
    let row_bytes = S::FORMAT.row_bytes(x.len());
    let (tiles, rest) = y.as_chunks_mut::<R>();
    let rest_row = tiles.len() * R;
    for (tile, y) in tiles.iter_mut().enumerate() {
        // SAFETY: the rows lie inside `w`, as the caller promises.
        *y = unsafe { dots::<L, S, R>(w.as_ptr().add(tile * R * row_bytes), row_bytes, x) };
    }
    for (row, y) in rest.iter_mut().enumerate() {
        // SAFETY: as above.
        [*y] = unsafe { dots::<L, S, 1>(w.as_ptr().add((rest_row + row) * row_bytes), row_bytes, x) };
    }
}

/// The dot products of `R` consecutive weight rows with `x`.
///
/// The same as [`sums`] of one token row, of which the compiler makes a loop that is a fifth slower.
#[inline(always)]
unsafe fn dots<L: Lanes, S: Stored, const R: usize>(w: *const u8, row_bytes: usize, x: &[f32]) -> [f32; R] {
    let (stride, groups) = (x.len(), x.len() / GROUP);
    // The rows are walked side by side but asked for one after the other, in two steps: the order of memory is what the
    // CPU's own prefetcher understands, too. For every group as many cache lines, of which one may be the last one once
    // more: a number that changed would be guessed wrongly again and again.
    let step_bytes = (R * row_bytes).div_ceil(groups);
    let (mut ahead, step_lines) = (w, step_bytes.div_ceil(64));
    let later_bytes = LATER_BYTES + (R - 1) * row_bytes;
    // SAFETY: `R` rows of `stride` elements, whole groups, are valid to read, as is `x`.
    unsafe {
        let mut sums = [L::zero(); R];
        for first in (0..groups).step_by(S::LINE_GROUPS) {
            let lines: [S::Line; R] = std::array::from_fn(|r| S::line::<L>(w.add(r * row_bytes), stride, first));
            for index in 0..S::LINE_GROUPS.min(groups - first) {
                let group: [S::Group<L>; R] = std::array::from_fn(|r| S::group::<L>(&lines[r], index));
                let begin = (first + index) * GROUP;
                for k in (begin..begin + GROUP).step_by(L::N) {
                    let x = S::arranged::<L>(L::load(x.as_ptr().add(k)));
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = L::fma(S::load::<L>(w.add(r * row_bytes), k, group[r]), x, *sum);
                    }
                }
                for line in 0..step_lines {
                    L::prefetch::<false>(ahead.wrapping_add(SOON_BYTES + 64 * line));
                    L::prefetch::<true>(ahead.wrapping_add(later_bytes + 64 * line));
                }
                ahead = ahead.wrapping_add(step_bytes);
            }
        }
        // `map` is a function of its own, compiled without the instructions.
        let mut dots = [0.0; R];
        for (dot, sum) in dots.iter_mut().zip(sums) {
            *dot = L::sum(S::in_order::<L>(sum));
        }
        dots
    }
}

/// `y[t * rows + r] = sum_k w[r][k] * x[t * stride + k]` for every weight row `r` and token row `t`: bitwise what [`gemv`]
/// gives for each token row. `R` by `T` is the register tile. More token rows than two have meet weights that are widened
/// once, into `scratch`.
///
/// # Safety
/// As for [`Lanes`]. `stride` is whole groups, `scratch` has whole rows of that length, `w` has as many, and `x` has
/// `y.len() / rows`. f32 rows are aligned as such.
#[inline(always)]
pub(super) unsafe fn gemm<L: Lanes, S: Stored, const R: usize, const T: usize>(
    w: &[u8],
    stride: usize,
    scratch: &mut [f32],
    x: &[f32],
    y: &mut [f32],
) {
    let (rows, tokens) = (scratch.len() / stride, x.len() / stride);
    let (x, y) = (x.as_ptr(), y.as_mut_ptr());
    // SAFETY: the lengths are as the caller promises, before and after widening.
    unsafe {
        if tokens <= 2 * T {
            strips::<L, S, R, T, false>(w.as_ptr(), x, stride, y, rows, tokens);
        } else if S::FORMAT == WeightFormat::F32 {
            strips::<L, Single, R, T, true>(w.as_ptr(), x, stride, y, rows, tokens);
        } else {
            read::<L, S>(w, stride, scratch);
            strips::<L, Single, R, T, true>(scratch.as_ptr().cast(), x, stride, y, rows, tokens);
        }
    }
}

/// [`strip`] after strip of `T` token rows, and then of 4, 2 and 1, as many as are left.
#[inline(always)]
unsafe fn strips<L: Lanes, S: Stored, const R: usize, const T: usize, const WIDE: bool>(
    w: *const u8,
    x: *const f32,
    stride: usize,
    y: *mut f32,
    rows: usize,
    tokens: usize,
) {
    const { assert!(T <= 8) };
    // SAFETY: every strip lies inside `tokens`.
    unsafe {
        let mut t = 0;
        while t + T <= tokens {
            strip::<L, S, R, T, WIDE>(w, x.add(t * stride), stride, y.add(t * rows), rows);
            t += T;
        }
        if T > 4 && t + 4 <= tokens {
            strip::<L, S, R, 4, WIDE>(w, x.add(t * stride), stride, y.add(t * rows), rows);
            t += 4;
        }
        if T > 2 && t + 2 <= tokens {
            strip::<L, S, R, 2, WIDE>(w, x.add(t * stride), stride, y.add(t * rows), rows);
            t += 2;
        }
        if t < tokens {
            strip::<L, S, R, 1, WIDE>(w, x.add(t * stride), stride, y.add(t * rows), rows);
        }
    }
}

/// All `rows` weight rows times `T` token rows, `R` weight rows side by side.
#[inline(always)]
unsafe fn strip<L: Lanes, S: Stored, const R: usize, const T: usize, const WIDE: bool>(
    w: *const u8,
    x: *const f32,
    stride: usize,
    y: *mut f32,
    rows: usize,
) {
    let (row_bytes, tiled) = (S::FORMAT.row_bytes(stride), rows - rows % R);
    // SAFETY: every tile lies inside `rows`.
    unsafe {
        for r in (0..tiled).step_by(R) {
            tile::<L, S, R, T, WIDE>(w.add(r * row_bytes), x, stride, y.add(r), rows);
        }
        for r in tiled..rows {
            tile::<L, S, 1, T, WIDE>(w.add(r * row_bytes), x, stride, y.add(r), rows);
        }
    }
}

/// `R` weight rows times `T` token rows; `y` has `rows` elements from one token to the next. Weights are f32 already where
/// they are `WIDE`; others are widened in registers.
#[inline(always)]
unsafe fn tile<L: Lanes, S: Stored, const R: usize, const T: usize, const WIDE: bool>(
    w: *const u8,
    x: *const f32,
    stride: usize,
    y: *mut f32,
    rows: usize,
) {
    // SAFETY: `R` rows at `w`, `T` rows at `x`, whole groups, and the outputs lie inside their slices.
    unsafe {
        let sums = if WIDE { wide_sums::<L, R, T>(w.cast(), x, stride) } else { sums::<L, S, R, T>(w, x, stride) };
        for (t, sums) in sums.into_iter().enumerate() {
            // Loops, for `map` may become a function of its own, without the instructions.
            let mut dots = [0.0; R];
            for (dot, sum) in dots.iter_mut().zip(sums) {
                *dot = L::sum(S::in_order::<L>(sum));
            }
            y.add(t * rows).cast::<[f32; R]>().write(dots);
        }
    }
}

/// The accumulators of a tile.
#[inline(always)]
unsafe fn sums<L: Lanes, S: Stored, const R: usize, const T: usize>(
    w: *const u8,
    x: *const f32,
    stride: usize,
) -> [[L::V; R]; T] {
    let (row_bytes, groups) = (S::FORMAT.row_bytes(stride), stride / GROUP);
    let step_bytes = (R * row_bytes).div_ceil(groups);
    let (mut ahead, step_lines) = (w, step_bytes.div_ceil(64));
    let later_bytes = LATER_BYTES + (R - 1) * row_bytes;
    // SAFETY: `R` rows at `w` and `T` rows at `x` are valid to read, whole groups.
    unsafe {
        let mut sums = [[L::zero(); R]; T];
        for first in (0..groups).step_by(S::LINE_GROUPS) {
            let lines: [S::Line; R] = std::array::from_fn(|r| S::line::<L>(w.add(r * row_bytes), stride, first));
            for index in 0..S::LINE_GROUPS.min(groups - first) {
                let group: [S::Group<L>; R] = std::array::from_fn(|r| S::group::<L>(&lines[r], index));
                let begin = (first + index) * GROUP;
                for k in (begin..begin + GROUP).step_by(L::N) {
                    let w: [L::V; R] = std::array::from_fn(|r| S::load::<L>(w.add(r * row_bytes), k, group[r]));
                    for (t, sums) in sums.iter_mut().enumerate() {
                        let x = S::arranged::<L>(L::load(x.add(t * stride + k)));
                        for (sum, w) in sums.iter_mut().zip(w) {
                            *sum = L::fma(w, x, *sum);
                        }
                    }
                }
                // As in `dots`.
                for line in 0..step_lines {
                    L::prefetch::<false>(ahead.wrapping_add(SOON_BYTES + 64 * line));
                    L::prefetch::<true>(ahead.wrapping_add(later_bytes + 64 * line));
                }
                ahead = ahead.wrapping_add(step_bytes);
            }
        }
        sums
    }
}

/// As [`sums`], of f32 weights near by.
#[inline(always)]
unsafe fn wide_sums<L: Lanes, const R: usize, const T: usize>(
    w: *const f32,
    x: *const f32,
    stride: usize,
) -> [[L::V; R]; T] {
    // SAFETY: `R` rows at `w` and `T` rows at `x` are valid to read, whole groups.
    unsafe {
        let mut sums = [[L::zero(); R]; T];
        let mut k = 0;
        while k < stride {
            let w: [L::V; R] = std::array::from_fn(|r| L::load(w.add(r * stride + k)));
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = L::load(x.add(t * stride + k));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = L::fma(w, x, *sum);
                }
            }
            k += L::N;
        }
        sums
    }
}

/// How far ahead weights are asked for into the first-level cache, and near it. The first bytes of a tile's last row are
/// wanted as soon as those of its first, so the latter counts from there: rows of 3,072 bytes are read a third faster by it.
const SOON_BYTES: usize = 2048;
const LATER_BYTES: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_f16_cannot_hold_becomes_its_largest_and_nan_stays() {
        let nearest = |value: f32| half::f16::from_bits(u16::nearest(value)).to_f32();
        for (value, want) in [(65_504.0, 65_504.0), (65_520.0, 65_504.0), (-1e30, -65_504.0), (f32::INFINITY, 65_504.0)]
        {
            assert_eq!(nearest(value), want);
        }
        assert_eq!(nearest(0.1), half::f16::from_f32(0.1).to_f32());
        assert!(nearest(f32::NAN).is_nan());
    }
}
