//! The kernels, compiled for each instruction set, and the choice among them when the program runs.

use syn1_model::plan::{GROUP, WeightFormat};
use syn1_model::spec::Activation;

use super::attend::Score;
use super::digits::DigitProducts;
use super::dot::{Element, Half, Int4, Int8, Single, Stored};
use super::{attend, bandwidth, dot, lanes, math};

/// The kernels for one instruction set. One that the CPU lacks can't be had.
pub(super) struct Kernels {
    /// The instruction set's name.
    pub(super) name: &'static str,
    /// In the order of [`WeightFormat::ALL`].
    products: [Products; WeightFormat::ALL.len()],
    /// Int8 and int4 products that are taken instead, where the CPU has instructions for them.
    digits: Option<[&'static DigitProducts; 2]>,
    half: Attend<u16>,
    single: Attend<f32>,
    narrow: unsafe fn(&[f32], &mut [u16]),
    activate: unsafe fn(&mut [f32], Activation),
    soft_cap: unsafe fn(&mut [f32], f32),
    /// In the order of [`Sum`].
    sums: [unsafe fn(&[f32]) -> f32; 3],
}

/// How [`Kernels::sum`] reads memory.
#[derive(Clone, Copy)]
pub(super) enum Sum {
    /// From the first byte to the last.
    InOrder,
    /// Four quarters side by side.
    FourStreams,
    /// In order, with prefetches.
    Prefetched,
}

/// The kernels over weights of one format, as in `dot.rs`.
struct Products {
    gemv: unsafe fn(&[u8], &[f32], &mut [f32]),
    gemm: Gemm,
    read: unsafe fn(&[u8], usize, &mut [f32]),
}

type Gemm = unsafe fn(&[u8], usize, &mut [f32], &[f32], &mut [f32]);

/// The kernel over KV caches of one element type, as in `attend.rs`.
pub(super) type Attend<W> = unsafe fn(&[f32], &[W], &[W], Score, &mut [f32], &mut [f32]);

/// An element that the kernels are compiled for.
pub(super) trait Compiled: Element {
    /// Its part of `kernels`.
    fn of(kernels: &Kernels) -> Attend<Self>;

    /// Stores the nearest elements of as many values.
    fn put(kernels: &Kernels, values: &[f32], to: &mut [Self]);
}

impl Compiled for f32 {
    fn of(kernels: &Kernels) -> Attend<Self> {
        kernels.single
    }

    fn put(_: &Kernels, values: &[f32], to: &mut [Self]) {
        to.copy_from_slice(values);
    }
}

impl Compiled for u16 {
    fn of(kernels: &Kernels) -> Attend<Self> {
        kernels.half
    }

    fn put(kernels: &Kernels, values: &[f32], to: &mut [Self]) {
        assert_eq!(values.len(), to.len());
        // SAFETY: the CPU can run this table, and the lengths are as `dot::narrow` wants them.
        unsafe { (kernels.narrow)(values, to) }
    }
}

impl Kernels {
    /// The fastest that this CPU can run.
    pub(super) fn best() -> &'static Self {
        Self::usable().next().unwrap_or(&portable::KERNELS)
    }

    /// All that this CPU can run, the fastest first.
    pub(super) fn usable() -> impl Iterator<Item = &'static Self> {
        #[cfg(target_arch = "x86_64")]
        {
            // Without VL, halves of the upper sixteen registers can't be named and the tile spills.
            let has_avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            let vnni = (has_avx512 && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni"))
                .then_some(&VNNI);
            let avx512 = has_avx512.then_some(&avx512::KERNELS);
            let avx2 = (is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c"))
            .then_some(&avx2::KERNELS);
            vnni.into_iter().chain(avx512).chain(avx2).chain([&portable::KERNELS])
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            std::iter::once(&portable::KERNELS)
        }
    }

    /// The products of this format whose inputs are cut into digits first, where that is faster.
    pub(super) fn digits(&self, format: WeightFormat) -> Option<&'static DigitProducts> {
        let [int8, int4] = self.digits?;
        match format {
            WeightFormat::F32 | WeightFormat::F16 => None,
            WeightFormat::Int8 => Some(int8),
            WeightFormat::Int4 => Some(int4),
        }
    }

