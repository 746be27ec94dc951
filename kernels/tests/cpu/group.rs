//! Steps of several requests in one pass.

use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Engine, EngineConfig, EngineError, Input, Slot, Step, StepResult};
use syn1_model::plan::{Plan, WeightFormat};

use crate::plain::{arbitrary_pieces, kinds};
use crate::{Model, fixtures, now, odd_spec, run, step};

const EIGHT: EngineConfig = EngineConfig { max_positions: 80, slots: 9, max_rows: 24 };

/// Runs the steps together; the bits of each one's values.
fn together(engine: &mut CpuEngine, steps: &[Step<'_>]) -> Vec<Result<Vec<u32>, EngineError>> {
    let (mut out, mut results) = (Vec::new(), Vec::new());
    now(engine.run_many(steps, &mut out, &mut results));
    assert_eq!(results.len(), steps.len());
    let bits = |result: StepResult| result.map(|range| out[range].iter().map(|value| value.to_bits()).collect());
    results.into_iter().map(bits).collect()
}

/// The bits of a step that runs alone.
fn alone(engine: &mut CpuEngine, step: Step<'_>) -> Vec<u32> {
    let mut out = Vec::new();
    now(engine.run(step, &mut out)).unwrap();
    out.iter().map(|value| value.to_bits()).collect()
}

/// Eight prompts of different lengths, fed one by one to both engines; the slots in each, and the positions.
fn prompts(engines: [&mut CpuEngine; 2], vocab: usize) -> (Vec<Slot>, Vec<usize>) {
    let lengths = [1, 7, 3, 20, 12, 2, 9, 16];
    let mut slots = Vec::new();
    for engine in engines {
        slots = (0..8).map(|_| engine.open().unwrap()).collect();
        for (request, (&slot, &length)) in slots.iter().zip(&lengths).enumerate() {
            let ids: Vec<u32> = (0..length).map(|i| token(request, i, vocab)).collect();
            run(engine, slot, 0, Input::Tokens(&ids), length, &mut Vec::new());
        }
    }
    (slots, lengths.to_vec())
}

fn token(request: usize, position: usize, vocab: usize) -> u32 {
    ((request * 31 + position * 7 + request * position) % vocab) as u32
}

/// Five tokens of eight requests, each turn as one group and one by one.
fn check(what: &str, plan: &Plan, engine: impl Fn(usize) -> CpuEngine) {
    let (mut grouped, mut single) = (engine(2), engine(1));
    let vocab = plan.spec.vocab;
    let (slots, mut positions) = prompts([&mut grouped, &mut single], vocab);
    for turn in 0..5 {
        let ids: Vec<[u32; 1]> = (0..8).map(|request| [token(request + turn, positions[request], vocab)]).collect();
        let steps: Vec<Step<'_>> = (0..8).map(|i| step(slots[i], positions[i], Input::Tokens(&ids[i]), 0)).collect();
        let got = together(&mut grouped, &steps);
        for (request, got) in got.into_iter().enumerate() {
            let want = alone(&mut single, steps[request]);
            assert_eq!(want.len(), vocab);
            assert!(got.as_deref() == Ok(&want), "{what}, request {request}, turn {turn}");
        }
        positions.iter_mut().for_each(|position| *position += 1);
    }
}

#[test]
fn eight_requests_together_give_the_bits_of_each_alone_for_every_fixture() {
    for folder in fixtures() {
        let model = Model::open(&folder);
        for format in WeightFormat::ALL {
            let plan = Plan::new(&model.spec, format, 0..model.spec.layers);
            let pieces: Vec<_> = plan.pieces.iter().map(|piece| model.folder.piece(*piece, format).unwrap()).collect();
            let engine = |threads| CpuEngine::new(plan.clone(), &pieces, EIGHT, Some(threads)).unwrap();
            check(&format!("{folder} {format}"), &plan, engine);
        }
    }
}

#[test]
fn eight_requests_together_give_the_bits_of_each_alone_for_every_kind_of_model() {
    for (name, spec) in kinds().into_iter().chain([("ragged", odd_spec())]) {
        for format in WeightFormat::ALL {
            let plan = Plan::new(&spec, format, 0..spec.layers);
            let pieces = arbitrary_pieces(&plan);
            let engine = |threads| CpuEngine::new(plan.clone(), &pieces, EIGHT, Some(threads)).unwrap();
            check(&format!("{name} {format}"), &plan, engine);
        }
    }
}

#[test]
fn a_mixture_of_prompts_and_single_tokens_gives_the_bits_of_each_alone_behind_any_layer() {
    let spec = odd_spec();
    let parts = [0..spec.layers, 0..2, 1..spec.layers, 1..2];
    for (layers, format) in
        parts.into_iter().flat_map(|layers| WeightFormat::ALL.map(|format| (layers.clone(), format)))
    {
        let plan = Plan::new(&spec, format, layers);
        let pieces = arbitrary_pieces(&plan);
        let engine = |threads| CpuEngine::new(plan.clone(), &pieces, EIGHT, Some(threads)).unwrap();
        let (mut grouped, mut single) = (engine(2), engine(1));
        let slots: Vec<Slot> = (0..5).map(|_| (grouped.open().unwrap(), single.open().unwrap()).0).collect();
        let ids: Vec<u32> = (0..40).map(|i| token(3, i, spec.vocab)).collect();
        let rows: Vec<f32> = (0..40 * spec.width).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
        let input = |first: usize, count: usize| match plan.embeds() {
            true => Input::Tokens(&ids[first..first + count]),
            false => Input::Rows(&rows[first * spec.width..(first + count) * spec.width]),
        };
        // Rows, and the first that is wanted: more than one pass has room for, none and some wanted.
        let shapes = [(1, 0), (7, 7), (9, 8), (1, 1), (11, 3)];
        for turn in 0..2 {
            let all = |i: usize| step(slots[i], turn * shapes[i].0, input(3 * i, shapes[i].0), shapes[i].1);
            let steps: Vec<Step<'_>> = (0..5).map(all).collect();
            for (index, got) in together(&mut grouped, &steps).into_iter().enumerate() {
                let want = alone(&mut single, steps[index]);
                let count = if plan.heads() { (shapes[index].0 - shapes[index].1) * spec.vocab } else { 0 };
                assert_eq!(want.len(), if plan.heads() { count } else { shapes[index].0 * spec.width });
                assert!(got.as_deref() == Ok(&want), "{format} {:?}, step {index}, turn {turn}", plan.layers);
            }
        }
    }
}

#[test]
fn a_step_that_is_refused_fails_alone() {
    let model = Model::open("fixtures/gpt2");
    let plan = Plan::new(&model.spec, WeightFormat::F16, 0..model.spec.layers);
    let pieces: Vec<_> =
        plan.pieces.iter().map(|piece| model.folder.piece(*piece, WeightFormat::F16).unwrap()).collect();
    let engine = |threads| CpuEngine::new(plan.clone(), &pieces, EIGHT, Some(threads)).unwrap();
    let (mut grouped, mut single) = (engine(2), engine(1));
    let (slots, positions) = prompts([&mut grouped, &mut single], plan.spec.vocab);
    let beyond = u32::try_from(plan.spec.vocab).unwrap();
    let unknown = [beyond];
    let steps = [
        step(slots[0], positions[0], Input::Tokens(&[5]), 0),
        step(slots[1], positions[1] + 1, Input::Tokens(&[5]), 0),
        step(slots[2], positions[2], Input::Tokens(&unknown), 0),
        step(slots[0], positions[0] + 1, Input::Tokens(&[5]), 0),
        step(Slot(8), 0, Input::Tokens(&[5]), 0),
        step(slots[3], positions[3], Input::Tokens(&[9]), 0),
    ];
    let got = together(&mut grouped, &steps);
    assert_eq!(got[0], Ok(alone(&mut single, steps[0])));
    assert_eq!(got[1], Err(EngineError::Gap { have: positions[1], got: positions[1] + 1 }));
    assert_eq!(got[2], Err(EngineError::Token { id: beyond, vocab: plan.spec.vocab }));
    assert_eq!(got[3], Err(EngineError::Twice(slots[0].0)));
    assert_eq!(got[4], Err(EngineError::NoSlot(8)));
    assert_eq!(got[5], Ok(alone(&mut single, steps[5])));
    // What was refused left its cache alone.
    let after = step(slots[1], positions[1], Input::Tokens(&[5]), 0);
    assert_eq!(together(&mut grouped, &[after])[0], Ok(alone(&mut single, after)));
    assert_eq!(together(&mut grouped, &[]), []);
}
