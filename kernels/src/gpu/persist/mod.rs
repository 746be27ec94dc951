//! Whole tokens in one dispatch: the kernel of persist.wgsl, which keeps its workgroups on the device from op to op.

mod admission;
mod shape;

use std::sync::atomic::{AtomicU32, Ordering};

use syn1_model::plan::Plan;
use wgpu::{BindGroup, Buffer, BufferUsages, ComputePass};

use self::shape::Shape;
use super::activations::Activations;
use super::device::GpuDevice;
use super::memory::{View, bind, buffer};
use super::program::Program;
use super::shader::{Kernel, Kernels};
use super::weights::{Arena, Weights};
use crate::engine::{EngineConfig, EngineError};

pub(super) use self::admission::{FEATURES, Size, obstacle, size};

/// The token loop of a whole model as one dispatch.
pub(super) struct Persist {
    device: GpuDevice,
    kernel: Kernel,
    /// What the kernel was made of: measurements make others from it.
    shape: Shape,
    groups: u32,
    layers: u32,
    blocks: Buffer,
    tables: Buffer,
    /// Where ops leave what others read.
    wire: Buffer,
    control: Buffer,
    /// 1 when a workgroup gave up waiting.
    pub(super) status: Buffer,
    rotations: Option<Buffer>,
    /// The next flag that was never used.
    flag: AtomicU32,
}

/// `Control` in persist.wgsl.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Control {
    turns: u32,
    flag: u32,
    patience: u32,
    pad: u32,
}

const _: () = assert!(size_of::<Control>() == 16);

impl Persist {
    /// Makes everything for `plan`, whose weights are in `arena`.
    ///
    /// # Errors
    /// What the device says.
    pub(super) fn new(
        device: &GpuDevice,
        plan: &Plan,
        (weights, arena): (&Weights, &Arena),
        program: &Program,
        config: &EngineConfig,
        size: Size,
    ) -> Result<Self, EngineError> {
        let lanes = device.subgroup_sizes().map_or(1, |(least, _)| least);
        let shape = Shape::new(plan, weights, program, config, size, lanes);
        device.guarded("the token loop in one dispatch", 16 * shape.slots as u64, || {
            let storage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
            Self {
                kernel: compile(device, &shape, 0),
                groups: size.groups,
                layers: plan.layers.len() as u32,
                blocks: arena.blocks.clone(),
                tables: arena.tables.clone(),
                wire: buffer(device, "wire", 16 * shape.slots as u64, storage),
                control: buffer(device, "control", 16, storage),
                status: buffer(device, "status", 4, storage),
                rotations: program.rotations.first().map(|rotation| rotation.buffer().clone()),
                flag: AtomicU32::new(1),
                device: device.clone(),
                shape,
            }
        })
    }

    /// The same kernel without the work that `left_out` names, for measurements: see [`super::loop_times`].
    ///
    /// # Errors
    /// What the device says.
    pub(super) fn without(&self, left_out: u32) -> Result<Kernel, EngineError> {
        self.device.guarded("a part of the token loop", 0, || compile(&self.device, &self.shape, left_out))
    }

    /// The bind group of a request with the cache `kv`. To be called inside [`GpuDevice::guarded`].
    pub(super) fn bind(&self, activations: &Activations, kv: &Buffer) -> BindGroup {
        let views = [
            (0, self.rotations.as_ref().unwrap_or(&self.control)),
            (1, &self.blocks),
            (2, &self.wire),
            (3, kv),
            (4, &activations.x),
            (5, &activations.state),
            (6, &self.control),
            (7, &self.status),
            (8, &activations.chosen),
            (9, &self.blocks),
            (10, kv),
            (11, &self.tables),
            (12, &self.tables),
            (13, &self.wire),
        ];
        bind(&self.device, &self.kernel, &views.map(|(binding, buffer)| (binding, View::whole(buffer))))
    }

    /// Records the dispatch of `turns` tokens, and writes for the next submit how many they are.
    pub(super) fn record(&self, pass: &mut ComputePass<'_>, binds: &BindGroup, turns: u32) {
        self.record_as(&self.kernel, pass, binds, turns);
    }