    /// `y[r] = w[r] . x` for `y.len()` rows of `x.len()` elements (whole groups).
    pub(super) fn gemv(&self, format: WeightFormat, w: &[u8], x: &[f32], y: &mut [f32]) {
        assert!(x.len().is_multiple_of(GROUP) && w.len() == format.row_bytes(x.len()) * y.len());
        // SAFETY: the CPU can run this table (see `usable`), and the lengths are as `dot::gemv` wants them.
        unsafe { (self.products[format as usize].gemv)(w, x, y) }
    }

    /// `y[t * rows + r] = w[r] . x[t]` for rows of `stride` elements (whole groups); `scratch` has as many rows as `w`.
    pub(super) fn gemm(
        &self,
        format: WeightFormat,
        w: &[u8],
        stride: usize,
        scratch: &mut [f32],
        x: &[f32],
        y: &mut [f32],
    ) {
        assert!(stride > 0 && stride.is_multiple_of(GROUP));
        assert!(scratch.len().is_multiple_of(stride) && x.len().is_multiple_of(stride));
        let rows = scratch.len() / stride;
        assert!(w.len() == rows * format.row_bytes(stride) && y.len() == rows * (x.len() / stride));
        assert!(w.as_ptr().cast::<f32>().is_aligned());
        // SAFETY: as in `gemv`, for `dot::gemm`.
        unsafe { (self.products[format as usize].gemm)(w, stride, scratch, x, y) }
    }

    /// `out = softmax(score(q k^T)) v` over `scores.len()` rows of `q.len()` elements (whole groups).
    pub(super) fn attend<W: Compiled>(
        &self,
        q: &[f32],
        (k, v): (&[W], &[W]),
        score: Score,
        scores: &mut [f32],
        out: &mut [f32],
    ) {
        let elements = q.len() * scores.len();
        assert!(q.len().is_multiple_of(GROUP) && !scores.is_empty() && k.len() == elements && v.len() == elements);
        // SAFETY: as in `gemv`, for `attend::attend`.
        unsafe { W::of(self)(q, k, v, score, scores, out) }
    }

    /// Widens rows of `stride` elements (whole groups).
    pub(super) fn read(&self, format: WeightFormat, w: &[u8], stride: usize, out: &mut [f32]) {
        assert!(stride > 0 && stride.is_multiple_of(GROUP) && out.len().is_multiple_of(stride));
        assert!(w.len() == out.len() / stride * format.row_bytes(stride));
        // SAFETY: as in `gemv`, for `dot::read`.
        unsafe { (self.products[format as usize].read)(w, stride, out) }
    }

    /// Applies the activation to every value.
    pub(super) fn activate(&self, values: &mut [f32], activation: Activation) {
        // SAFETY: the CPU can run this table.
        unsafe { (self.activate)(values, activation) }
    }

    /// `cap * tanh(x / cap)` for every value.
    pub(super) fn soft_cap(&self, values: &mut [f32], cap: f32) {
        // SAFETY: the CPU can run this table.
        unsafe { (self.soft_cap)(values, cap) }
    }

    /// The sum of whole groups of 256 values, for `read_bandwidth`.
    pub(super) fn sum(&self, form: Sum, values: &[f32]) -> f32 {
        // SAFETY: the CPU can run this table.
        unsafe { (self.sums[form as usize])(values) }
    }
}

