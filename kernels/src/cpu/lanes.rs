//! One vector register of f32 on each instruction set: the few operations that the kernels are written in.

/// A vector register of [`Lanes::N`] f32.
///
/// # Safety of all methods
/// The CPU has the implementor's instructions, and a pointer is valid for `N` elements (of any alignment); only
/// `prefetch` takes any address. All are inlined into functions that are compiled for that instruction set.
pub(super) trait Lanes: Copy {
    type V: Copy;
    /// The sixteen weights that a group of half bytes can have, in whatever form they are looked up or computed.
    type Sixteen: Copy;
    /// Elements of a register: 8 or 16, so that padded rows hold whole registers.
    const N: usize;

    unsafe fn zero() -> Self::V;
    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    /// Loads f16 bits and widens them, exactly.
    unsafe fn load_half(from: *const u16) -> Self::V;
    /// Widens eight f16 (little endian, of any alignment).
    unsafe fn eight_halves(from: *const [[u8; 2]; 8]) -> [f32; 8];
    /// Loads signed bytes.
    unsafe fn load_int8(from: *const u8) -> Self::V;
    /// `scale * q + low` for every half byte `q`, rounded once.
    unsafe fn sixteen(scale: f32, low: f32) -> Self::Sixteen;
    /// Loads half bytes, `N / 2` bytes, and gives their weights, [arranged](Self::arranged_int4): of four bytes with eight
    /// elements, byte `j` has element `j` in its lower and element `j + 4` in its upper half.
    unsafe fn load_int4(from: *const u8, values: Self::Sixteen) -> Self::V;
    /// Elements in the order in which `load_int4` gives them: the one that is cheapest to make.
    #[inline(always)]
    unsafe fn arranged_int4(v: Self::V) -> Self::V {
        v
    }
    /// The other way round.
    #[inline(always)]
    unsafe fn int4_in_order(v: Self::V) -> Self::V {
        v
    }
    unsafe fn store(to: *mut f32, v: Self::V);
    /// Stores the nearest f16 of each element; the largest f16 where that is beyond it.
    unsafe fn store_half(to: *mut u16, v: Self::V);
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The sum over the lanes, always in the same order.
    unsafe fn sum(v: Self::V) -> f32;
    /// Asks for the cache line of `address`: into the first-level cache, or only near it when it is needed later.
    unsafe fn prefetch<const LATER: bool>(address: *const u8);
}

/// Plain Rust, written so that it vectorises on whatever the crate is compiled for.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Lanes for Portable {
    type V = [f32; 16];
    /// Scale and low: their product with a step has 15 bits, so that there is one rounding, fused or not.
    type Sixteen = (f32, f32);
    const N: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        [0.0; 16]
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        [value; 16]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's pointer is valid for 16 elements.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self::V {
        let mut wide = [0.0; 16];
        // SAFETY: the caller's pointer is valid for 16 elements.
        widen_all(unsafe { &*from.cast::<[u16; 16]>() }, &mut wide);
        wide
    }

    #[inline(always)]
    unsafe fn eight_halves(from: *const [[u8; 2]; 8]) -> [f32; 8] {
        let mut wide = [0.0; 8];
        // SAFETY: the caller's pointer is valid for 8 elements.
        widen_all(&unsafe { *from }.map(u16::from_le_bytes), &mut wide);
        wide
    }

    #[inline(always)]
    unsafe fn load_int8(from: *const u8) -> Self::V {
        // SAFETY: the caller's pointer is valid for 16 bytes.
        unsafe { *from.cast::<[u8; 16]>() }.map(|byte| f32::from(byte as i8))
    }

    #[inline(always)]
    unsafe fn sixteen(scale: f32, low: f32) -> (f32, f32) {
        (scale, low)
    }

    #[inline(always)]
    unsafe fn load_int4(from: *const u8, (scale, low): (f32, f32)) -> Self::V {
        // SAFETY: the caller's pointer is valid for 8 bytes.
        let bytes = unsafe { *from.cast::<[u8; 8]>() };
        std::array::from_fn(|i| {
            let byte = bytes[i / 8 * 4 + i % 4];
            f32::from(if i % 8 < 4 { byte & 15 } else { byte >> 4 }) * scale + low
        })
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller's pointer is valid for 16 elements.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn store_half(to: *mut u16, v: Self::V) {
        let halves = v.map(|value| half::f16::from_f32(value.clamp(-LARGEST_HALF, LARGEST_HALF)).to_bits());
        // SAFETY: the caller's pointer is valid for 16 elements.
        unsafe { to.cast::<[u16; 16]>().write_unaligned(halves) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Where the instruction is missing, `mul_add` is a slow library call.
        const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        std::array::from_fn(|i| if FUSED { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] })
    }

    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        let eights: [f32; 8] = std::array::from_fn(|i| v[i] + v[i + 8]);
        let fours: [f32; 4] = std::array::from_fn(|i| eights[i] + eights[i + 4]);
        (fours[0] + fours[2]) + (fours[1] + fours[3])
    }

    #[inline(always)]
    unsafe fn prefetch<const LATER: bool>(_: *const u8) {}
}

