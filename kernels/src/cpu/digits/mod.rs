//! Products of int8 and int4 rows with inputs in three digits of a byte, for CPUs that multiply four bytes at a time and
//! add them up in 32 bits (VNNI).
//!
//! The inputs of a group count in one power of two, its unit: integers of 24 bits, so the largest keeps all its bits and
//! the others lose less than 2^-22 of it, as they would in a sum with it. A line is [`LINE`] inputs, eight groups; each
//! of its sixteen sums has half of a group, exactly:
//!
//! ```text
//! high = sum of step * top          low = sum of step * (256 * middle + lowest)
//! sum += (65536 * high + low) * (scale * unit)
//! sum += total * low_of_group                          int4: `total` is the sum of the half group's inputs
//! ```
//!
//! Integers have the same sum in any order. So one token row and many have the same bits although they are computed in
//! different ways: [`DigitProducts::gemv`] turns weights in registers, straight from memory, [`DigitProducts::gemm`] turns
//! a panel of them for many token rows.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // No other CPU has such kernels so far.

use syn1_model::plan::{GROUP, WeightFormat};

#[cfg(target_arch = "x86_64")]
mod vnni;

#[cfg(target_arch = "x86_64")]
pub(super) use vnni::{INT4, INT8};

/// A line of a token row, cut into digits and turned: byte `8 * place(group) + k % 8` of register `k / 8` is input `k` of a
/// group. So a lane of 32 bits meets one group alone in all four registers.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Digits {
    /// Signed.
    top: [[u8; 64]; 4],
    middle: [[u8; 64]; 4],
    lowest: [[u8; 64]; 4],
    /// What `high` begins with in each lane: bytes are multiplied unsigned by signed, so `top` meets int8 steps raised by
    /// 128.
    start: [i32; 16],
    /// The unit of each lane's group; NaN where an input is not finite.
    unit: [f32; 16],
    /// The sum of each lane's inputs.
    total: [f32; 16],
}

/// A line of a weight row, turned as [`Digits`].
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Turned {
    steps: [[u8; 64]; 4],
    /// The scale of each lane's group.
    scales: [f32; 16],
    /// The low of each lane's group.
    lows: [f32; 16],
}

/// Inputs of a line.
pub(super) const LINE: usize = 256;

/// Lines of a row.
pub(super) fn lines(stride: usize) -> usize {
    stride.div_ceil(LINE)
}

/// The kernels over weights of one format, for a CPU that can run them.
pub(super) struct DigitProducts {
    format: WeightFormat,
    cut: unsafe fn(&[f32], &mut [Digits]),
    gemv: unsafe fn(&[u8], usize, &[Digits], &mut [f32]),
    gemm: Gemm,
}

type Gemm = unsafe fn(&[u8], usize, &mut [Turned], &[Digits], &mut [f32]);

impl DigitProducts {
    /// Cuts a row of whole groups.
    pub(super) fn cut(&self, x: &[f32], digits: &mut [Digits]) {
        assert!(x.len().is_multiple_of(GROUP) && digits.len() == lines(x.len()));
        // SAFETY: the CPU can run these kernels, and the lengths are as `vnni::cut` wants them.
        unsafe { (self.cut)(x, digits) }
    }

    /// `y[r] = w[r] . x` for `y.len()` rows of `stride` elements (whole groups).
    pub(super) fn gemv(&self, w: &[u8], stride: usize, x: &[Digits], y: &mut [f32]) {
        assert!(stride > 0 && stride.is_multiple_of(GROUP) && x.len() == lines(stride));
        assert!(w.len() == self.format.row_bytes(stride) * y.len());
        // SAFETY: as in `cut`, for `vnni::gemv`.
        unsafe { (self.gemv)(w, stride, x, y) }
    }

    /// `y[t * rows + r] = w[r] . x[t]` for rows of `stride` elements (whole groups), bitwise as
    /// [`Self::gemv`]; `panel` has room for as many rows as `w` has.
    pub(super) fn gemm(&self, w: &[u8], stride: usize, panel: &mut [Turned], x: &[Digits], y: &mut [f32]) {
        assert!(stride > 0 && stride.is_multiple_of(GROUP));
        assert!(panel.len().is_multiple_of(lines(stride)) && x.len().is_multiple_of(lines(stride)));
        let (rows, tokens) = (panel.len() / lines(stride), x.len() / lines(stride));
        assert!(w.len() == rows * self.format.row_bytes(stride) && y.len() == rows * tokens);
        // SAFETY: as in `cut`, for `vnni::gemm`.
        unsafe { (self.gemm)(w, stride, panel, x, y) }
    }
}

