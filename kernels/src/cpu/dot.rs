//! Products of weight rows with token rows.
//!
//! Every dot product has one accumulator register, filled in rising order of the inputs and summed over its lanes at
//! the end. So its bits depend on the two rows alone: not on how many rows are computed beside it, nor on which of the
//! two kernels computes it. Speed comes from many dot products at once: [`gemv`] has several weight rows in flight and
//! reads each weight once, [`gemm`] keeps a tile of weight rows times token rows in registers.

use super::lanes::Lanes;

/// An element of a matrix (or a KV cache) in memory.
pub(super) trait Element: bytemuck::Pod + Send + Sync {
    /// Loads and widens a register's worth.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn load<L: Lanes>(from: *const Self) -> L::V;

    /// The nearest element; f16 takes what is beyond its largest as its largest, as the GPU's kernels do.
    fn nearest(value: f32) -> Self;

    /// The elements as f32: itself, or widened into `scratch`.
    ///
    /// # Safety
    /// As for [`Lanes`]; for f16, `scratch` is as long as `elements`, which are whole registers.
    unsafe fn widened<'a, L: Lanes>(elements: &'a [Self], scratch: &'a mut [f32]) -> &'a [f32];
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L::V {
        // SAFETY: the caller's promise is the same.
        unsafe { L::load(from) }
    }

    fn nearest(value: f32) -> Self {
        value
    }

    #[inline(always)]
    unsafe fn widened<'a, L: Lanes>(elements: &'a [Self], _: &'a mut [f32]) -> &'a [f32] {
        elements
    }
}

/// The bits of an f16.
impl Element for u16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L::V {
        // SAFETY: the caller's promise is the same.
        unsafe { L::load_half(from) }
    }

    fn nearest(value: f32) -> Self {
        half::f16::from_f32(value.clamp(-65504.0, 65504.0)).to_bits()
    }

    #[inline(always)]
    unsafe fn widened<'a, L: Lanes>(elements: &'a [Self], scratch: &'a mut [f32]) -> &'a [f32] {
        // SAFETY: both slices are whole registers and equally long, as the caller promises.
        unsafe { read::<L, Self>(elements, scratch) };
        scratch
    }
}

/// `out[i] = elements[i]`, widened.
///
/// # Safety
/// As for [`Lanes`]. Both slices are whole registers and equally long.
#[inline(always)]
pub(super) unsafe fn read<L: Lanes, W: Element>(elements: &[W], out: &mut [f32]) {
    for i in (0..elements.len()).step_by(L::N) {
        // SAFETY: a register's worth from `i` on lies inside both slices, as the caller promises.
        unsafe { L::store(out.as_mut_ptr().add(i), W::load::<L>(elements.as_ptr().add(i))) };
    }
}

/// `y[r] = sum_k w[r * stride + k] * x[k]` for every `r < y.len()`.
///
/// # Safety
/// As for [`Lanes`]. `stride` is whole registers, `x` has that length and `w` has `y.len()` such rows.
#[inline(always)]
pub(super) unsafe fn gemv<L: Lanes, W: Element>(w: &[W], stride: usize, x: &[f32], y: &mut [f32]) {
    let (tiles, rest) = y.as_chunks_mut::<GEMV_ROWS>();
    let rest_row = tiles.len() * GEMV_ROWS;
    for (tile, y) in tiles.iter_mut().enumerate() {
        // SAFETY: the rows lie inside `w`, as the caller promises.
        *y = unsafe { dots::<L, W, GEMV_ROWS>(w.as_ptr().add(tile * GEMV_ROWS * stride), stride, x.as_ptr()) };
    }
    for (row, y) in rest.iter_mut().enumerate() {
        // SAFETY: as above.
        [*y] = unsafe { dots::<L, W, 1>(w.as_ptr().add((rest_row + row) * stride), stride, x.as_ptr()) };
    }
}

