//! F16 by the processor's own instructions for it, which no loop is compiled to.
//!
//! They convert 16 values at a time. The last 16 are done once more at the end instead of a rest one by one.

use core::arch::x86_64::{
    __m256, __m256i, _MM_FROUND_TO_NEAREST_INT, _mm256_and_si256, _mm256_castps_si256, _mm256_cmpgt_epi16,
    _mm256_cmpgt_epi32, _mm256_cvtph_ps, _mm256_cvtps_ph, _mm256_max_epu16, _mm256_max_epu32, _mm256_movemask_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_si256,
};

use fearless_simd::prelude::*;
use fearless_simd::{Level, f32x8, kernel, u8x16, u8x32};

use super::F16_MAX;

/// Writes as many `values` as `cells` holds and says whether none has a magnitude above [`F16_MAX`]; `None`, and nothing
/// written, when there are fewer than 16 or the processor has no such instructions.
pub(super) fn encode(values: &[f32], cells: &mut [[u8; 2]]) -> Option<bool> {
    let avx2 = Level::new().as_avx2()?;
    let len = values.len().min(cells.len());
    let (values, cells) = (values.get(..len)?, cells.get_mut(..len)?);
    values.last_chunk::<UNIT>().map(|_| narrow_all(avx2, values, cells))
}

/// Reads as many values as `cells` and `out` both hold and says whether all are finite; `None`, and nothing read, when
/// there are fewer than 16 or the processor has no such instructions.
pub(super) fn decode(cells: &[[u8; 2]], out: &mut [f32]) -> Option<bool> {
    let avx2 = Level::new().as_avx2()?;
    let len = cells.len().min(out.len());
    let (cells, out) = (cells.get(..len)?, out.get_mut(..len)?);
    cells.last_chunk::<UNIT>().map(|_| widen_all(avx2, cells, out))
}

kernel!(
    #[inline]
    fn narrow_all(avx2: Avx2, values: &[f32], cells: &mut [[u8; 2]]) -> bool {
        let mut largest = _mm256_setzero_si256();
        for (cells, values) in cells.as_chunks_mut().0.iter_mut().zip(values.as_chunks().0) {
            largest = narrow(avx2, largest, values, cells);
        }
        if let (Some(cells), Some(values)) = (cells.last_chunk_mut(), values.last_chunk()) {
            largest = narrow(avx2, largest, values, cells);
        }
        let limit = _mm256_set1_epi32(F16_MAX.to_bits().cast_signed());
        _mm256_movemask_epi8(_mm256_cmpgt_epi32(largest, limit)) == 0
    }
);

kernel!(
    /// Writes 16 values and gives the larger of `largest` and the bits of their magnitudes, whose order is that of the
    /// magnitudes with NaN on top.
    #[inline]
    fn narrow(avx2: Avx2, largest: __m256i, values: &[f32; UNIT], cells: &mut [[u8; 2]; UNIT]) -> __m256i {
        let mut largest = largest;
        for (bytes, values) in cells.as_flattened_mut().as_chunks_mut().0.iter_mut().zip(values.as_chunks::<8>().0) {
            let values: f32x8<_> = (*values).simd_into(avx2);
            let values: __m256 = values.into();
            let halves: u8x16<_> = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values).simd_into(avx2);
            *bytes = halves.into();
            let magnitudes = _mm256_and_si256(_mm256_castps_si256(values), _mm256_set1_epi32(0x7fff_ffff));
            largest = _mm256_max_epu32(largest, magnitudes);
        }
        largest
    }
);

kernel!(
    #[inline]
    fn widen_all(avx2: Avx2, cells: &[[u8; 2]], out: &mut [f32]) -> bool {
        let mut largest = _mm256_setzero_si256();
        // Stores across cache lines take half as long again, so that all but the first and the last 16 are aligned.
        let head = out.as_ptr().align_offset(32).min(UNIT);
        if let (Some(cells), Some(out)) = (cells.first_chunk(), out.first_chunk_mut()) {
            largest = widen(avx2, largest, cells, out);
        }
        if let (Some(cells), Some(out)) = (cells.get(head..), out.get_mut(head..)) {
            for (out, cells) in out.as_chunks_mut().0.iter_mut().zip(cells.as_chunks().0) {
                largest = widen(avx2, largest, cells, out);
            }
        }
        if let (Some(cells), Some(out)) = (cells.last_chunk(), out.last_chunk_mut()) {
            largest = widen(avx2, largest, cells, out);
        }
        let finite = _mm256_set1_epi16(0x7bff);
        _mm256_movemask_epi8(_mm256_cmpgt_epi16(largest, finite)) == 0
    }
);

kernel!(
    /// Reads 16 values and gives the larger of `largest` and the bits of their magnitudes.
    #[inline]
    fn widen(avx2: Avx2, largest: __m256i, cells: &[[u8; 2]; UNIT], out: &mut [f32; UNIT]) -> __m256i {
        let mut largest = largest;
        for (out, bytes) in out.as_chunks_mut().0.iter_mut().zip(cells.as_flattened().as_chunks().0) {
            let halves: u8x16<_> = (*bytes).simd_into(avx2);
            let values: f32x8<_> = _mm256_cvtph_ps(halves.into()).simd_into(avx2);
            *out = values.into();
        }
        for bytes in cells.as_flattened().as_chunks().0 {
            let halves: u8x32<_> = (*bytes).simd_into(avx2);
            let magnitudes = _mm256_and_si256(halves.into(), _mm256_set1_epi16(0x7fff));
            largest = _mm256_max_epu16(largest, magnitudes);
        }
        largest
    }
);

/// Values that are converted together.
const UNIT: usize = 16;