/// The largest f16.
pub(super) const LARGEST_HALF: f32 = 65_504.0;

/// A function of its own: inlined, it would be vectorised across weight rows instead of along them, which is far slower
/// than the call.
#[inline(never)]
fn widen_all<const N: usize>(halves: &[u16; N], wide: &mut [f32; N]) {
    for (wide, half) in wide.iter_mut().zip(halves) {
        *wide = widen(*half);
    }
}

/// f16 bits to f32 in integer steps: the exponent is moved and rebiased by a multiplication that is exact, also for
/// subnormals; infinities and NaNs get the exponent that they need.
#[inline(always)]
pub(super) fn widen(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let rebiased = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
    let special = if magnitude >= 0x7c00 << 13 { 0x7f80_0000 } else { 0 };
    f32::from_bits(rebiased | special | u32::from(bits & 0x8000) << 16)
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LARGEST_HALF, Lanes};

    #[inline(always)]
    fn prefetch<const LATER: bool>(address: *const u8) {
        // SAFETY: every x86-64 CPU has the instruction, and it never faults.
        unsafe {
            if LATER {
                _mm_prefetch::<_MM_HINT_T1>(address.cast());
            } else {
                _mm_prefetch::<_MM_HINT_T0>(address.cast());
            }
        }
    }

    /// The caller has F16C and a pointer to 8 elements.
    #[inline(always)]
    unsafe fn eight_halves(from: *const [[u8; 2]; 8]) -> [f32; 8] {
        let mut wide = [0.0; 8];
        // SAFETY: the caller's promise is the same, and there is room for 8 elements.
        unsafe { _mm256_storeu_ps(wide.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.cast()))) };
        wide
    }

    /// AVX2 with FMA and F16C.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2;

    impl Lanes for Avx2 {
        type V = __m256;
        /// Scale and low.
        type Sixteen = (__m256, __m256);
        const N: usize = 8;

        #[inline(always)]
        unsafe fn zero() -> __m256 {
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> __m256 {
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            // SAFETY: the caller has AVX2 and a pointer to 8 elements.
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn load_half(from: *const u16) -> __m256 {
            // SAFETY: the caller has F16C and a pointer to 8 elements.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        }

        #[inline(always)]
        unsafe fn eight_halves(from: *const [[u8; 2]; 8]) -> [f32; 8] {
            // SAFETY: the caller has F16C and a pointer to 8 elements.
            unsafe { eight_halves(from) }
        }

        #[inline(always)]
        unsafe fn load_int8(from: *const u8) -> __m256 {
            // SAFETY: the caller has AVX2 and a pointer to 8 bytes.
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn sixteen(scale: f32, low: f32) -> (__m256, __m256) {
            // SAFETY: the caller has AVX2.
            unsafe { (_mm256_set1_ps(scale), _mm256_set1_ps(low)) }
        }

        /// Every lane has all eight elements and shifts its own down.
        #[inline(always)]
        unsafe fn load_int4(from: *const u8, (scale, low): (__m256, __m256)) -> __m256 {
            // SAFETY: the caller has AVX2 with FMA, and a pointer to 4 bytes.
            unsafe {
                let eight = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
                let own = _mm256_srlv_epi32(eight, _mm256_setr_epi32(0, 8, 16, 24, 4, 12, 20, 28));
                let steps = _mm256_cvtepi32_ps(_mm256_and_si256(own, _mm256_set1_epi32(15)));
                _mm256_fmadd_ps(steps, scale, low)
            }
        }

        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            // SAFETY: the caller has AVX2 and a pointer to 8 elements.
            unsafe { _mm256_storeu_ps(to, v) }
        }

        #[inline(always)]
        unsafe fn store_half(to: *mut u16, v: __m256) {
            // SAFETY: the caller has F16C and a pointer to 8 elements.
            unsafe {
                // NaN stays: the second operand is the result then.
                let (low, high) = (_mm256_set1_ps(-LARGEST_HALF), _mm256_set1_ps(LARGEST_HALF));
                let bounded = _mm256_max_ps(low, _mm256_min_ps(high, v));
                _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(bounded));
            }
        }

        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_mul_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: the caller has FMA.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        unsafe fn sum(v: __m256) -> f32 {
            // SAFETY: the caller has AVX2.
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }

        #[inline(always)]
        unsafe fn prefetch<const LATER: bool>(address: *const u8) {
            prefetch::<LATER>(address);
        }
    }

    /// AVX-512F.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512;

    impl Lanes for Avx512 {
        type V = __m512;
        /// The weights themselves.
        type Sixteen = __m512;
        const N: usize = 16;

        #[inline(always)]
        unsafe fn zero() -> __m512 {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> __m512 {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            // SAFETY: the caller has AVX-512F and a pointer to 16 elements.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn load_half(from: *const u16) -> __m512 {
            // SAFETY: the caller has AVX-512F and a pointer to 16 elements.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        }

        #[inline(always)]
        unsafe fn eight_halves(from: *const [[u8; 2]; 8]) -> [f32; 8] {
            // SAFETY: a CPU with AVX-512F has F16C, and the caller has a pointer to 8 elements.
            unsafe { eight_halves(from) }
        }

        #[inline(always)]
        unsafe fn load_int8(from: *const u8) -> __m512 {
            // SAFETY: the caller has AVX-512F and a pointer to 16 bytes.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn sixteen(scale: f32, low: f32) -> __m512 {
            // SAFETY: the caller has AVX-512F.
            unsafe {
                let steps = _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.);
                _mm512_fmadd_ps(steps, _mm512_set1_ps(scale), _mm512_set1_ps(low))
            }
        }

        /// Even lanes have the first eight elements, odd ones the second; each shifts its own down and looks it up, for
        /// which only the lowest four bits count.
        #[inline(always)]
        unsafe fn load_int4(from: *const u8, values: __m512) -> __m512 {
            // SAFETY: the caller has AVX-512F and a pointer to 8 bytes.
            unsafe {
                let both = _mm512_set1_epi64(from.cast::<i64>().read_unaligned());
                let shifts = _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
                _mm512_permutexvar_ps(_mm512_srlv_epi32(both, shifts), values)
            }
        }

        #[inline(always)]
        unsafe fn arranged_int4(v: __m512) -> __m512 {
            // SAFETY: the caller has AVX-512F.
            unsafe {
                let from = _mm512_setr_epi32(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15);
                _mm512_permutexvar_ps(from, v)
            }
        }

        #[inline(always)]
        unsafe fn int4_in_order(v: __m512) -> __m512 {
            // SAFETY: the caller has AVX-512F.
            unsafe {
                let from = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15);
                _mm512_permutexvar_ps(from, v)
            }
        }

        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            // SAFETY: the caller has AVX-512F and a pointer to 16 elements.
            unsafe { _mm512_storeu_ps(to, v) }
        }

        #[inline(always)]
        unsafe fn store_half(to: *mut u16, v: __m512) {
            // SAFETY: the caller has AVX-512F and a pointer to 16 elements.
            unsafe {
                // As for AVX2.
                let (low, high) = (_mm512_set1_ps(-LARGEST_HALF), _mm512_set1_ps(LARGEST_HALF));
                let bounded = _mm512_max_ps(low, _mm512_min_ps(high, v));
                _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(bounded));
            }
        }

        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_mul_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        unsafe fn sum(v: __m512) -> f32 {
            // SAFETY: the caller has AVX-512F.
            unsafe { _mm512_reduce_add_ps(v) }
        }

        #[inline(always)]
        unsafe fn prefetch<const LATER: bool>(address: *const u8) {
            prefetch::<LATER>(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_widens_exactly() {
        for bits in 0..=u16::MAX {
            let (got, want) = (widen(bits), half::f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{bits:#06x}: {got} {want}");
        }
    }
}
