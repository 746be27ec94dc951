//! The product on a Cortex-M4 with a unit for floats: `SMLAD` adds two products of 16 bits at once, and the unit reads f16.
//!
//! `SXTB16` takes bytes 0 and 2, or 1 and 3, out of a word of weights. So that the inputs lie as these pairs do, they are put
//! in order once for all rows ([`crate::arrange`]). Of the instructions for a multiply-accumulate a half is `SMLAD`, a half
//! `SXTB16`, and 3/16 are loads: 1.19, and the scales on top.

use core::arch::naked_asm;

use crate::GROUP;
use crate::dot::portable;

/// What the loop works on; the assembly knows the offsets.
#[repr(C)]
struct Job {
    /// The row at hand, which goes on by two.
    rows: *const u8,
    row_bytes: usize,
    inputs: *const [i16; GROUP],
    groups: usize,
    pairs: usize,
    /// Where the loop keeps its place in the scales of the two rows at hand.
    scales: [*const u8; 2],
    /// Where the sums of the two rows at hand go, and the end of all sums.
    sums: *mut i64,
    end: *const i64,
}

/// [`crate::dot_rows`] over a group at least, and rows that are long enough.
pub(crate) fn four(rows: &[u8], row_bytes: usize, inputs: &[[i16; GROUP]]) -> [i64; 4] {
    let (groups, pairs) = (inputs.len(), inputs.len() / 2);
    // `LDM`, `LDRD` and `VLDM` take whole words.
    let aligned = (rows.as_ptr().addr() | row_bytes | inputs.as_ptr().addr()).is_multiple_of(4);
    if pairs == 0 || !aligned {
        return portable(rows, row_bytes, inputs, 0);
    }
    let mut sums = [0; 4];
    let begin = rows.as_ptr();
    let place = sums.as_mut_ptr_range();
    let mut job = Job {
        rows: begin,
        row_bytes,
        inputs: inputs.as_ptr(),
        groups,
        pairs,
        scales: [begin; 2],
        sums: place.start,
        end: place.end,
    };
    // SAFETY: there is a pair of groups, behind the pointers lie four rows with as many groups as `groups` says, as many
    // inputs, and room for four sums; rows and inputs begin at whole words.
    unsafe { sum(&raw mut job) }
    if groups > 2 * pairs {
        let last = portable(rows, row_bytes, inputs, 2 * pairs);
        sums.iter_mut().zip(last).for_each(|(sum, last)| *sum += last);
    }
    sums
}

/// Eight weights of a row; the inputs are in r0-r3. `$first` is `smuad`, without a sum to add to, or `smlad`.
#[rustfmt::skip]
macro_rules! eight {
    ($row:literal, $sum:literal, $first:literal, $also:literal) => {
        concat!(
            "ldrd r6, r7, [", $row, "], #8\n",
            "sxtb16 r8, r6\n",
            $first, " ", $sum, ", r8, r0", $also, "\n",
            "sxtb16 r6, r6, ror #8\n",
            "smlad ", $sum, ", r6, r1, ", $sum, "\n",
            "sxtb16 r8, r7\n",
            "smlad ", $sum, ", r8, r2, ", $sum, "\n",
            "sxtb16 r7, r7, ror #8\n",
            "smlad ", $sum, ", r7, r3, ", $sum,
        )
    };
}

/// A group of two rows: sums in r4 and r5.
#[rustfmt::skip]
macro_rules! group {
    () => {
        concat!(
            "ldmia r12!, {{r0-r3}}\n",
            eight!("r9", "r4", "smuad", ""), "\n",
            eight!("r10", "r5", "smuad", ""), "\n",
            ".rept 3\n",
            "ldmia r12!, {{r0-r3}}\n",
            eight!("r9", "r4", "smlad", ", r4"), "\n",
            eight!("r10", "r5", "smlad", ", r5"), "\n",
            ".endr",
        )
    };
}

/// Does the pairs of groups of a job, of which there is one at least.
///
/// # Safety
/// Behind the job's pointers, which are aligned to words, lies as much as its number of pairs says.
#[unsafe(naked)]
unsafe extern "C" fn sum(job: *mut Job) {
    // r0-r3 inputs, r4 and r5 sums of the group, r6-r8 weights, r9 and r10 steps, r11 job, r12 inputs, lr pairs left;
    // s4 and s5 sums of the pair's first group, s8-s11 the rows' sums.
    naked_asm!(
        // The assembler does not know what the target has.
        ".fpu fpv4-sp-d16",
        "push {{r4-r11, lr}}",
        "mov r11, r0",
        "2:",
        "ldr r9, [r11]",
        "ldr r1, [r11, #4]",
        "ldr r12, [r11, #8]",
        "ldr r0, [r11, #12]",
        "ldr lr, [r11, #16]",
        "add r10, r9, r1",
        "add r2, r10, r1",
        "str r2, [r11]",
        "add r0, r9, r0, lsl #5",
        "add r1, r0, r1",
        "strd r0, r1, [r11, #20]",
        "movs r2, #0",
        "vmov s8, s9, r2, r2",
        "vmov s10, s11, r2, r2",
        "3:",
        group!(),
        "vmov s4, s5, r4, r5",
        group!(),
        "ldrd r0, r1, [r11, #20]",
        "vldmia r0!, {{s0}}",
        "vldmia r1!, {{s1}}",
        "strd r0, r1, [r11, #20]",
        // f16 to f32, and that to units of 2^-24: both are exact.
        "vcvtb.f32.f16 s2, s0",
        "vcvtt.f32.f16 s3, s0",
        "vcvtb.f32.f16 s6, s1",
        "vcvtt.f32.f16 s7, s1",
        "vcvt.s32.f32 s2, s2, #24",
        "vcvt.s32.f32 s3, s3, #24",
        "vcvt.s32.f32 s6, s6, #24",
        "vcvt.s32.f32 s7, s7, #24",
        "vmov r0, r1, s4, s5",
        "vmov r6, r7, s2, s3",
        "vmov r2, r3, s8, s9",
        "smlal r2, r3, r0, r6",
        "smlal r2, r3, r4, r7",
        "vmov s8, s9, r2, r3",
        "vmov r6, r7, s6, s7",
        "vmov r2, r3, s10, s11",
        "smlal r2, r3, r1, r6",
        "smlal r2, r3, r5, r7",
        "vmov s10, s11, r2, r3",
        "subs lr, lr, #1",
        "bne 3b",
        "ldrd r0, r1, [r11, #28]",
        "vstmia r0!, {{s8-s11}}",
        "str r0, [r11, #28]",
        "cmp r0, r1",
        "bne 2b",
        "pop {{r4-r11, pc}}",
    )
}

const _: () = {
    assert!(core::mem::offset_of!(Job, inputs) == 8 && core::mem::offset_of!(Job, pairs) == 16);
    assert!(core::mem::offset_of!(Job, scales) == 20 && core::mem::offset_of!(Job, sums) == 28);
    assert!(GROUP == 1 << 5);
};