    /// The same by `kernel`, which [`Self::without`] made.
    pub(super) fn record_as(&self, kernel: &Kernel, pass: &mut ComputePass<'_>, binds: &BindGroup, turns: u32) {
        self.prepare(turns);
        pass.set_pipeline(&kernel.pipeline);
        pass.set_bind_group(0, binds, &[]);
        pass.dispatch_workgroups(self.groups, 1, 1);
    }

    fn prepare(&self, turns: u32) {
        let used = turns * (self.layers + 1);
        let flag = match self.flag.load(Ordering::Relaxed).checked_add(used) {
            Some(_) => self.flag.load(Ordering::Relaxed),
            None => {
                let zeros = vec![0; self.wire.size() as usize];
                self.device.queue.write_buffer(&self.wire, 0, &zeros);
                1
            }
        };
        self.flag.store(flag + used, Ordering::Relaxed);
        let control = Control { turns, flag, patience: PATIENCE, pad: 0 };
        self.device.queue.write_buffer(&self.control, 0, bytemuck::bytes_of(&control));
    }
}

/// To be called inside [`GpuDevice::guarded`].
fn compile(device: &GpuDevice, shape: &Shape, left_out: u32) -> Kernel {
    let overrides: Vec<(&str, f64)> = shape
        .overrides
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .chain([("LEFT_OUT", f64::from(left_out))])
        .collect();
    Kernels::plain(device).compile("persist", shape.text.clone(), &overrides)
}

/// Loads in one wait at most: about a tenth of a second.
const PATIENCE: u32 = 1 << 17;

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use syn1_model::plan::WeightFormat;
    use syn1_model::{Spec, random_piece};

    use super::super::engine::{GpuEngine, GpuOptions, Persistence};
    use super::*;
    use crate::engine::{Decode, Engine};

    /// An engine whose loop is one dispatch of one workgroup.
    fn engine() -> GpuEngine {
        let device = GpuDevice::open("gpu").unwrap_or_else(|error| panic!("this test needs a GPU adapter: {error}"));
        let spec = Spec { width: 64, heads: 2, kv_heads: 2, head_dim: 32, ffn: 128, layers: 2, ..Spec::gpt2_124m() };
        let spec = Spec { vocab: 500, ..spec };
        let plan = Plan::new(&spec, WeightFormat::F16, 0..2);
        let pieces: Vec<_> =
            plan.pieces.iter().map(|piece| random_piece(&spec, WeightFormat::F16, *piece, 3)).collect();
        let config = EngineConfig { max_positions: 200, slots: 1, max_rows: 4 };
        let persist = Persistence::Sized { groups: 1, threads: 64 };
        GpuEngine::with_options(&device, plan, &pieces, config, GpuOptions { persist, ..GpuOptions::default() })
            .unwrap()
    }

    fn text(engine: &mut GpuEngine, mut seen: impl FnMut(usize) + Send) -> Vec<u32> {
        let slot = engine.open().unwrap();
        let mut ids = Vec::new();
        let sink = |id| {
            ids.push(id);
            seen(ids.len());
            ControlFlow::Continue(())
        };
        pollster::block_on(engine.decode(Decode::greedy(slot, 0, 3, 120), sink)).unwrap();
        engine.close(slot);
        ids
    }

    #[test]
    fn a_loop_whose_workgroups_give_up_goes_on_with_the_other_kernels_and_loses_no_token() {
        let mut engine = engine();
        let want = text(&mut engine, |_| ());
        assert!(engine.in_one_dispatch());
        let persist = engine.persist.as_ref().unwrap();
        let (queue, status) = (persist.device.queue.clone(), persist.status.clone());
        let got = text(&mut engine, |count| {
            if count == 20 {
                queue.write_buffer(&status, 0, &1_u32.to_le_bytes());
            }
        });
        assert_eq!(got, want);
        assert!(!engine.in_one_dispatch());
    }

    #[test]
    fn flags_begin_anew_with_a_clean_wire_before_they_run_out() {
        let mut engine = engine();
        let want = text(&mut engine, |_| ());
        engine.persist.as_ref().unwrap().flag.store(u32::MAX - 100, Ordering::Relaxed);
        assert_eq!(text(&mut engine, |_| ()), want);
        let flag = engine.persist.as_ref().unwrap().flag.load(Ordering::Relaxed);
        assert!((2..1000).contains(&flag), "{flag}");
    }
}
