//! The products for AVX-512 with VNNI.

use std::arch::x86_64::*;

use syn1_model::plan::{GROUP, WeightFormat};

use super::{DigitProducts, Digits, LINE, Turned, lines, place};

/// Of int8 weights.
pub(in super::super) static INT8: DigitProducts = products::<8>(WeightFormat::Int8);

/// Of int4 weights.
pub(in super::super) static INT4: DigitProducts = products::<4>(WeightFormat::Int4);

const fn products<const BITS: usize>(format: WeightFormat) -> DigitProducts {
    DigitProducts { format, cut, gemv: gemv::<BITS>, gemm: gemm::<BITS> }
}

/// # Safety
/// The CPU has the instructions; `x` is whole groups, and `digits` its lines.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn cut(x: &[f32], digits: &mut [Digits]) {
    for (x, line) in x.chunks(LINE).zip(digits) {
        if x.len() < LINE {
            *line = bytemuck::Zeroable::zeroed();
        }
        let group = |index: usize| x.get(index * GROUP..(index + 1) * GROUP);
        // Neighbours in a register.
        for (first, second) in (0..4).map(|group| (group, group + 4)) {
            let (Some(one), pair) = (group(first), group(second)) else {
                continue;
            };
            let (ones, unit) = of_group(one);
            let (others, other_unit) = match pair {
                Some(other) => of_group(other),
                None => ([_mm512_setzero_si512(); 2], _mm512_setzero_ps()),
            };
            let at = 8 * place(first);
            let (mut tops, mut lower) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            for (half, (one, other)) in ones.into_iter().zip(others).enumerate() {
                let registers = [_mm512_unpacklo_epi64(one, other), _mm512_unpackhi_epi64(one, other)];
                for (digits, register) in registers.into_iter().zip(2 * half..) {
                    tops = _mm512_dpbusd_epi32(tops, _mm512_set1_epi8(-128), digits);
                    lower = _mm512_dpbusd_epi32(lower, digits, _mm512_set1_epi8(1));
                    // SAFETY: sixteen bytes from `at` on lie inside a register.
                    unsafe {
                        store(&mut line.lowest[register], at, _mm512_castsi512_si128(digits));
                        store(&mut line.middle[register], at, _mm512_extracti32x4_epi32::<1>(digits));
                        store(&mut line.top[register], at, _mm512_extracti32x4_epi32::<2>(digits));
                    }
                }
            }
            // Bytes are signed here and unsigned there, so of each sum some lanes mean something: those of the top digits,
            // 128 times, and those of the lowest and of the middle ones.
            let tops = _mm512_extracti32x4_epi32::<2>(tops);
            let (lowest, middles) = (_mm512_castsi512_si128(lower), _mm512_extracti32x4_epi32::<1>(lower));
            let total = _mm_add_epi32(_mm_slli_epi32::<9>(tops), _mm_add_epi32(_mm_slli_epi32::<8>(middles), lowest));
            let (unit, other_unit) = (_mm512_castps512_ps128(unit), _mm512_castps512_ps128(other_unit));
            let unit = _mm_shuffle_ps::<0>(unit, other_unit);
            // SAFETY: four lanes from `at / 4` on lie inside the line.
            unsafe {
                let start = _mm_sub_epi32(_mm_setzero_si128(), tops);
                _mm_storeu_si128(line.start.as_mut_ptr().add(at / 4).cast(), start);
                _mm_storeu_ps(line.unit.as_mut_ptr().add(at / 4), unit);
                let total = _mm_mul_ps(_mm_cvtepi32_ps(total), unit);
                _mm_storeu_ps(line.total.as_mut_ptr().add(at / 4), total);
            }
        }
    }
}