/// Where a group of a line stands in a register, as it is cheapest to turn.
const fn place(group: usize) -> usize {
    [0, 2, 4, 6, 1, 3, 5, 7][group]
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use half::f16;

    use super::super::kernels::Kernels;
    use super::*;

    /// The kernels, unless this CPU has none.
    fn products(format: WeightFormat) -> Option<&'static DigitProducts> {
        let found = Kernels::usable().find_map(|kernels| kernels.digits(format));
        if found.is_none() {
            eprintln!("skipped: this CPU has no kernels that multiply digits");
        }
        found
    }

    /// A row in packed form.
    struct Row {
        bytes: Vec<u8>,
        steps: Vec<i64>,
        scales: Vec<f32>,
        lows: Vec<f32>,
    }

    /// A row whose steps are taken from bytes.
    fn row(format: WeightFormat, stride: usize, byte: impl Fn(usize) -> u8) -> Row {
        let mut bytes = vec![0; format.row_bytes(stride)];
        let int4 = format == WeightFormat::Int4;
        let step = |k| {
            if int4 { i64::from(byte(k) & 15) } else { i64::from(byte(k) as i8) }
        };
        let half = |value: f32| f16::from_f32(value);
        let scales: Vec<_> = (0..stride / GROUP).map(|group| half(0.013 * (group + 1) as f32)).collect();
        let lows: Vec<_> = (0..stride / GROUP).map(|group| half(0.07 - 0.02 * group as f32)).collect();
        for k in 0..stride {
            if int4 {
                bytes[k / 8 * 4 + k % 4] |= if k % 8 < 4 { byte(k) & 15 } else { byte(k) << 4 };
            } else {
                bytes[k] = byte(k);
            }
        }
        for (group, (scale, low)) in scales.iter().zip(&lows).enumerate() {
            if int4 {
                bytes[stride / 2 + 4 * group..][..2].copy_from_slice(&scale.to_le_bytes());
                bytes[stride / 2 + 4 * group + 2..][..2].copy_from_slice(&low.to_le_bytes());
            } else {
                bytes[stride + 2 * group..][..2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        let wide = |halves: Vec<f16>| halves.into_iter().map(f16::to_f32).collect();
        let lows = if int4 { wide(lows) } else { vec![0.0; stride / GROUP] };
        Row { bytes, steps: (0..stride).map(step).collect(), scales: wide(scales), lows }
    }

    fn gemv(products: &DigitProducts, w: &[u8], x: &[f32]) -> f32 {
        let (mut digits, mut y) = (vec![Digits::zeroed(); lines(x.len())], [f32::NAN]);
        products.cut(x, &mut digits);
        products.gemv(w, x.len(), &digits, &mut y);
        y[0]
    }

    /// Inputs of all sizes: groups far larger than others, and within a group, too; one of zeros, one next to nothing.
    fn inputs(stride: usize) -> Vec<f32> {
        let wave = |k: usize| (k as f32 * 0.731).sin() * [1.0, 300.0, 1e-3, 0.02][k % 4];
        let size = |group: usize| [1.0, 1e4, 0.0, 1e-6, 1e-38, 3.7][group % 6];
        (0..stride).map(|k| wave(k) * size(k / GROUP)).collect()
    }

    /// The unit of a group, by its definition.
    fn unit(group: &[f32]) -> f64 {
        let largest = group.iter().fold(0.0f64, |most, x| most.max(f64::from(x.abs())));
        2.0f64.powi(if largest < 2.0f64.powi(-100) { -100 } else { largest.log2().floor() as i32 } - 22)
    }

    fn counts(group: &[f32]) -> Vec<i64> {
        let unit = unit(group);
        group.iter().map(|x| ((f64::from(*x) / unit).round_ties_even() as i64).min((1 << 23) - 1)).collect()
    }

    /// A dot product as the module says it, in plain steps.
    fn plain(row: &Row, x: &[f32]) -> f32 {
        let mut sums = [0.0f32; 16];
        for (group, of_group) in x.chunks(GROUP).enumerate() {
            let (x, steps, unit) = (counts(of_group), &row.steps[group * GROUP..], unit(of_group) as f32);
            for half in 0..2 {
                let of_half = || (0..GROUP).filter(|k| k % 8 / 4 == half);
                let high: i64 = of_half().map(|k| steps[k] * (x[k] >> 16)).sum();
                let low: i64 = of_half().map(|k| steps[k] * (x[k] & 0xffff)).sum();
                let total: i64 = of_half().map(|k| x[k]).sum();
                let counts = (high as f32).mul_add(65_536.0, low as f32);
                let sum = &mut sums[2 * place(group % 8) + half];
                *sum = counts.mul_add(row.scales[group] * unit, *sum);
                *sum = (total as f32 * unit).mul_add(row.lows[group], *sum);
            }
        }
        let eights: [f32; 8] = std::array::from_fn(|i| sums[i] + sums[i + 8]);
        let fours: [f32; 4] = std::array::from_fn(|i| eights[i] + eights[i + 4]);
        (fours[0] + fours[2]) + (fours[1] + fours[3])
    }

    #[test]
    fn products_have_the_bits_of_their_definition_also_with_the_largest_steps_and_inputs() {
        for format in [WeightFormat::Int8, WeightFormat::Int4] {
            let Some(products) = products(format) else {
                return;
            };
            for stride in [32, 64, 96, 224, 256, 288, 768, 1120] {
                let ordinary = inputs(stride);
                let largest = vec![f32::from_bits(2.0f32.to_bits() - 1); stride];
                let least: Vec<_> = largest.iter().map(|x| -x).collect();
                for x in [&ordinary, &largest, &least] {
                    for byte in [|k: usize| (k * 89 % 256) as u8, |_| 0x80, |_| 0x7f, |k| [0x80, 0x7f][k % 2]] {
                        let row = row(format, stride, byte);
                        let (got, want) = (gemv(products, &row.bytes, x), plain(&row, x));
                        assert_eq!(got.to_bits(), want.to_bits(), "{format} {stride}: {got}, not {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn digits_are_the_inputs_within_half_a_unit() {
        let Some(products) = products(WeightFormat::Int8) else {
            return;
        };
        let x = inputs(800);
        let mut cut = vec![Digits::zeroed(); lines(800)];
        products.cut(&x, &mut cut);
        for (group, of_group) in x.chunks(GROUP).enumerate() {
            let (line, unit) = (&cut[group / 8], unit(of_group));
            let want = counts(of_group);
            for (k, x) in of_group.iter().enumerate() {
                let at = 8 * place(group % 8) + k % 8;
                let digit = |of: &[[u8; 64]; 4]| i64::from(of[k / 8][at]);
                let count =
                    65_536 * i64::from(digit(&line.top) as i8) + 256 * digit(&line.middle) + digit(&line.lowest);
                assert_eq!(count, want[k], "group {group}, input {k}");
                // The largest, rounded up, would be one more than three digits hold.
                let most = if count == (1 << 23) - 1 { unit } else { unit / 2.0 };
                assert!((count as f64 * unit - f64::from(*x)).abs() <= most, "group {group}, input {k}: {x}");
                assert_eq!(f64::from(line.unit[at / 4]), unit);
            }
            for half in 0..2 {
                let total: i64 = (0..GROUP).filter(|k| k % 8 / 4 == half).map(|k| want[k]).sum();
                assert_eq!(line.total[2 * place(group % 8) + half], total as f32 * unit as f32);
            }
        }
    }

    #[test]
    fn an_input_that_is_not_finite_gives_nan_whatever_its_weight() {
        let Some(products) = products(WeightFormat::Int8) else {
            return;
        };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 37, 255, 256, 319] {
                let mut x = inputs(320);
                let w = row(WeightFormat::Int8, 320, |_| 0).bytes;
                assert_eq!(gemv(products, &w, &x), 0.0);
                x[at] = bad;
                assert!(gemv(products, &w, &x).is_nan(), "{bad} at {at}");
            }
        }
    }
}
