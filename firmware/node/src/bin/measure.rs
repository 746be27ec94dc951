//! How many instructions a multiply-accumulate takes, where a nanosecond is an instruction (QEMU with `-icount shift=0`).
#![no_std]
#![no_main]

use core::hint::black_box;

use defmt::info;
use mps2_an385::micros;
use static_cell::ConstStaticCell;
use syn1_firmware as _;
use syn1_kernels_int::{GROUP, dot_rows};

/// A matrix of the bundled model: the MLP's second.
const ROWS: usize = 256;
const GROUPS: usize = 1024 / GROUP;
/// Bytes of a row: its steps and its scales.
const ROW_BYTES: usize = GROUPS * (GROUP + 2);

static WEIGHTS: ConstStaticCell<[u8; ROWS * ROW_BYTES]> = ConstStaticCell::new([0; ROWS * ROW_BYTES]);

#[cortex_m_rt::entry]
fn main() -> ! {
    if let Some(core) = cortex_m::Peripherals::take() {
        mps2_an385::start(core);
    }
    let (weights, inputs) = (WEIGHTS.take(), [[3i16; GROUP]; GROUPS]);
    for (at, byte) in weights.iter_mut().enumerate() {
        *byte = (at % 251) as u8 & 0x37;
    }
    let (weights, inputs) = (black_box(&*weights), black_box(&inputs));
    let begun = micros();
    let mut sum = 0i64;
    for rows in weights.as_chunks::<ROW_BYTES>().0.as_chunks::<4>().0 {
        let [a, b, c, d] = rows;
        let sums = dot_rows([&a[..], b, c, d], inputs);
        sum = sums.into_iter().fold(sum, i64::wrapping_add);
    }
    let thousands = micros() - begun;
    info!(
        "{=u64} thousand instructions, {=usize} multiply-accumulates, sum {=i64}",
        thousands,
        ROWS * GROUPS * GROUP,
        sum
    );
    loop {
        cortex_m::asm::wfi();
    }
}