/// The digits of a group, of sixteen inputs the lowest, then the middle and the top ones; and its unit, in all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn of_group(x: &[f32]) -> ([__m512i; 2], __m512) {
    debug_assert_eq!(x.len(), GROUP);
    // SAFETY: a group is two registers.
    let halves = unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))] };
    // Of bits, for these order what is not finite, too.
    let [first, second] = halves;
    let most = _mm512_castps_si512(_mm512_abs_ps(first));
    let most = _mm512_max_epi32(most, _mm512_castps_si512(_mm512_abs_ps(second)));
    let most = _mm512_max_epi32(most, _mm512_shuffle_i64x2::<0b01_00_11_10>(most, most));
    let most = _mm512_max_epi32(most, _mm512_shuffle_i64x2::<0b10_11_00_01>(most, most));
    let most = _mm512_max_epi32(most, _mm512_shuffle_epi32::<0b01_00_11_10>(most));
    let most = _mm512_max_epi32(most, _mm512_shuffle_epi32::<0b10_11_00_01>(most));
    let exponent = _mm512_max_epi32(_mm512_srli_epi32::<23>(most), _mm512_set1_epi32(SMALLEST_EXPONENT));
    let finite = _mm512_cmplt_epi32_mask(exponent, _mm512_set1_epi32(255));
    // Two powers of two: inputs from 1 to 2 count 2^22 and more.
    let times = _mm512_slli_epi32::<23>(_mm512_sub_epi32(_mm512_set1_epi32(127 + 127 + 22), exponent));
    let times = _mm512_castsi512_ps(_mm512_maskz_mov_epi32(finite, times));
    let unit = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_sub_epi32(exponent, _mm512_set1_epi32(22))));
    let unit = _mm512_mask_blend_ps(finite, _mm512_set1_ps(f32::NAN), unit);
    // Of four lanes of 32 bits the lowest bytes together, and so on; and then those of all.
    let by_byte = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    let by_digit = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let mut digits = [_mm512_setzero_si512(); 2];
    for (digits, x) in digits.iter_mut().zip(halves) {
        // Rounding up may reach 2^23, which is one too many. What is not finite, times zero, becomes any integer: its
        // group's unit is NaN.
        let count = _mm512_cvtps_epi32(_mm512_mul_ps(x, times));
        let count = _mm512_min_epi32(count, _mm512_set1_epi32((1 << 23) - 1));
        *digits = _mm512_permutexvar_epi32(by_digit, _mm512_shuffle_epi8(count, by_byte));
    }
    (digits, unit)
}

/// Stores sixteen bytes of a register.
///
/// # Safety
/// `at` is at most 48.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn store(to: &mut [u8; 64], at: usize, bytes: __m128i) {
    // SAFETY: the caller's promise is the same.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().add(at).cast(), bytes) }
}

/// # Safety
/// The CPU has the instructions; `w` has `y.len()` rows of `stride` elements, whole groups, and `x` is a row's
/// lines.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn gemv<const BITS: usize>(w: &[u8], stride: usize, x: &[Digits], y: &mut [f32]) {
    let row_bytes = row_bytes::<BITS>(stride);
    let (tiles, rest) = y.as_chunks_mut::<ROWS>();
    let rest_row = tiles.len() * ROWS;
    for (tile, y) in tiles.iter_mut().enumerate() {
        // SAFETY: the rows lie inside `w`, as the caller promises.
        unsafe { dots::<BITS, _>(w.as_ptr().add(tile * ROWS * row_bytes), row_bytes, stride, x, y) };
    }
    for (row, y) in rest.iter_mut().enumerate() {
        // SAFETY: as above.
        unsafe {
            let row = w.as_ptr().add((rest_row + row) * row_bytes);
            dots::<BITS, _>(row, row_bytes, stride, x, std::array::from_mut(y));
        }
    }
}

