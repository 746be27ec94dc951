//! The product on a Cortex-M3, whose registers just hold what four rows need: compilers that build for size spill them.

use core::arch::naked_asm;

use crate::GROUP;

/// What the loop works on; the assembly knows the offsets.
#[repr(C)]
struct Job {
    rows: *const u8,
    row_bytes: usize,
    inputs: *const [i16; GROUP],
    groups: usize,
    /// Where the loop keeps its place in each row's scales.
    scales: [*const u8; 4],
    sums: [i64; 4],
}

/// [`crate::dot_rows`] over a group at least, and rows that are long enough.
pub(crate) fn four(rows: &[u8], row_bytes: usize, inputs: &[[i16; GROUP]]) -> [i64; 4] {
    let (rows, inputs, groups) = (rows.as_ptr(), inputs.as_ptr(), inputs.len());
    let mut job = Job { rows, row_bytes, inputs, groups, scales: [rows; 4], sums: [0; 4] };
    // SAFETY: there is a group, and behind the pointers lie four rows with as many as `groups` says, and as many inputs.
    unsafe { sum(&raw mut job) }
    job.sums
}

/// Adds one row's sum of a group, times the group's scale, to what the row has.
#[rustfmt::skip]
macro_rules! scaled {
    ($sum:literal, scale $scale:literal, total $total:literal) => {
        concat!(
            "ldr r0, [r11, #", $scale, "]\n",
            "ldrh r1, [r0], #2\n",
            "str r0, [r11, #", $scale, "]\n",
            // f16 to units of 2^-24: subnormal ones are it already, others have their leading bit added and are shifted.
            "lsrs r0, r1, #10\n",
            "ubfx r1, r1, #0, #10\n",
            "itt ne\n",
            "orrne r1, r1, #1024\n",
            "subne r0, r0, #1\n",
            "lsl r1, r1, r0\n",
            "ldrd r0, r12, [r11, #", $total, "]\n",
            "smlal r0, r12, r1, ", $sum, "\n",
            "strd r0, r12, [r11, #", $total, "]",
        )
    };
}

/// Does a job's groups, of which there is one at least.
///
/// # Safety
/// Behind the job's pointers lies as much as its number of groups says.
#[unsafe(naked)]
unsafe extern "C" fn sum(job: *mut Job) {
    // r0 input or scratch, r1 weight or scratch, r2-r5 sums of the group, r6-r9 steps, r10 inputs, r11 job, r12 parts left of
    // the group, lr groups left.
    naked_asm!(
        "push {{r4-r11, lr}}",
        "mov r11, r0",
        "ldmia r0, {{r6, r7, r10, lr}}",
        "add r0, r6, lr, lsl #5",
        "mov r1, r7",
        "add r7, r6, r1",
        "add r8, r7, r1",
        "add r9, r8, r1",
        "add r2, r0, r1",
        "add r3, r2, r1",
        "add r4, r3, r1",
        "add r5, r11, #16",
        "stmia r5, {{r0, r2, r3, r4}}",
        "2:",
        "movs r2, #0",
        "movs r3, #0",
        "movs r4, #0",
        "movs r5, #0",
        "mov r12, #4",
        "3:",
        ".rept 8",
        "ldrsh r0, [r10], #2",
        "ldrsb r1, [r6], #1",
        "mla r2, r1, r0, r2",
        "ldrsb r1, [r7], #1",
        "mla r3, r1, r0, r3",
        "ldrsb r1, [r8], #1",
        "mla r4, r1, r0, r4",
        "ldrsb r1, [r9], #1",
        "mla r5, r1, r0, r5",
        ".endr",
        "subs r12, r12, #1",
        "bne 3b",
        scaled!("r2", scale 16, total 32),
        scaled!("r3", scale 20, total 40),
        scaled!("r4", scale 24, total 48),
        scaled!("r5", scale 28, total 56),
        "subs lr, lr, #1",
        "bne 2b",
        "pop {{r4-r11, pc}}",
    )
}

const _: () = {
    assert!(core::mem::offset_of!(Job, inputs) == 8 && core::mem::offset_of!(Job, groups) == 12);
    assert!(core::mem::offset_of!(Job, scales) == 16 && core::mem::offset_of!(Job, sums) == 32);
    assert!(GROUP == 1 << 5);
};
