//! Whole tokens in one dispatch, or a step's layers for one token row: the kernel of persist.wgsl, which keeps its workgroups
//! on the device from op to op.

mod admission;
mod shape;
mod trial;

use std::sync::atomic::{AtomicU32, Ordering};

use syn1_model::plan::Plan;
use wgpu::{BindGroup, Buffer, BufferUsages, ComputePass};

use self::shape::Shape;
use super::activations::Activations;
use super::bank::Cache;
use super::device::GpuDevice;
use super::memory::{View, bind, buffer};
use super::program::Program;
use super::shader::{Kernel, Kernels};
use super::weights::{Arena, Weights};
use crate::engine::{EngineConfig, EngineError};
use crate::wgsl::bindings;

pub(super) use self::admission::{FEATURES, Size, size};

/// What a dispatch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Tokens of a whole model, from the embedding to the likeliest next one.
    Loop,
    /// The residual stream of one token row through the layers that a plan has.
    Step,
}

impl Work {
    fn tag(self) -> &'static str {
        match self {
            Self::Loop => "LOOP",
            Self::Step => "STEP",
        }
    }

    /// What it is called in errors and notes.
    fn name(self) -> &'static str {
        match self {
            Self::Loop => "the token loop in one dispatch",
            Self::Step => "a step's layers in one dispatch",
        }
    }
}

/// The token loop of a whole model, or a step's layers, as one dispatch.
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
    /// The next flag that was never used: what the kernel counts in `control`.
    flag: AtomicU32,
}

/// `Control` in persist.wgsl.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Control {
    turns: u32,
    flag: u32,
}

const _: () = assert!(size_of::<Control>() == 8);

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
        (work, size): (Work, Size),
    ) -> Result<Self, EngineError> {
        let lanes = device.subgroup_sizes().map_or(1, |(least, _)| least);
        let shape = Shape::new(plan, weights, program, config, (work, size), lanes);
        let made = device.guarded(work.name(), 16 * shape.slots as u64, || {
            let storage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
            Self {
                kernel: compile(device, &shape, 0),
                groups: size.groups,
                layers: plan.layers.len() as u32,
                blocks: arena.blocks.clone(),
                tables: arena.tables.clone(),
                wire: buffer(device, "wire", 16 * shape.slots as u64, storage),
                control: buffer(device, "control", size_of::<Control>() as u64, storage),
                status: buffer(device, "status", 4, storage),
                rotations: program.rotations.first().map(|rotation| rotation.buffer().clone()),
                flag: AtomicU32::new(FIRST_FLAG),
                device: device.clone(),
                shape,
            }
        })?;
        made.write(Control { turns: 1, flag: FIRST_FLAG });
        Ok(made)
    }

    /// The same kernel without the work that `left_out` names, for measurements: see [`super::loop_times`].
    ///
    /// # Errors
    /// What the device says.
    pub(super) fn without(&self, left_out: u32) -> Result<Kernel, EngineError> {
        self.device.guarded("a part of the token loop", 0, || compile(&self.device, &self.shape, left_out))
    }

    /// The bind group of a request with `cache`. To be called inside [`GpuDevice::guarded`].
    pub(super) fn bind(&self, activations: &Activations, cache: &Cache) -> BindGroup {
        let whole = View::whole;
        let mut views = vec![
            // What nobody reads where positions are learned: a buffer cannot be bound for reading and writing at a time.
            (0, whole(self.rotations.as_ref().unwrap_or(&self.tables))),
            (1, whole(&self.blocks)),
            (2, whole(&self.wire)),
            (3, cache.onwards()),
            (4, whole(&activations.x)),
            (5, whole(&activations.state)),
            (6, whole(&self.control)),
            (7, whole(&self.status)),
            (8, whole(&activations.chosen)),
            (9, whole(&self.blocks)),
            (10, cache.onwards()),
            (11, whole(&self.tables)),
            (12, whole(&self.tables)),
            (13, whole(&self.wire)),
        ];
        let bound = bindings(&self.shape.text);
        views.retain(|(number, _)| bound.iter().any(|(binding, _)| binding == number));
        bind(&self.device, &self.kernel, &views)
    }

    /// Records the dispatch of `turns` tokens, and writes for the next submit how many they are.
    pub(super) fn record(&self, pass: &mut ComputePass<'_>, binds: &BindGroup, turns: u32) {
        self.record_as(&self.kernel, pass, binds, turns);
    }

    /// The same by `kernel`, which [`Self::without`] made.
    pub(super) fn record_as(&self, kernel: &Kernel, pass: &mut ComputePass<'_>, binds: &BindGroup, turns: u32) {
        let (flag, _) = self.take_flags(turns);
        self.write(Control { turns, flag });
        self.dispatch(kernel, pass, binds);
    }

    /// Records the dispatch of a step. [`Self::step`] is to be called in front of each submit of it.
    pub(super) fn record_step(&self, pass: &mut ComputePass<'_>, binds: &BindGroup) {
        self.dispatch(&self.kernel, pass, binds);
    }

    /// To be called in front of the submit of a step.
    pub(super) fn step(&self) {
        // The kernel counts by itself: a write would be a command of its own in front of every step.
        if let (flag, true) = self.take_flags(1) {
            self.write(Control { turns: 1, flag });
        }
    }

    fn dispatch(&self, kernel: &Kernel, pass: &mut ComputePass<'_>, binds: &BindGroup) {
        pass.set_pipeline(&kernel.pipeline);
        pass.set_bind_group(0, binds, &[]);
        pass.dispatch_workgroups(self.groups, 1, 1);
    }

    fn write(&self, control: Control) {
        self.device.queue.write_buffer(&self.control, 0, bytemuck::bytes_of(&control));
    }

    /// The first flag of a dispatch of `turns` tokens, and whether flags begin anew with it: with a clean wire, before they
    /// run out.
    fn take_flags(&self, turns: u32) -> (u32, bool) {
        let (used, flag) = (turns * (self.layers + 1), self.flag.load(Ordering::Relaxed));
        let anew = flag.checked_add(used).is_none();
        if anew {
            self.device.queue.write_buffer(&self.wire, 0, &vec![0; self.wire.size() as usize]);
        }
        let flag = if anew { FIRST_FLAG } else { flag };
        self.flag.store(flag + used, Ordering::Relaxed);
        (flag, anew)
    }
}