/// The dot products of `R` consecutive weight rows with `x`.
///
/// # Safety
/// As for [`gemv`]: there are `R` rows at `w`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn dots<const BITS: usize, const R: usize>(
    w: *const u8,
    row_bytes: usize,
    stride: usize,
    x: &[Digits],
    y: &mut [f32; R],
) {
    // As in `dot::dots`: walked side by side, asked for one after the other.
    let step_bytes = (R * row_bytes).div_ceil(x.len());
    let (mut ahead, step_lines) = (w, step_bytes.div_ceil(64));
    let later_bytes = LATER_BYTES + (R - 1) * row_bytes;
    let mut sums = [_mm512_setzero_ps(); R];
    for (line, x) in x.iter().enumerate() {
        let groups = (stride / GROUP - 8 * line).min(8);
        // SAFETY: the line lies inside the rows; prefetches may be of any address.
        unsafe {
            if groups == 8 {
                add_line::<BITS, true, R>(w, row_bytes, stride, line, 8, x, &mut sums);
            } else {
                add_line::<BITS, false, R>(w, row_bytes, stride, line, groups, x, &mut sums);
            }
            for line in 0..step_lines {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(SOON_BYTES + 64 * line).cast());
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(later_bytes + 64 * line).cast());
            }
        }
        ahead = ahead.wrapping_add(step_bytes);
    }
    for (y, sums) in y.iter_mut().zip(sums) {
        *y = _mm512_reduce_add_ps(sums);
    }
}

/// Adds a line of `R` weight rows times `x`.
///
/// # Safety
/// The CPU has the instructions; `R` rows at `w` have this line, of `groups` groups; of eight where it is `WHOLE`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn add_line<const BITS: usize, const WHOLE: bool, const R: usize>(
    w: *const u8,
    row_bytes: usize,
    stride: usize,
    line: usize,
    groups: usize,
    x: &Digits,
    sums: &mut [__m512; R],
) {
    // SAFETY: the line lies inside each row, and a register is 64 bytes.
    unsafe {
        let mut w_of = [[_mm512_setzero_si512(); 4]; R];
        for (r, steps) in w_of.iter_mut().enumerate() {
            *steps = turned::<BITS, WHOLE>(w.add(r * row_bytes), line, groups);
        }
        let start = start::<BITS>(x);
        let (mut high, mut low) = ([start; R], [_mm512_setzero_si512(); R]);
        for (j, middle) in x.middle.iter().enumerate() {
            let middle = load(middle);
            for (low, steps) in low.iter_mut().zip(&w_of) {
                *low = _mm512_dpbusd_epi32(*low, middle, steps[j]);
            }
        }
        for low in &mut low {
            *low = _mm512_slli_epi32::<8>(*low);
        }
        for (j, (lowest, top)) in x.lowest.iter().zip(&x.top).enumerate() {
            let (lowest, top) = (load(lowest), load(top));
            for ((low, high), steps) in low.iter_mut().zip(&mut high).zip(&w_of) {
                *low = _mm512_dpbusd_epi32(*low, lowest, steps[j]);
                *high = _mm512_dpbusd_epi32(*high, raised::<BITS>(steps[j]), top);
            }
        }
        for (r, sum) in sums.iter_mut().enumerate() {
            let (scales, lows) = scales::<BITS, WHOLE>(w.add(r * row_bytes), stride, line, groups);
            *sum = scaled::<BITS>(high[r], low[r], scales, lows, x, *sum);
        }
    }
}

/// What a line adds: what makes up the bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn scaled<const BITS: usize>(
    high: __m512i,
    low: __m512i,
    scales: __m512,
    lows: __m512,
    x: &Digits,
    sum: __m512,
) -> __m512 {
    // SAFETY: a register is sixteen lanes, from a cache line's begin on.
    let (unit, total) = unsafe { (_mm512_load_ps(x.unit.as_ptr()), _mm512_load_ps(x.total.as_ptr())) };
    let counts = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(65_536.0), _mm512_cvtepi32_ps(low));
    let sum = _mm512_fmadd_ps(counts, _mm512_mul_ps(scales, unit), sum);
    if BITS == 4 { _mm512_fmadd_ps(total, lows, sum) } else { sum }
}

/// What `high` begins with: int4 steps need not be raised.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn start<const BITS: usize>(x: &Digits) -> __m512i {
    // SAFETY: a register is sixteen lanes, from a cache line's begin on.
    if BITS == 4 { _mm512_setzero_si512() } else { unsafe { _mm512_load_si512(x.start.as_ptr().cast()) } }
}

