//! Measures which division of workgroups is the fastest for each shape of product.
//!
//! Every shape's candidates run on the model's own weights: those of all layers in turn, behind a read of other memory, so
//! that nothing is in a cache that would not be there in a token. Their pipelines are made first: a GPU that waits for a
//! compiler between two measurements lowers its clock. Then all candidates take turns, and the shortest time of each counts.

use std::time::Duration;

use syn1_model::plan::{Gemv, Plan};
use web_time::Instant;
use wgpu::{BindGroup, BufferUsages, ComputePass};

use super::device::GpuDevice;
use super::division::{Division, Room};
use super::gemv::{Epilogue, GemvShape, Product};
use super::launch::{Binds, Extent, Launch};
use super::memory::{Uniforms, View, bind, buffer};
use super::rounds::Rounds;
use super::shader::Kernels;
use super::tuning::Tuning;
use super::weights::Weights;
use crate::engine::EngineError;

/// The products of one shape, and what was found.
struct Contest<'a> {
    gemvs: Vec<&'a Gemv>,
    candidates: Vec<Division>,
    entries: Vec<Entry>,
}

/// A candidate whose pipeline is there.
struct Entry {
    division: Division,
    launches: Vec<Launch>,
    took: Duration,
}

/// Chooses a division for every shape of `plan` that has none in `tuning`. Takes about [`COMPILING`] and [`MEASURING`].
///
/// # Errors
/// [`EngineError::Memory`] or [`EngineError::Device`].
pub(super) fn tune(
    device: &GpuDevice,
    plan: &Plan,
    weights: &Weights,
    subgroups: Option<(u32, u32)>,
    window_bytes: u64,
    tuning: &mut Tuning,
) -> Result<(), EngineError> {
    let missing = tuning.missing(plan);
    if missing.is_empty() {
        return Ok(());
    }
    let room = Room::of(device, subgroups);
    let scratch = Scratch::new(device, &missing)?;
    let rounds = Rounds::new(device, BETWEEN, &View::whole(&scratch.state))?;
    let contest = |gemvs: Vec<_>| {
        let gemv: &Gemv = gemvs[0];
        Contest { candidates: Division::candidates(&gemv.matrix, room), gemvs, entries: Vec::new() }
    };
    let mut contests: Vec<Contest<'_>> = missing.into_iter().map(contest).collect();
    let mut kernels = Kernels::new(device, plan.format.kv(), subgroups);
    let begun = Instant::now();
    let most = contests.iter().map(|contest| contest.candidates.len()).max().unwrap_or(0);
    // The shapes take turns, so that where time runs out all have as many candidates.
    let shapes = contests.len();
    for (number, shape) in (0..most).flat_map(|number| (0..shapes).map(move |shape| (number, shape))) {
        let Contest { gemvs, candidates, entries } = &mut contests[shape];
        let Some(&division) = candidates.get(number).filter(|_| number == 0 || begun.elapsed() < COMPILING) else {
            continue;
        };
        let made = device.guarded("pipelines that are tried", 0, || {
            scratch.launches(device, &mut kernels, weights, gemvs, division, window_bytes)
        });
        match made {
            Ok(launches) => entries.push(Entry { division, launches, took: Duration::MAX }),
            // A pipeline that the driver refuses is none to choose; a lost device says so again.
            Err(_) => device.check()?,
        }
    }
    measure(&rounds, &mut contests)?;
    for Contest { gemvs, candidates, entries } in contests {
        let usual = entries.iter().find(|entry| entry.division == candidates[0]);
        let best = entries.iter().min_by_key(|entry| entry.took);
        let gains = |best: &&Entry| usual.is_none_or(|usual| usual.took.as_secs_f64() > GAIN * best.took.as_secs_f64());
        for Entry { division, took, .. } in &entries {
            tracing::debug!("{}: {division}: {:.2} us", Tuning::shape(gemvs[0]), took.as_secs_f64() * 1e6);
        }
        tuning.choose(gemvs[0], best.filter(gains).map_or(candidates[0], |best| best.division));
    }
    Ok(())
}