/// To be called inside [`GpuDevice::guarded`].
fn compile(device: &GpuDevice, shape: &Shape, left_out: u32) -> Kernel {
    let overrides: Vec<(&str, f64)> = shape
        .overrides
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .chain([("LEFT_OUT", f64::from(left_out)), ("PATIENCE", f64::from(PATIENCE))])
        .collect();
    Kernels::plain(device).compile("persist", shape.text.clone(), &overrides)
}

/// Loads in one wait at most: about a tenth of a second.
const PATIENCE: u32 = 1 << 17;

/// The first flag: a clean wire has none like it.
const FIRST_FLAG: u32 = 1;

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use syn1_model::plan::WeightFormat;
    use syn1_model::{Spec, random_piece};

    use super::super::engine::{GpuEngine, GpuOptions, Persistence};
    use super::*;
    use crate::engine::{Decode, Engine, Input, Step};

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

    /// An engine whose steps are one dispatch of one workgroup.
    fn stepping() -> GpuEngine {
        let device = GpuDevice::open("gpu").unwrap_or_else(|error| panic!("this test needs a GPU adapter: {error}"));
        let spec = Spec { width: 64, heads: 2, kv_heads: 2, head_dim: 32, ffn: 128, layers: 3, ..Spec::gpt2_124m() };
        let plan = Plan::new(&spec, WeightFormat::F16, 1..3);
        let pieces: Vec<_> =
            plan.pieces.iter().map(|piece| random_piece(&spec, WeightFormat::F16, *piece, 3)).collect();
        let config = EngineConfig { max_positions: 64, slots: 1, max_rows: 4 };
        let steps = Persistence::Sized { groups: 1, threads: 64 };
        GpuEngine::with_options(&device, plan, &pieces, config, GpuOptions { steps, ..GpuOptions::default() }).unwrap()
    }

    /// The rows of 20 steps of one row; `seen` is called in front of each.
    fn rows(engine: &mut GpuEngine, mut seen: impl FnMut(&mut GpuEngine, usize)) -> Vec<f32> {
        let slot = engine.open().unwrap();
        let (mut all, mut out) = (Vec::new(), Vec::new());
        for position in 0..20 {
            let row: Vec<f32> = (0..64).map(|i| ((position * 64 + i) as f32 * 0.37).sin()).collect();
            seen(engine, position);
            let step = Step { slot, position, input: Input::Rows(&row), wanted: 0 };
            pollster::block_on(engine.run(step, &mut out)).unwrap();
            all.extend_from_slice(&out);
        }
        engine.close(slot);
        all
    }

    #[test]
    fn a_step_whose_workgroups_give_up_is_done_again_by_the_other_kernels() {
        let mut engine = stepping();
        let want = rows(&mut engine, |engine, _| assert!(engine.steps_in_one_dispatch()));
        let got = rows(&mut engine, |engine, position| {
            assert_eq!(engine.steps_in_one_dispatch(), position <= 10);
            if position == 10 {
                let steps = engine.steps.as_ref().unwrap();
                steps.device.queue.write_buffer(&steps.status, 0, &1_u32.to_le_bytes());
            }
        });
        assert!(got.iter().zip(&want).all(|(got, want)| (got - want).abs() < 2e-3), "{got:?} {want:?}");
    }

    #[test]
    fn the_flags_of_steps_begin_anew_with_a_clean_wire_before_they_run_out() {
        let mut engine = stepping();
        let want = rows(&mut engine, |_, _| ());
        let got = rows(&mut engine, |engine, position| {
            let steps = engine.steps.as_ref().unwrap();
            if position == 5 {
                // Rows of the last step must not look like the next one's.
                let flag = steps.flag.load(Ordering::Relaxed) % 4 + (u32::MAX - 15);
                steps.flag.store(flag, Ordering::Relaxed);
                steps.write(Control { turns: 1, flag });
            }
        });
        assert_eq!(got, want);
        let flag = engine.steps.as_ref().unwrap().flag.load(Ordering::Relaxed);
        assert!((2..1000).contains(&flag), "{flag}");
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