fn row_bytes<const BITS: usize>(stride: usize) -> usize {
    const { assert!(BITS == 4 || BITS == 8) };
    if BITS == 4 { WeightFormat::Int4.row_bytes(stride) } else { WeightFormat::Int8.row_bytes(stride) }
}

/// # Safety
/// The CPU has the instructions; `panel` is rows of lines of `stride` elements, whole groups, `w` has as many rows, `x`
/// is token rows of lines, and `y` has a value for each pair.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn gemm<const BITS: usize>(w: &[u8], stride: usize, panel: &mut [Turned], x: &[Digits], y: &mut [f32]) {
    let (row_bytes, lines) = (row_bytes::<BITS>(stride), lines(stride));
    let (rows, tokens) = (panel.len() / lines, x.len() / lines);
    // Where weights meet few token rows, a pair of turned rows stays in the first-level cache; where they meet many,
    // the token rows do.
    let at_once = if tokens <= 2 * TOKENS { ROWS } else { rows };
    for first in (0..rows).step_by(at_once) {
        let count = at_once.min(rows - first);
        let panel = &mut panel[..count * lines];
        for (row, panel) in panel.chunks_exact_mut(lines).enumerate() {
            // SAFETY: the row lies inside `w`.
            unsafe { turn::<BITS>(w.as_ptr().add((first + row) * row_bytes), stride, panel) };
        }
        let (mut t, x, y) = (0, x.as_ptr(), y.as_mut_ptr());
        // SAFETY: the token rows and the outputs lie inside their slices.
        unsafe {
            let at = |t: usize| (x.add(t * lines), y.add(t * rows + first));
            while t + TOKENS <= tokens {
                strip::<BITS, TOKENS>(panel, lines, at(t), rows);
                t += TOKENS;
            }
            if t + 2 <= tokens {
                strip::<BITS, 2>(panel, lines, at(t), rows);
                t += 2;
            }
            if t < tokens {
                strip::<BITS, 1>(panel, lines, at(t), rows);
            }
        }
    }
}

/// Turns a weight row.
///
/// # Safety
/// The CPU has the instructions; there is a row of `stride` elements at `w`, and `to` is its lines.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn turn<const BITS: usize>(w: *const u8, stride: usize, to: &mut [Turned]) {
    for (line, to) in to.iter_mut().enumerate() {
        let groups = (stride / GROUP - 8 * line).min(8);
        // SAFETY: the line lies inside the row, and a register is 64 bytes; prefetches may be of any address.
        unsafe {
            let steps =
                if groups == 8 { turned::<BITS, true>(w, line, 8) } else { turned::<BITS, false>(w, line, groups) };
            for (j, steps) in steps.into_iter().enumerate() {
                _mm512_store_si512(to.steps[j].as_mut_ptr().cast(), steps);
            }
            let (scales, lows) = scales::<BITS, false>(w, stride, line, groups);
            _mm512_store_ps(to.scales.as_mut_ptr(), scales);
            _mm512_store_ps(to.lows.as_mut_ptr(), lows);
            for ahead in 0..row_bytes::<BITS>(LINE).div_ceil(64) {
                let from = w.wrapping_add(LINE * BITS / 8 * line);
                _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(LATER_BYTES + 64 * ahead).cast());
            }
        }
    }
}

/// All weight rows of a panel times `T` token rows; `y` has `rows` elements from one token to the next.
///
/// # Safety
/// The CPU has the instructions; `panel` is whole rows, and there are `T` token rows and their outputs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn strip<const BITS: usize, const T: usize>(
    panel: &[Turned],
    lines: usize,
    (x, y): (*const Digits, *mut f32),
    rows: usize,
) {
    let mut done = 0;
    let mut pairs = panel.chunks_exact(ROWS * lines);
    for pair in &mut pairs {
        // SAFETY: the outputs of these rows lie inside those of all.
        unsafe { tile::<BITS, ROWS, T>(pair, lines, x, y.add(done), rows) };
        done += ROWS;
    }
    for row in pairs.remainder().chunks_exact(lines) {
        // SAFETY: as above.
        unsafe { tile::<BITS, 1, T>(row, lines, x, y.add(done), rows) };
        done += 1;
    }
}