/// Finds the shortest time of every entry's dispatch.
fn measure(rounds: &Rounds<'_>, contests: &mut [Contest<'_>]) -> Result<(), EngineError> {
    let begun = Instant::now();
    let mut passes = 0;
    while passes < PASSES_AT_LEAST || begun.elapsed() < MEASURING {
        for Contest { entries, .. } in &mut *contests {
            let empty = rounds.submit(ROUNDS, &mut |_| ())?.min(rounds.submit(ROUNDS, &mut |_| ())?);
            for Entry { launches, took, .. } in entries {
                let mut record = |pass: &mut ComputePass<'_>| {
                    launches.iter().for_each(|launch| launch.record(pass, NO_SLOT, Extent::new(0, 1)));
                };
                let with = rounds.submit(ROUNDS, &mut record)?;
                let each = with.saturating_sub(empty) / (ROUNDS * launches.len().max(1) as u32);
                // The first pass warms up.
                if passes > 0 {
                    *took = each.min(*took);
                }
            }
        }
        passes += 1;
    }
    Ok(())
}

/// What products are tried with beside weights.
struct Scratch {
    x: wgpu::Buffer,
    y: wgpu::Buffer,
    /// Bound by every dispatch.
    state: wgpu::Buffer,
}

impl Scratch {
    fn new(device: &GpuDevice, groups: &[Vec<&Gemv>]) -> Result<Self, EngineError> {
        let matrices = || groups.iter().map(|gemvs| &gemvs[0].matrix);
        let x = 4 * matrices().map(|matrix| matrix.stride).max().unwrap_or(0) as u64;
        let y = 4 * matrices().map(|matrix| matrix.rows.next_multiple_of(4)).max().unwrap_or(0) as u64;
        device.guarded("the measurement of kernels", x + y, || {
            let make = |label, bytes| buffer(device, label, bytes, BufferUsages::STORAGE);
            Self { x: make("tried x", x), y: make("tried y", y), state: make("tried state", 32) }
        })
    }

    /// The dispatches of `gemvs`, as many as have [`ROUND_BYTES`] together.
    fn launches(
        &self,
        device: &GpuDevice,
        kernels: &mut Kernels<'_>,
        weights: &Weights,
        gemvs: &[&Gemv],
        division: Division,
        window_bytes: u64,
    ) -> Vec<Launch> {
        let (mut launches, mut bytes) = (Vec::new(), 0);
        let mut uniforms = Uniforms::new(device);
        for gemv in gemvs {
            let product =
                Product::new(kernels, weights, gemv, Epilogue::Store { cap: None }, division, false, window_bytes);
            for window in &product.windows {
                if bytes >= ROUND_BYTES {
                    return launches;
                }
                bytes += u64::from(window.shape.rows) * gemv.matrix.row_bytes() as u64;
                let x_stride = (gemv.matrix.stride / 4) as u32;
                let shape = GemvShape { x_stride, y_stride: window.shape.rows.div_ceil(4), ..window.shape };
                let mut views = product.views.clone();
                views.extend([
                    (0, window.weights.clone()),
                    (2, View::whole(&self.x)),
                    (3, View::whole(&self.state)),
                    (4, uniforms.slot(&shape)),
                    (6, View::whole(&self.y)),
                ]);
                launches.push(window.launch(&product, Binds::Shared(bind(device, &product.one, &views))));
            }
        }
        launches
    }
}

/// None of these dispatches needs a KV cache.
const NO_SLOT: &[BindGroup] = &[];

/// No candidate's pipeline is begun after this, but for the usual ones.
const COMPILING: Duration = Duration::from_millis(600);

/// No pass over all candidates is begun after this ...
const MEASURING: Duration = Duration::from_millis(200);

/// ... but for so many, of which the first warms up.
const PASSES_AT_LEAST: usize = 3;

/// Rounds of a submit: enough to make its own cost small.
const ROUNDS: u32 = 8;

/// Bytes of weights in a round at most, but for those of one matrix.
const ROUND_BYTES: u64 = 96 << 20;

/// Bytes that are read between two rounds: more than most caches hold.
const BETWEEN: u64 = 64 << 20;