/// The dot products of `R` consecutive weight rows with `x`.
#[inline(always)]
unsafe fn dots<L: Lanes, W: Element, const R: usize>(w: *const W, stride: usize, x: *const f32) -> [f32; R] {
    // The rows are walked side by side but asked for one after the other, in two steps: the order of memory is what the
    // CPU's own prefetcher understands, too.
    let mut line = w.cast::<u8>();
    let line_elements = 64 / size_of::<W>();
    // SAFETY: `R` rows of `stride` elements, a whole number of registers, are valid to read, as is `x`.
    unsafe {
        let mut sums = [L::zero(); R];
        let mut k = 0;
        while k < stride {
            let x = L::load(x.add(k));
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = L::fma(W::load::<L>(w.add(r * stride + k)), x, *sum);
            }
            for _ in 0..(R * L::N).div_ceil(line_elements) {
                L::prefetch::<false>(line.wrapping_add(SOON_BYTES));
                L::prefetch::<true>(line.wrapping_add(LATER_BYTES));
                line = line.wrapping_add(64);
            }
            k += L::N;
        }
        sums.map(|sum| L::sum(sum))
    }
}

/// `y[t * rows + r] = sum_k w[r * stride + k] * x[t * stride + k]` for every weight row `r` and token row `t`: bitwise
/// what [`gemv`] gives for each token row. `R` by `T` is the register tile.
///
/// # Safety
/// As for [`Lanes`]. `stride` is whole registers, `w` has `rows` rows, `x` has `y.len() / rows`, and `scratch` is as
/// long as `w`.
#[inline(always)]
pub(super) unsafe fn gemm<L: Lanes, W: Element, const R: usize, const T: usize>(
    w: &[W],
    stride: usize,
    scratch: &mut [f32],
    x: &[f32],
    y: &mut [f32],
) {
    let (rows, tokens) = (w.len() / stride, x.len() / stride);
    let (w, x, y) = {
        // SAFETY: the lengths are as the caller promises.
        let wide = unsafe { W::widened::<L>(w, scratch) };
        (wide.as_ptr(), x.as_ptr(), y.as_mut_ptr())
    };
    let (tile_rows, tile_tokens) = (rows - rows % R, tokens - tokens % T);
    // SAFETY: every tile lies inside `rows` and `tokens`.
    unsafe {
        for t in (0..tile_tokens).step_by(T) {
            for r in (0..tile_rows).step_by(R) {
                tile::<L, R, T>(w.add(r * stride), x.add(t * stride), stride, y.add(t * rows + r), rows);
            }
            for r in tile_rows..rows {
                tile::<L, 1, T>(w.add(r * stride), x.add(t * stride), stride, y.add(t * rows + r), rows);
            }
        }
        for t in tile_tokens..tokens {
            for r in (0..tile_rows).step_by(R) {
                tile::<L, R, 1>(w.add(r * stride), x.add(t * stride), stride, y.add(t * rows + r), rows);
            }
            for r in tile_rows..rows {
                tile::<L, 1, 1>(w.add(r * stride), x.add(t * stride), stride, y.add(t * rows + r), rows);
            }
        }
    }
}

/// `R` weight rows times `T` token rows; `y` has `rows` elements from one token to the next.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const T: usize>(
    w: *const f32,
    x: *const f32,
    stride: usize,
    y: *mut f32,
    rows: usize,
) {
    // SAFETY: `R` rows at `w`, `T` rows at `x` and the outputs lie inside their slices.
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
        for (t, sums) in sums.into_iter().enumerate() {
            y.add(t * rows).cast::<[f32; R]>().write(sums.map(|sum| L::sum(sum)));
        }
    }
}

/// Weight rows in flight: enough independent sums to hide an FMA's latency.
const GEMV_ROWS: usize = 4;

/// How far ahead weights are asked for into the first-level cache, and near it.
const SOON_BYTES: usize = 1536;
const LATER_BYTES: usize = 6144;

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