/// `R` turned weight rows times `T` token rows.
///
/// # Safety
/// As for [`strip`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const BITS: usize, const R: usize, const T: usize>(
    w: &[Turned],
    lines: usize,
    x: *const Digits,
    y: *mut f32,
    rows: usize,
) {
    debug_assert_eq!(w.len(), R * lines);
    // SAFETY: there are `R` rows and `T` token rows of as many lines, and a register is 64 bytes.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); R]; T];
        for line in 0..lines {
            let w = w.as_ptr().add(line);
            let x = x.add(line);
            let mut high = [[_mm512_setzero_si512(); R]; T];
            let mut low = [[_mm512_setzero_si512(); R]; T];
            for (t, high) in high.iter_mut().enumerate() {
                *high = [start::<BITS>(&*x.add(t * lines)); R];
            }
            for j in 0..4 {
                for (t, low) in low.iter_mut().enumerate() {
                    let middle = load(&(*x.add(t * lines)).middle[j]);
                    for (r, low) in low.iter_mut().enumerate() {
                        *low = _mm512_dpbusd_epi32(*low, middle, load(&(*w.add(r * lines)).steps[j]));
                    }
                }
            }
            for low in low.as_flattened_mut() {
                *low = _mm512_slli_epi32::<8>(*low);
            }
            for j in 0..4 {
                let mut steps = [_mm512_setzero_si512(); R];
                for (r, steps) in steps.iter_mut().enumerate() {
                    *steps = load(&(*w.add(r * lines)).steps[j]);
                }
                for (t, (low, high)) in low.iter_mut().zip(&mut high).enumerate() {
                    let x = &*x.add(t * lines);
                    let (lowest, top) = (load(&x.lowest[j]), load(&x.top[j]));
                    for ((low, high), steps) in low.iter_mut().zip(high).zip(steps) {
                        *low = _mm512_dpbusd_epi32(*low, lowest, steps);
                        *high = _mm512_dpbusd_epi32(*high, raised::<BITS>(steps), top);
                    }
                }
            }
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = &*x.add(t * lines);
                for (r, sum) in sums.iter_mut().enumerate() {
                    let w = &*w.add(r * lines);
                    let (scales, lows) = (_mm512_load_ps(w.scales.as_ptr()), _mm512_load_ps(w.lows.as_ptr()));
                    *sum = scaled::<BITS>(high[t][r], low[t][r], scales, lows, x, *sum);
                }
            }
        }
        for (t, sums) in sums.into_iter().enumerate() {
            for (r, sum) in sums.into_iter().enumerate() {
                y.add(t * rows + r).write(_mm512_reduce_add_ps(sum));
            }
        }
    }
}

