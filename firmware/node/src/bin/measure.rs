//! How many instructions a multiply-accumulate takes, where a nanosecond is an instruction (QEMU with `-icount shift=0`), and
//! what this processor's kernel makes of the vectors that every machine computes.
#![no_std]
#![no_main]

use core::hint::black_box;

use defmt::info;
use mps2_an385::micros;
use static_cell::ConstStaticCell;
use syn1_firmware as _;
use syn1_kernels_int::{GROUP, dot_rows, testing};

/// A matrix of the bundled model: the MLP's second.
const ROWS: usize = 256;
const GROUPS: usize = 1024 / GROUP;
/// Bytes of a row: its steps and its scales.
const ROW_BYTES: usize = GROUPS * (GROUP + 2);

/// At whole words, as a node has them.
#[repr(C, align(4))]
struct Aligned<T>(T);

static WEIGHTS: ConstStaticCell<Aligned<[u8; ROWS * ROW_BYTES]>> = ConstStaticCell::new(Aligned([0; ROWS * ROW_BYTES]));

#[cortex_m_rt::entry]
fn main() -> ! {
    if let Some(core) = cortex_m::Peripherals::take() {
        mps2_an385::start(core);
    }
    let (weights, inputs) = (WEIGHTS.take(), Aligned([[3i16; GROUP]; GROUPS]));
    for (at, byte) in weights.0.iter_mut().enumerate() {
        *byte = (at % 251) as u8 & 0x37;
    }
    let (weights, inputs) = (black_box(&weights.0), black_box(&inputs.0));
    let begun = micros();
    let mut sum = 0i64;
    for rows in weights.chunks_exact(4 * ROW_BYTES) {
        sum = dot_rows(rows, ROW_BYTES, inputs).into_iter().fold(sum, i64::wrapping_add);
    }
    let thousands = micros() - begun;
    info!(
        "{=u64} thousand instructions, {=usize} multiply-accumulates, sum {=i64}",
        thousands,
        ROWS * GROUPS * GROUP,
        sum
    );
    info!("the sums of all machines' vectors: {=u64}", testing::checksum(dot_rows));
    loop {
        cortex_m::asm::wfi();
    }
}