/// Compiles every kernel for one instruction set, with a tile of `$r` weight rows by `$t` token rows, and for one token row
/// `$f32`, `$f16`, `$int8` and `$int4` rows of such weights side by side.
macro_rules! compile {
    (
        $module:ident: $name:literal, $lanes:ident, $r:literal by $t:literal,
        [$f32:literal, $f16:literal, $int8:literal, $int4:literal] $(, $features:literal)?
    ) => {
        mod $module {
            use super::*;
            use super::lanes::$lanes as L;

            pub(super) static KERNELS: Kernels = TABLE;

            pub(super) const TABLE: Kernels = Kernels {
                name: $name,
                products: [
                    products::<Single, $f32>(),
                    products::<Half, $f16>(),
                    products::<Int8, $int8>(),
                    products::<Int4, $int4>(),
                ],
                digits: None,
                half: attend::<u16>,
                single: attend::<f32>,
                narrow,
                activate,
                soft_cap,
                sums: SUMS,
            };

            const SUMS: [unsafe fn(&[f32]) -> f32; 3] = [sum::<1, 0>, sum::<4, 0>, sum::<1, 1536>];

            const fn products<S: Stored, const R: usize>() -> Products {
                Products { gemv: gemv::<S, R>, gemm: gemm::<S>, read: read::<S> }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn gemv<S: Stored, const R: usize>(w: &[u8], x: &[f32], y: &mut [f32]) {
                // SAFETY: the caller has the instructions and the lengths.
                unsafe { dot::gemv::<L, S, R>(w, x, y) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn gemm<S: Stored>(w: &[u8], stride: usize, scratch: &mut [f32], x: &[f32], y: &mut [f32]) {
                // SAFETY: the caller has the instructions and the lengths.
                unsafe { dot::gemm::<L, S, $r, $t>(w, stride, scratch, x, y) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn attend<W: Element>(
                q: &[f32],
                k: &[W],
                v: &[W],
                score: Score,
                scores: &mut [f32],
                out: &mut [f32],
            ) {
                // SAFETY: the caller has the instructions and the lengths.
                unsafe { attend::attend::<L, W>(q, k, v, score, scores, out) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn read<S: Stored>(w: &[u8], stride: usize, out: &mut [f32]) {
                // SAFETY: the caller has the instructions and the lengths.
                unsafe { dot::read::<L, S>(w, stride, out) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn narrow(values: &[f32], to: &mut [u16]) {
                // SAFETY: the caller has the instructions and the lengths.
                unsafe { dot::narrow::<L>(values, to) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn activate(values: &mut [f32], activation: Activation) {
                math::activate(values, activation);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn soft_cap(values: &mut [f32], cap: f32) {
                math::soft_cap(values, cap);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn sum<const STREAMS: usize, const AHEAD: usize>(values: &[f32]) -> f32 {
                // SAFETY: the caller has the instructions.
                unsafe { bandwidth::sum::<L, STREAMS, AHEAD>(values) }
            }
        }
    };
}

compile!(portable: "portable", Portable, 4 by 2, [4, 4, 4, 4]);
#[cfg(target_arch = "x86_64")]
compile!(avx2: "AVX2", Avx2, 4 by 2, [2, 2, 4, 4], "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
compile!(avx512: "AVX-512", Avx512, 4 by 6, [2, 2, 4, 4], "avx512f,avx512vl,avx512dq");

#[cfg(target_arch = "x86_64")]
const DIGITS: [&DigitProducts; 2] = [&super::digits::INT8, &super::digits::INT4];

/// AVX-512 with VNNI.
#[cfg(target_arch = "x86_64")]
static VNNI: Kernels = Kernels { name: "AVX-512 VNNI", digits: Some(DIGITS), ..avx512::TABLE };

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use syn1_model::PieceBytes;

    use super::super::digits::{self, Digits, Turned};
    use super::*;

    /// Values of about one, without a pattern.
    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn elements<W: Compiled>(count: usize, seed: u32) -> Vec<W> {
        values(count, seed).into_iter().map(W::nearest).collect()
    }

    fn plain<W: Compiled>(elements: &[W]) -> Vec<f64> {
        let mut wide = vec![0.0; elements.len()];
        portable::KERNELS.read(<W::Row as Stored>::FORMAT, bytemuck::cast_slice(elements), GROUP, &mut wide);
        wide.into_iter().map(f64::from).collect()
    }

    /// Rows of any weights, in memory that is aligned as a piece's is, and what they stand for.
    fn rows(format: WeightFormat, rows: usize, stride: usize, seed: u32) -> (PieceBytes, Vec<f32>) {
        let row_bytes = format.row_bytes(stride);
        let mut bytes = vec![0; rows * row_bytes];
        let half = |value: f32| half::f16::from_f32(value);
        let mut wide = Vec::new();
        for (row, bytes) in bytes.chunks_mut(row_bytes).enumerate() {
            let drawn = values(stride + stride / GROUP, seed + row as u32);
            let (steps, lines) = drawn.split_at(stride);
            for (k, value) in steps.iter().enumerate() {
                let line = lines[k / GROUP];
                let (scale, low) = (half(line / 64.0), half(line));
                wide.push(match format {
                    WeightFormat::F32 => {
                        bytes[4 * k..][..4].copy_from_slice(&value.to_le_bytes());
                        *value
                    }
                    WeightFormat::F16 => {
                        bytes[2 * k..][..2].copy_from_slice(&half(*value).to_le_bytes());
                        half(*value).to_f32()
                    }
                    WeightFormat::Int8 => {
                        let step = (value * 127.0) as i8;
                        bytes[k] = step as u8;
                        bytes[stride + 2 * (k / GROUP)..][..2].copy_from_slice(&scale.to_le_bytes());
                        f32::from(step) * scale.to_f32()
                    }
                    WeightFormat::Int4 => {
                        let step = ((value + 1.0) * 8.0) as u8;
                        bytes[k / 8 * 4 + k % 4] |= if k % 8 < 4 { step } else { step << 4 };
                        let at = stride / 2 + 4 * (k / GROUP);
                        bytes[at..][..2].copy_from_slice(&scale.to_le_bytes());
                        bytes[at + 2..][..2].copy_from_slice(&low.to_le_bytes());
                        f32::from(step) * scale.to_f32() + low.to_f32()
                    }
                });
            }
        }
        (PieceBytes::copy_of(&bytes), wide)
    }

    /// One token row times the weights, in the way of a step.
    fn one(kernels: &Kernels, format: WeightFormat, w: &[u8], x: &[f32]) -> Vec<f32> {
        let mut y = vec![f32::NAN; w.len() / format.row_bytes(x.len())];
        if let Some(digits) = kernels.digits(format) {
            digits.gemv(w, x.len(), &cut(digits, x, x.len()), &mut y);
        } else {
            kernels.gemv(format, w, x, &mut y);
        }
        y
    }

    /// As [`one`], of several token rows of `stride` elements.
    fn many(kernels: &Kernels, format: WeightFormat, w: &[u8], stride: usize, x: &[f32]) -> Vec<f32> {
        let rows = w.len() / format.row_bytes(stride);
        let mut y = vec![f32::NAN; rows * (x.len() / stride)];
        if let Some(digits) = kernels.digits(format) {
            let mut panel = vec![Turned::zeroed(); rows * digits::lines(stride)];
            digits.gemm(w, stride, &mut panel, &cut(digits, x, stride), &mut y);
        } else {
            kernels.gemm(format, w, stride, &mut vec![0.0; rows * stride], x, &mut y);
        }
        y
    }

    fn cut(digits: &DigitProducts, x: &[f32], stride: usize) -> Vec<Digits> {
        let lines = digits::lines(stride);
        // Of any bytes: a row is cut over one that was there before.
        let mut row = vec![Digits::zeroed(); x.len() / stride * lines];
        bytemuck::cast_slice_mut::<_, u8>(&mut row).fill(0xa5);
        x.chunks(stride).zip(row.chunks_mut(lines)).for_each(|(x, row)| digits.cut(x, row));
        row
    }

    fn close(got: f32, want: f64, name: &str) {
        assert!((f64::from(got) - want).abs() < 1e-5 * (1.0 + want.abs()), "{name}: {got}, want {want}");
    }

    #[test]
    fn rows_are_read_as_their_format_says() {
        for (format, stride) in WeightFormat::ALL.into_iter().flat_map(|f| [32, 96, 288, 416].map(|stride| (f, stride)))
        {
            let (w, wide) = rows(format, 3, stride, 5);
            for kernels in Kernels::usable() {
                let mut got = vec![f32::NAN; wide.len()];
                kernels.read(format, w.as_slice(), stride, &mut got);
                assert_eq!(got, wide, "{format} {} {stride}", kernels.name);
            }
        }
    }

    #[test]
    fn elements_that_are_put_are_the_nearest_ones_whatever_their_number() {
        let mut given = values(301, 8);
        given.iter_mut().step_by(3).for_each(|value| *value *= 1e-6);
        given[..6].copy_from_slice(&[65_519.0, -65_520.0, f32::INFINITY, f32::NEG_INFINITY, 6e-8, -0.0]);
        for count in [0, 1, 8, 33, 301] {
            let want: Vec<u16> = given[..count].iter().map(|value| u16::nearest(*value)).collect();
            for kernels in Kernels::usable() {
                let mut got = vec![0; count];
                u16::put(kernels, &given[..count], &mut got);
                assert_eq!(got, want, "{}", kernels.name);
                let mut nan = [0; 16];
                u16::put(kernels, &[f32::NAN; 16], &mut nan);
                assert!(nan.iter().all(|bits| half::f16::from_bits(*bits).is_nan()), "{}", kernels.name);
            }
        }
    }

    #[test]
    fn products_equal_plain_sums_in_every_format() {
        // Widths of less than a line of groups, of whole ones, and of some and a part.
        let shapes = [(1, 32), (3, 96), (4, 32), (9, 160), (5, 256), (6, 288), (11, 416), (5, 800)];
        for (format, (count, stride)) in WeightFormat::ALL.into_iter().flat_map(|f| shapes.map(|shape| (f, shape))) {
            let ((w, wide), x) = (rows(format, count, stride, 1), values(stride, 2));
            for kernels in Kernels::usable() {
                let y = one(kernels, format, w.as_slice(), &x);
                assert_eq!(y.len(), count);
                for (row, y) in wide.chunks(stride).zip(y) {
                    let sum = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                    close(y, sum, kernels.name);
                }
            }
        }
    }

    #[test]
    fn many_tokens_give_the_bits_of_one_in_every_format() {
        for (format, (count, stride, tokens)) in WeightFormat::ALL.into_iter().flat_map(|f| {
            [
                (1, 32, 2),
                (4, 32, 6),
                (7, 96, 13),
                (32, 160, 5),
                (6, 288, 3),
                (9, 64, 10),
                (5, 96, 17),
                (5, 800, 9),
                (7, 512, 8),
            ]
            .map(|shape| (f, shape))
        }) {
            let ((w, _), x) = (rows(format, count, stride, 3), values(tokens * stride, 4));
            let w = w.as_slice();
            for kernels in Kernels::usable() {
                let tile = many(kernels, format, w, stride, &x);
                assert_eq!(tile.len(), count * tokens);
                for (x, tile) in x.chunks(stride).zip(tile.chunks(count)) {
                    let alone = one(kernels, format, w, x);
                    assert_eq!(alone, tile, "{format} {} {count} x {stride} x {tokens}", kernels.name);
                    assert_eq!(one(kernels, format, &w[..format.row_bytes(stride)], x)[0], tile[0]);
                }
            }
        }
    }

    fn attention_equals_its_formula<W: Compiled>() {
        for (stride, width, positions) in [(32, 16, 1), (32, 9, 5), (96, 80, 33), (64, 64, 7), (160, 140, 20)] {
            let mut q = values(stride, 5);
            q[width..].fill(0.0);
            let (k, v) = (elements::<W>(positions * stride, 6), elements::<W>(positions * stride, 7));
            let (wide_k, wide_v) = (plain(&k), plain(&v));
            let dot = |row: &[f64]| row.iter().zip(&q).map(|(k, q)| k * f64::from(*q)).sum::<f64>();
            for cap in [None, Some(0.7f32)] {
                let capped = |score: f64| cap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh());
                let weights: Vec<f64> = wide_k.chunks(stride).map(|row| capped(0.3 * dot(row)).exp()).collect();
                let total: f64 = weights.iter().sum();
                for kernels in Kernels::usable() {
                    let (score, mut out) = (Score { scale: 0.3, cap }, vec![f32::NAN; width]);
                    kernels.attend(&q, (&k, &v), score, &mut vec![0.0; positions], &mut out);
                    for (column, &out) in out.iter().enumerate() {
                        let sum: f64 = (0..positions).map(|p| weights[p] * wide_v[p * stride + column]).sum();
                        close(out, sum / total, kernels.name);
                    }
                }
            }
        }
    }

    #[test]
    fn attention_equals_its_formula_in_both_formats() {
        attention_equals_its_formula::<f32>();
        attention_equals_its_formula::<u16>();
    }

    #[test]
    fn soft_caps_have_the_same_bits_on_every_instruction_set() {
        let x: Vec<f32> = values(1003, 9).into_iter().map(|x| x * 90.0).collect();
        let mut want = x.clone();
        math::soft_cap(&mut want, 30.0);
        for kernels in Kernels::usable() {
            let mut got = x.clone();
            kernels.soft_cap(&mut got, 30.0);
            assert_eq!(got, want, "{}", kernels.name);
        }
    }

    #[test]
    fn activations_have_the_same_bits_on_every_instruction_set() {
        for activation in [Activation::GeluTanh, Activation::Silu] {
            let mut want = values(1003, 8);
            want.iter_mut().for_each(|x| *x *= 9.0);
            let x = want.clone();
            math::activate(&mut want, activation);
            for kernels in Kernels::usable() {
                let mut got = x.clone();
                kernels.activate(&mut got, activation);
                assert_eq!(got, want, "{}", kernels.name);
            }
        }
    }
}