/// Loads a line's steps and turns them: zeros behind its `groups`.
///
/// # Safety
/// The CPU has the instructions, and the row has so many groups in this line; eight where it is `WHOLE`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn turned<const BITS: usize, const WHOLE: bool>(row: *const u8, line: usize, groups: usize) -> [__m512i; 4] {
    let from = row.wrapping_add(LINE * BITS / 8 * line);
    let load = |index: usize| {
        // SAFETY: whole registers lie inside the line, and what is behind its end is not read.
        unsafe {
            let from = from.wrapping_add(64 * index).cast::<__m512i>();
            if WHOLE {
                _mm512_loadu_si512(from)
            } else {
                let eights = (BITS / 2 * groups).saturating_sub(8 * index).min(8);
                _mm512_maskz_loadu_epi64(((1_u32 << eights) - 1) as u8, from.cast())
            }
        }
    };
    if BITS == 4 {
        // Of four bytes the lower halves are four steps of an eight, and the upper halves the other four: each comes twice.
        let (a, b) = (load(0), load(1));
        let (a_low, a_high) = (_mm512_unpacklo_epi32(a, a), _mm512_unpackhi_epi32(a, a));
        let (b_low, b_high) = (_mm512_unpacklo_epi32(b, b), _mm512_unpackhi_epi32(b, b));
        let shifts = _mm512_set1_epi64(4 << 32);
        let own = |both| _mm512_and_si512(_mm512_srlv_epi32(both, shifts), _mm512_set1_epi8(15));
        return [
            own(_mm512_unpacklo_epi64(a_low, b_low)),
            own(_mm512_unpackhi_epi64(a_low, b_low)),
            own(_mm512_unpacklo_epi64(a_high, b_high)),
            own(_mm512_unpackhi_epi64(a_high, b_high)),
        ];
    }
    // Eight bytes are a unit: of each group the first eight into one register, and so on.
    let (a, b, c, d) = (load(0), load(1), load(2), load(3));
    let (even, odd) = (_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c));
    let (later_even, later_odd) = (_mm512_unpacklo_epi64(b, d), _mm512_unpackhi_epi64(b, d));
    [
        _mm512_shuffle_i64x2::<0x88>(even, later_even),
        _mm512_shuffle_i64x2::<0x88>(odd, later_odd),
        _mm512_shuffle_i64x2::<0xdd>(even, later_even),
        _mm512_shuffle_i64x2::<0xdd>(odd, later_odd),
    ]
}

/// Steps as unsigned bytes: int8 ones raised by 128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn raised<const BITS: usize>(steps: __m512i) -> __m512i {
    if BITS == 4 { steps } else { _mm512_xor_si512(steps, _mm512_set1_epi8(-128)) }
}

/// The scale of each lane's group in a line, and its low; zero where there is none.
///
/// # Safety
/// The CPU has the instructions, and the row has `stride` elements and so many groups in this line; eight where it is
/// `WHOLE`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn scales<const BITS: usize, const WHOLE: bool>(
    row: *const u8,
    stride: usize,
    line: usize,
    groups: usize,
) -> (__m512, __m512) {
    let group_of = _mm512_setr_epi32(0, 0, 4, 4, 1, 1, 5, 5, 2, 2, 6, 6, 3, 3, 7, 7);
    let there = if WHOLE { 0xffff } else { _mm512_cmplt_epi32_mask(group_of, _mm512_set1_epi32(groups as i32)) };
    // SAFETY: the scales stand behind the steps; those of int8 are padded to eight, of int4 no others are read.
    unsafe {
        if BITS == 4 {
            let from = row.add(stride / 2 + 32 * line).cast();
            let pairs = if WHOLE {
                _mm256_loadu_si256(from)
            } else {
                _mm256_maskz_loadu_epi32(((1_u32 << groups) - 1) as u8, from.cast())
            };
            let (pairs, scale_of) = (_mm512_cvtph_ps(pairs), _mm512_slli_epi32::<1>(group_of));
            let low_of = _mm512_add_epi32(scale_of, _mm512_set1_epi32(1));
            let scales = _mm512_maskz_permutexvar_ps(there, scale_of, pairs);
            return (scales, _mm512_maskz_permutexvar_ps(there, low_of, pairs));
        }
        let scales = _mm256_cvtph_ps(_mm_loadu_si128(row.add(stride + 16 * line).cast()));
        (_mm512_maskz_permutexvar_ps(there, group_of, _mm512_castps256_ps512(scales)), _mm512_setzero_ps())
    }
}

/// # Safety
/// The CPU has the instructions, and the register begins at a cache line.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn load(register: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes, aligned as the caller promises.
    unsafe { _mm512_load_si512(register.as_ptr().cast()) }
}

/// Weight rows side by side.
const ROWS: usize = 2;

/// Token rows side by side: with `ROWS`, three registers for each of eight pairs, and some to load into.
const TOKENS: usize = 4;

/// As in `dot.rs`.
const SOON_BYTES: usize = 2048;
const LATER_BYTES: usize = 8192;

/// Inputs below 2^-100 count in the unit of those above it, which leaves both powers of two normal numbers: nothing
/// tells them from zero in a row with any other.
const SMALLEST_EXPONENT: i32 = 127 - 100;