/// How much faster than the usual division another must be.
const GAIN: f64 = 1.03;

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use syn1_model::plan::WeightFormat;
    use syn1_model::{Spec, random_piece};

    use super::*;
    use crate::cpu::CpuEngine;
    use crate::engine::{Decode, Engine, EngineConfig, Input, Slot, Step};
    use crate::gpu::{GpuEngine, GpuOptions};

    fn device() -> GpuDevice {
        GpuDevice::open("gpu").unwrap_or_else(|error| panic!("this test needs a GPU adapter: {error}"))
    }

    /// Rows that are no multiple of four, rows of inputs that fill every number of lanes, and every epilogue.
    fn specs() -> [Spec; 2] {
        let gpt2 = Spec { layers: 1, width: 96, heads: 6, kv_heads: 6, head_dim: 16, ffn: 2100, ..Spec::gpt2_124m() };
        let llama = Spec { layers: 1, width: 80, heads: 4, kv_heads: 2, head_dim: 24, ffn: 300, ..Spec::llama_1b() };
        [gpt2, llama].map(|spec| Spec { vocab: 333, max_positions: 40, ..spec })
    }

    fn logits(engine: &mut impl Engine, slot: Slot) -> Vec<f32> {
        let mut out = Vec::new();
        for (position, id) in [5, 300, 17].into_iter().enumerate() {
            let step = Step { slot, position, input: Input::Tokens(&[id]), wanted: 0 };
            pollster::block_on(engine.run(step, &mut out)).unwrap();
        }
        out
    }

    #[test]
    fn every_division_gives_the_cpus_logits_and_loops_as_it_steps() {
        let device = device();
        for (spec, format) in specs().iter().flat_map(|spec| WeightFormat::ALL.map(|format| (spec, format))) {
            let plan = Plan::new(spec, format, 0..1);
            let pieces: Vec<_> = plan.pieces.iter().map(|piece| random_piece(spec, format, *piece, 3)).collect();
            let config = EngineConfig { max_positions: 40, slots: 1, max_rows: 1 };
            let mut cpu = CpuEngine::new(plan.clone(), &pieces, config, Some(1)).unwrap();
            let slot = cpu.open().unwrap();
            let want = logits(&mut cpu, slot);
            let largest = want.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
            // Without subgroups the epilogues, which differ by model, are the same text.
            let twins = if spec.gated { &[true][..] } else { &[true, false] };
            for &subgroups in twins {
                let room = Room::of(&device, device.subgroup_sizes().filter(|_| subgroups));
                let gemvs: Vec<&Gemv> = plan.ops.iter().filter_map(|op| op.gemv()).collect();
                let divisions = gemvs.iter().map(|gemv| Division::candidates(&gemv.matrix, room));
                let divisions: Vec<Vec<Division>> = divisions.collect();
                for number in 0..divisions.iter().map(Vec::len).max().unwrap() {
                    let mut tuning = Tuning::new(&device);
                    for (gemv, candidates) in gemvs.iter().zip(&divisions) {
                        tuning.choose(gemv, candidates[number % candidates.len()]);
                    }
                    let options = GpuOptions { subgroups, ..GpuOptions::default() };
                    let mut gpu =
                        GpuEngine::tuned(&device, plan.clone(), &pieces, config, options, &mut tuning).unwrap();
                    let slot = gpu.open().unwrap();
                    let got = logits(&mut gpu, slot);
                    let what = format!("{format}, width {}, {}", spec.width, tuning.to_text());
                    for (got, want) in got.iter().zip(&want) {
                        assert!((got - want).abs() <= 2e-3 * largest, "{got} for {want}: {what}");
                    }
                    let mut ids = Vec::new();
                    let sink = |id| {
                        ids.push(id);
                        ControlFlow::Continue(())
                    };
                    pollster::block_on(gpu.decode(Decode::greedy(slot, 2, 17, 1), sink)).unwrap();
                    assert!(got.iter().all(|logit| *logit <= got[ids[0] as usize]), "{ids:?}: {what}");
                }
            }
        }
    }

    #[test]
    fn tuning_chooses_for_every_shape_of_the_plan_once_and_is_read_back_as_it_was_written() {
        let device = device();
        let spec = Spec { layers: 2, ..specs()[0].clone() };
        let plan = Plan::new(&spec, WeightFormat::F16, 0..2);
        let pieces: Vec<_> = plan.pieces.iter().map(|piece| random_piece(&spec, plan.format, *piece, 3)).collect();
        let weights = Weights::upload(&device, &plan, &pieces, false).unwrap();
        let mut tuning = Tuning::new(&device);
        assert_eq!(tuning.missing(&plan).iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1, 2, 2]);
        tune(&device, &plan, &weights, device.subgroup_sizes(), 1 << 20, &mut tuning).unwrap();
        assert!(tuning.missing(&plan).is_empty() && tuning.len() == 5, "{}", tuning.to_text());
        assert_eq!(Tuning::from_text(&device, &tuning.to_text()), Ok(tuning));
    }
}
