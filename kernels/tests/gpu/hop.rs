//! A shard of a chain: commands that were recorded ahead give what commands recorded when their step came give.

use syn1_kernels::engine::{Engine, Input, Slot, Step};
use syn1_kernels::gpu::{GpuEngine, GpuOptions};
use syn1_model::plan::{Plan, WeightFormat};

use crate::setup::*;

/// A step of one of two requests.
struct Turn {
    request: usize,
    position: usize,
    rows: usize,
    /// Rows whose logits are not wanted.
    wanted: usize,
    /// Whether its commands must have been ready, where that is certain.
    ready: Option<bool>,
}

const fn turn(request: usize, position: usize, rows: usize, wanted: usize, ready: Option<bool>) -> Turn {
    Turn { request, position, rows, wanted, ready }
}

/// Right and wrong guesses, those of another request between them.
const TURNS: [Turn; 19] = [
    turn(0, 0, 9, 8, Some(false)),
    turn(1, 0, 100, 99, Some(false)),
    turn(1, 100, 100, 99, Some(true)),
    turn(0, 9, 1, 0, Some(false)),
    turn(0, 10, 1, 0, Some(true)),
    turn(1, 200, 160, 160, Some(false)),
    turn(0, 11, 1, 0, Some(true)),
    // No logits.
    turn(0, 12, 1, 1, None),
    turn(0, 13, 1, 0, None),
    // Guessed tokens, one of them wrong: a step back.
    turn(0, 14, 3, 0, Some(false)),
    turn(0, 15, 3, 0, Some(true)),
    turn(0, 16, 3, 0, Some(true)),
    // Towards contexts that are computed in several parts, and back.
    turn(1, 360, 1, 0, Some(false)),
    turn(1, 361, 1, 0, Some(true)),
    turn(1, 362, 60, 0, Some(false)),
    turn(1, 422, 1, 0, Some(false)),
    turn(1, 423, 1, 0, Some(true)),
    turn(1, 300, 1, 0, None),
    turn(0, 19, 1, 0, Some(false)),
];

/// Runs the turns; with `spoil` behind a step in the same place that no other is like.
fn play(engine: &mut GpuEngine, slots: [Slot; 2], spoil: bool) -> Vec<Vec<f32>> {
    let plan = engine.plan().clone();
    let (all, width) = (ids(&plan.spec, 600), plan.spec.width);
    let values: Vec<f32> = (0..600 * width).map(|i| ((i * 7 + i / width) as f32 * 0.37).sin()).collect();
    let mut step = |turn: &Turn, position: usize, rows: usize, wanted: usize| {
        let input = if plan.embeds() {
            Input::Tokens(&all[position..position + rows])
        } else {
            Input::Rows(&values[position * width..(position + rows) * width])
        };
        let mut out = Vec::new();
        let step = Step { slot: slots[turn.request], position, input, wanted };
        pollster::block_on(engine.run(step, &mut out)).unwrap();
        (out, engine.last_step().prepared)
    };
    let results = TURNS.iter().map(|turn| {
        if spoil {
            step(turn, turn.position, turn.rows + 1, turn.wanted.min(turn.rows));
        }
        let (out, prepared) = step(turn, turn.position, turn.rows, turn.wanted);
        let want = if spoil { Some(false) } else { turn.ready };
        assert!(want.is_none_or(|want| want == prepared), "position {} of request {}", turn.position, turn.request);
        out
    });
    results.collect()
}

#[test]
fn what_was_recorded_ahead_gives_the_same_bits_and_a_wrong_guess_changes_nothing() {
    let device = device();
    for spec in [ragged(), odd()] {
        for layers in [0..spec.layers, 1..2] {
            let plan = Plan::new(&spec, WeightFormat::F16, layers.clone());
            let pieces = pieces(&plan);
            let config = syn1_kernels::engine::EngineConfig { max_rows: 161, ..config(&spec) };
            let [ahead, anew, copied] = [(true, false), (true, true), (false, false)].map(|(carried, spoil)| {
                let options = GpuOptions { carried, ..GpuOptions::default() };
                let mut engine = GpuEngine::with_options(&device, plan.clone(), &pieces, config, options).unwrap();
                let slots = [engine.open().unwrap(), engine.open().unwrap()];
                play(&mut engine, slots, spoil)
            });
            assert_eq!(ahead, copied, "by kernels and by copies");
            for ((turn, ahead), anew) in TURNS.iter().zip(&ahead).zip(&anew) {
                let Turn { request, position, rows, .. } = turn;
                let what = format!("{rows} rows at {position} of request {request}, layers {layers:?}");
                assert!(ahead.iter().zip(anew).all(|(a, b)| a.to_bits() == b.to_bits()), "{what}");
                assert_eq!(ahead.len(), anew.len(), "{what}");
            }
        }
    }
}

#[test]
fn a_request_that_takes_over_a_kv_cache_takes_over_no_commands() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let slot = engine.open().unwrap();
    let first = feed(&mut engine, slot, 0, &[3], 0);
    engine.close(slot);
    let slot = engine.open().unwrap();
    assert_eq!(feed(&mut engine, slot, 0, &[3], 0), first);
    assert!(!engine.last_step().prepared);
}
