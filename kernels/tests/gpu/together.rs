//! Token rows of several requests in one pass.

use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Engine, EngineConfig, EngineError, Input, Slot, Step, StepResult};
use syn1_kernels::gpu::{GpuDevice, GpuEngine, GpuOptions};
use syn1_model::piece::PieceBytes;
use syn1_model::plan::{Plan, WeightFormat};

use crate::plain::{arbitrary_pieces, kinds};
use crate::setup::*;

/// Runs the steps together; the values of each.
fn together(engine: &mut impl Engine, steps: &[Step<'_>]) -> Vec<Result<Vec<f32>, EngineError>> {
    let (mut out, mut results) = (Vec::new(), Vec::new());
    pollster::block_on(engine.run_many(steps, &mut out, &mut results));
    assert_eq!(results.len(), steps.len());
    results.into_iter().map(|result: StepResult| result.map(|range| out[range].to_vec())).collect()
}

fn alone(engine: &mut impl Engine, step: Step<'_>) -> Vec<f32> {
    let mut out = Vec::new();
    pollster::block_on(engine.run(step, &mut out)).unwrap();
    out
}

/// Both engines, the GPU's with room for a few caches a bank where `window` says so.
fn engines(
    device: &GpuDevice,
    plan: &Plan,
    pieces: &[PieceBytes],
    options: GpuOptions,
    slots: usize,
) -> (GpuEngine, CpuEngine) {
    let config = EngineConfig { max_positions: plan.spec.max_positions.min(96), slots, max_rows: 40 };
    let gpu = GpuEngine::with_options(device, plan.clone(), pieces, config, options).unwrap();
    (gpu, CpuEngine::new(plan.clone(), pieces, config, Some(2)).unwrap())
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// `count` requests with prompts of different lengths, then three turns of one token each, all together on the GPU and one
/// by one on the CPU.
fn check(what: &str, gpu: &mut GpuEngine, cpu: &mut CpuEngine, count: usize, tolerance: f64) {
    let spec = gpu.plan().spec.clone();
    let ids = ids(&spec, 64);
    let slots: Vec<Slot> = (0..count).map(|_| (cpu.open().unwrap(), gpu.open().unwrap()).1).collect();
    let mut positions: Vec<usize> = (0..count).map(|request| 1 + 7 * request % 20).collect();
    for (request, (&slot, &length)) in slots.iter().zip(&positions).enumerate() {
        let prompt = Input::Tokens(&ids[request..request + length]);
        let step = Step { slot, position: 0, input: prompt, wanted: length };
        assert!(alone(gpu, step).is_empty() && alone(cpu, step).is_empty());
    }
    for turn in 0..3 {
        let each = |i: usize| {
            let input = Input::Tokens(&ids[30 + i + turn..31 + i + turn]);
            Step { slot: slots[i], position: positions[i], input, wanted: 0 }
        };
        let steps: Vec<Step<'_>> = (0..count).map(each).collect();
        for (request, got) in together(gpu, &steps).into_iter().enumerate() {
            let want = wide(&alone(cpu, steps[request]));
            assert_close(&got.unwrap(), &want, tolerance, &format!("{what}, request {request}, turn {turn}"));
        }
        positions.iter_mut().for_each(|position| *position += 1);
    }
    slots.into_iter().for_each(|slot| (gpu.close(slot), cpu.close(slot)).1);
}

/// f32 differs by the order of sums alone; f16 KV caches may round a value the other way.
fn tolerance(format: WeightFormat) -> f64 {
    if format == WeightFormat::F32 { 4e-5 } else { 2e-3 }
}

#[test]
fn eight_requests_together_give_what_each_gives_alone_on_the_cpu_for_every_fixture() {
    let device = device();
    let fixtures = ["gemma2", "gemma3", "gpt2", "llama", "llama3", "mistral", "phi3", "qwen2", "qwen3", "smollm3"];
    for path in fixtures.map(|name| format!("fixtures/{name}")).into_iter().chain(["models/tiny-rust-docs".into()]) {
        let folder = model(&path);
        for format in FORMATS {
            let (plan, pieces) = packed(&folder, format);
            for options in twins() {
                let (mut gpu, mut cpu) = engines(&device, &plan, &pieces, options, 8);
                check(&format!("{path} {format} {options:?}"), &mut gpu, &mut cpu, 8, tolerance(format));
            }
        }
    }
}

#[test]
fn any_number_of_requests_of_every_kind_of_model_give_what_each_gives_alone() {
    let device = device();
    for (name, spec) in kinds().into_iter().chain([("ragged", ragged()), ("odd", odd())]) {
        for format in WeightFormat::ALL {
            let plan = Plan::new(&spec, format, 0..spec.layers);
            let pieces = arbitrary_pieces(&plan);
            let (mut gpu, mut cpu) = engines(&device, &plan, &pieces, twins()[0], 9);
            for count in [2, 3, 9] {
                check(&format!("{name}, {format}, {count} requests"), &mut gpu, &mut cpu, count, tolerance(format));
            }
        }
    }
}

#[test]
fn caches_in_several_banks_and_an_engine_without_banks_give_the_same() {
    let (device, spec) = (device(), ragged());
    let plan = Plan::new(&spec, WeightFormat::F16, 0..spec.layers);
    let pieces = arbitrary_pieces(&plan);
    // A layer's cache of 96 positions has 36,864 bytes: three of them, and one.
    for window_bytes in [120_000, 40_000] {
        let options = GpuOptions { window_bytes, ..twins()[0] };
        let (mut gpu, mut cpu) = engines(&device, &plan, &pieces, options, 8);
        check(&format!("windows of {window_bytes} bytes"), &mut gpu, &mut cpu, 8, 2e-3);
    }
    let options = GpuOptions { tiles: false, ..twins()[0] };
    let (mut gpu, mut cpu) = engines(&device, &plan, &pieces, options, 8);
    check("no kernels for several rows", &mut gpu, &mut cpu, 8, 2e-3);
}

#[test]
fn a_mixture_of_prompts_and_single_tokens_gives_what_each_gives_alone_behind_any_layer() {
    let (device, spec) = (device(), ragged());
    let ids = ids(&spec, 80);
    let rows: Vec<f32> = (0..80 * spec.width).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
    for layers in [0..3, 0..2, 1..3, 1..2] {
        let plan = Plan::new(&spec, WeightFormat::F16, layers);
        let pieces = arbitrary_pieces(&plan);
        for options in twins().into_iter().chain([GpuOptions { carried: false, ..twins()[0] }]) {
            let (mut gpu, mut cpu) = engines(&device, &plan, &pieces, options, 5);
            let slots: Vec<Slot> = (0..5).map(|_| (cpu.open().unwrap(), gpu.open().unwrap()).1).collect();
            let input = |first: usize, count: usize| match plan.embeds() {
                true => Input::Tokens(&ids[first..first + count]),
                false => Input::Rows(&rows[first * spec.width..(first + count) * spec.width]),
            };
            // Rows, and the first that is wanted: with one too long for a group, none and some wanted.
            let shapes = [(1, 0), (7, 7), (9, 8), (1, 1), (38, 36)];
            for turn in 0..2 {
                let each = |i: usize| Step {
                    slot: slots[i],
                    position: turn * shapes[i].0,
                    input: input(3 * i, shapes[i].0),
                    wanted: shapes[i].1,
                };
                let steps: Vec<Step<'_>> = (0..5).map(each).collect();
                for (index, got) in together(&mut gpu, &steps).into_iter().enumerate() {
                    let want = wide(&alone(&mut cpu, steps[index]));
                    let what = format!("{:?}, step {index}, turn {turn}, {options:?}", plan.layers);
                    assert_close(&got.unwrap(), &want, 2e-3, &what);
                }
            }
        }
    }
}

#[test]
fn a_step_that_is_refused_fails_alone_and_leaves_its_cache() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let (mut gpu, mut cpu) = engines(&device, &plan, &pieces, twins()[0], 4);
    let slots: Vec<Slot> = (0..3).map(|_| (cpu.open().unwrap(), gpu.open().unwrap()).1).collect();
    let step = |slot, position, ids| Step { slot, position, input: Input::Tokens(ids), wanted: 0 };
    let steps = [
        step(slots[0], 0, &[5, 6][..]),
        step(slots[1], 3, &[5]),
        step(slots[0], 2, &[5]),
        step(Slot(3), 0, &[5]),
        step(slots[2], 0, &[1001]),
        step(slots[2], 0, &[9]),
    ];
    let got = together(&mut gpu, &steps);
    assert_close(got[0].as_ref().unwrap(), &wide(&alone(&mut cpu, steps[0])), 2e-3, "the first");
    assert_eq!(got[1], Err(EngineError::Gap { have: 0, got: 3 }));
    assert_eq!(got[2], Err(EngineError::Twice(slots[0].0)));
    assert_eq!(got[3], Err(EngineError::NoSlot(3)));
    assert_eq!(got[4], Err(EngineError::Token { id: 1001, vocab: 1001 }));
    assert_eq!(got[5], Err(EngineError::Twice(slots[2].0)));
    let steps = [step(slots[0], 2, &[7][..]), step(slots[1], 0, &[3]), step(slots[2], 0, &[9])];
    for (got, step) in together(&mut gpu, &steps).into_iter().zip(steps) {
        assert_close(&got.unwrap(), &wide(&alone(&mut cpu, step)), 2e-3, "behind what was refused");
    }
}
