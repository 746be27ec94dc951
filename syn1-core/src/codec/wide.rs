//! The same loops, for wider vectors where the processor has them.

/// Evaluates a call whose function is `#[inline(always)]`.
///
/// A program for x86-64 may count on SSE2 alone. With feature `std` the call is compiled for AVX2 as well and the processor
/// decides which code runs; elsewhere this is the call and nothing else. The values are the same in both: Rust neither
/// fuses nor reorders floating-point operations.
#[cfg(all(feature = "std", target_arch = "x86_64"))]
macro_rules! wide {
    ($call:expr) => {
        match fearless_simd::Level::new().as_avx2() {
            Some(avx2) => fearless_simd::Simd::vectorize(
                avx2,
                #[inline(always)]
                || $call,
            ),
            None => $call,
        }
    };
}

#[cfg(not(all(feature = "std", target_arch = "x86_64")))]
macro_rules! wide {
    ($call:expr) => {
        $call
    };
}

pub(crate) use wide;

/// A row in stripes that a vector unit takes at a time, and what is left. Without vectors all of it is left, and the code for
/// stripes is not there.
pub(super) fn stripes<const N: usize>(row: &[f32]) -> (&[[f32; N]], &[f32]) {
    if VECTORS { row.as_chunks() } else { (&[], row) }
}

/// Whether the target surely has a vector unit.
pub(super) const VECTORS: bool =
    cfg!(any(target_feature = "sse2", target_feature = "neon", target_feature = "simd128"));
