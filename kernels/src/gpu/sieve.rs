//! Drawing among the tokens that top-k and top-p leave: the passes of sieve.wgsl.

use wgpu::{Buffer, BufferUsages, ComputePass};

use super::activations::Activations;
use super::device::GpuDevice;
use super::launch::{Binds, Extent, Grid, Launch, Shot};
use super::logits::Logits;
use super::memory::{Uniforms, View, bind, buffer};
use super::program::Program;
use super::shader::{File, Kernels};
use crate::engine::EngineError;
use crate::sampling::Draw;

/// The head that stores one row of logits, and the passes over them that leave a drawn token in `winners`.
pub(super) struct Sieve {
    logits: Logits,
    /// In the order of [`PASSES`].
    passes: [Launch; PASSES.len()],
    /// Keep the buffers that the bind groups name.
    _kept: [Buffer; 4],
}

/// `Shape` in sieve.wgsl.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Shape {
    vocab: u32,
    workgroups: u32,
    winners: u32,
    pad: u32,
}

const _: () = assert!(size_of::<Shape>() == 16);

impl Sieve {
    /// Makes the passes; `None` for a program without a head.
    ///
    /// # Errors
    /// [`EngineError::Memory`] without room for logits and tallies, [`EngineError::Device`].
    pub(super) fn new(
        device: &GpuDevice,
        program: &mut Program,
        activations: &Activations,
    ) -> Result<Option<Self>, EngineError> {
        let Some(head) = &mut program.head else { return Ok(None) };
        let vocab = head.vocab;
        let workgroups = vocab.div_ceil(PER_WORKGROUP) as u32;
        let winners = program.winners;
        if workgroups > winners {
            let what = format!("top-k and top-p with {workgroups} workgroups behind a head with {winners}");
            return Err(device.unsupported(what));
        }
        let logits = head.logits(device, 1)?;
        let made = device.guarded("the tallies of top-k and top-p", 3 * TALLY_BYTES, || {
            // The kernels' choice of a KV format has no meaning here, and they have no subgroup operations.
            let mut kernels = Kernels::plain(device);
            let storage = |label, bytes| buffer(device, label, bytes, BufferUsages::STORAGE);
            let [upper, lower_k, lower_p] = ["upper", "top-k", "top-p"].map(|label| storage(label, TALLY_BYTES));
            let cut = storage("cut", CUT_BYTES);
            let shape = Uniforms::new(device).slot(&Shape { vocab: vocab as u32, workgroups, winners, pad: 0 });
            let views = [
                (0, View::whole(&logits.buffer)),
                (1, View::whole(&activations.winners)),
                (2, View::whole(&upper)),
                (3, View::whole(&cut)),
                (4, shape),
                (5, View::whole(&activations.state)),
                (6, View::whole(&activations.draw)),
                (7, View::whole(&lower_k)),
                (8, View::whole(&lower_p)),
            ];
            let passes = PASSES.map(|pass| {
                let kernel = kernels.kernel(File::Sieve, &[pass], &[]);
                let binds = Binds::Shared(bind(device, &kernel, &views));
                Launch { one: Shot::new(&kernel, Grid::Tokens { each: workgroups }), many: None, tiled: None, binds }
            });
            Self { logits, passes, _kept: [upper, lower_k, lower_p, cut] }
        })?;
        Ok(Some(made))
    }

    /// Records the head and the passes that `draw` needs.
    pub(super) fn record(&self, pass: &mut ComputePass<'_>, draw: &Draw) {
        self.logits.record(pass, 1);
        for (launch, name) in self.passes.iter().zip(PASSES) {
            let idle = name == "TOP_K" && draw.top_k == 0 || name == "TOP_P" && draw.top_p >= 1.0;
            if !idle {
                launch.record(pass, &[], Extent::new(0, 1));
            }
        }
    }
}

/// The tags of the passes.
pub(super) const PASSES: [&str; 5] = ["MAX", "UPPER", "TOP_K", "TOP_P", "CHOOSE"];

/// Logits of a workgroup: four for each of 256 threads.
const PER_WORKGROUP: usize = 1024;

/// A tally: three words a bin.
const TALLY_BYTES: u64 = 4 * 3 * 2048;

/// `Cut` in sieve.wgsl.
const CUT_BYTES: u64 = 4 * 11;
