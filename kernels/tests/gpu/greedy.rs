//! The token loop that takes the most likely token.

use syn1_kernels::engine::{Decode, Engine, EngineError};
use syn1_kernels::gpu::{GpuEngine, GpuOptions};
use syn1_model::piece::PieceBytes;
use syn1_model::plan::{Op, Piece, Plan, WeightFormat};
use syn1_model::spec::Spec;

use crate::setup::*;

/// What the loop must give: one step at a time, the largest logit chosen here.
fn step_by_step(engine: &mut GpuEngine, prompt: &[u32], count: usize) -> Vec<u32> {
    let slot = engine.open().unwrap();
    let mut token = argmax(&feed(engine, slot, 0, prompt, prompt.len() - 1));
    let mut ids = vec![token];
    for position in prompt.len()..prompt.len() + count - 1 {
        token = argmax(&feed(engine, slot, position, &[token], 0));
        ids.push(token);
    }
    engine.close(slot);
    ids
}

#[test]
fn the_loop_gives_what_single_steps_give_over_any_number_of_submits() {
    let device = device();
    for spec in [ragged(), odd()] {
        for format in FORMATS {
            let (plan, pieces) = whole(&spec, format);
            for window_bytes in [GpuOptions::default().window_bytes, 20_000] {
                for options in twins() {
                    let options = GpuOptions { window_bytes, ..options };
                    let mut engine = engine(&device, &plan, &pieces, options);
                    let prompt = ids(&spec, 9);
                    let want = step_by_step(&mut engine, &prompt, 90);
                    let slot = engine.open().unwrap();
                    feed(&mut engine, slot, 0, &prompt[..8], 8);
                    let mut got = greedy(&mut engine, slot, 8, prompt[8], 1);
                    for (position, count) in [(9, 67), (76, 16), (92, 6)] {
                        let last = got[got.len() - 1];
                        got.extend(greedy(&mut engine, slot, position, last, count));
                    }
                    assert_eq!(got, want, "{format:?} {options:?} width {}", spec.width);
                }
            }
        }
    }
}

#[test]
fn the_loop_reaches_the_last_position_and_steps_go_on_behind_it() {
    let device = device();
    let (plan, pieces) = whole(&Spec { max_positions: 90, ..ragged() }, WeightFormat::F16);
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let prompt = ids(&plan.spec, 4);
    let last = plan.spec.max_positions;
    let want = step_by_step(&mut engine, &prompt, last - 3);
    let slot = engine.open().unwrap();
    feed(&mut engine, slot, 0, &prompt[..3], 3);
    let got = greedy(&mut engine, slot, 3, prompt[3], last - 3);
    assert_eq!(got, want);
    let again = feed(&mut engine, slot, last - 1, &got[last - 5..last - 4], 0);
    assert_eq!(argmax(&again), got[last - 4]);
}

#[test]
fn the_loop_gives_what_single_steps_give_where_the_context_becomes_long() {
    let (device, spec) = (device(), ragged());
    for format in FORMATS {
        let (plan, pieces) = whole(&spec, format);
        let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
        let slot = engine.open().unwrap();
        for (index, part) in ids(&spec, 380).chunks(160).enumerate() {
            feed(&mut engine, slot, index * 160, part, part.len());
        }
        let got = greedy(&mut engine, slot, 380, 3, 20);
        let mut token = 3;
        for (turn, id) in got.into_iter().enumerate() {
            token = argmax(&feed(&mut engine, slot, 380 + turn, &[token], 0));
            assert_eq!(token, id, "turn {turn}");
        }
    }
}

#[test]
fn equal_logits_give_the_lowest_id_wherever_they_lie() {
    let (device, spec) = (device(), ragged());
    let (plan, pieces) = whole(&spec, WeightFormat::F16);
    for winners in [[300, 700], [300, 301], [3, 1000], [499, 512]] {
        let pieces = with_equal_logits(&plan, &pieces, &winners);
        for options in twins() {
            for window_bytes in [GpuOptions::default().window_bytes, 20_000] {
                let options = GpuOptions { window_bytes, ..options };
                let mut engine = engine(&device, &plan, &pieces, options);
                let slot = engine.open().unwrap();
                let logits = feed(&mut engine, slot, 0, &[4], 0);
                assert_eq!(logits[winners[0] as usize], logits[winners[1] as usize], "the fixture");
                assert_eq!(greedy(&mut engine, slot, 0, 4, 3), [winners[0]; 3], "{winners:?} {options:?}");
            }
        }
    }
}

/// `pieces` with an added constant (c2) for the logits of `winners` that swallows everything else.
fn with_equal_logits(plan: &Plan, pieces: &[PieceBytes], winners: &[u32]) -> Vec<PieceBytes> {
    let aux =
        plan.ops.iter().find_map(|op| if let Op::Head { gemv, .. } = op { Some(gemv.aux) } else { None }).unwrap();
    let change = |(piece, bytes): (&Piece, &PieceBytes)| {
        let mut bytes = bytes.as_slice().to_vec();
        for winner in winners.iter().filter(|_| *piece == aux.piece) {
            let c2 = aux.offset as usize + 8 * *winner as usize + 4;
            bytes[c2..c2 + 4].copy_from_slice(&1e30_f32.to_le_bytes());
        }
        PieceBytes::copy_of(&bytes)
    };
    plan.pieces.iter().zip(pieces).map(change).collect()
}

#[test]
fn a_loop_of_no_turns_gives_no_ids_and_leaves_the_cache_alone() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let slot = engine.open().unwrap();
    feed(&mut engine, slot, 0, &[5, 6, 7], 3);
    let want = feed(&mut engine, slot, 3, &[8], 0);
    assert!(greedy(&mut engine, slot, 1, 9, 0).is_empty());
    assert_eq!(feed(&mut engine, slot, 3, &[8], 0), want);
}

#[test]
fn the_loop_refuses_a_part_of_a_model_and_what_does_not_fit() {
    let (device, spec) = (device(), ragged());
    let part = Plan::new(&spec, WeightFormat::F16, 0..2);
    let mut front = engine(&device, &part, &pieces(&part), GpuOptions::default());
    let slot = front.open().unwrap();
    assert_eq!(decode(&mut front, Decode::greedy(slot, 0, 1, 2)), Err(EngineError::NotWhole(0..2)));

    let (plan, pieces) = whole(&spec, WeightFormat::F16);
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let slot = engine.open().unwrap();
    let mut refused = |position, token, count| decode(&mut engine, Decode::greedy(slot, position, token, count));
    assert_eq!(refused(0, 1, 701), Err(EngineError::Context { end: 701, max: 700 }));
    assert_eq!(refused(0, 1, usize::MAX), Err(EngineError::Context { end: usize::MAX, max: 700 }));
    assert_eq!(refused(1, 1, 1), Err(EngineError::Gap { have: 0, got: 1 }));
    assert_eq!(refused(0, 1001, 1), Err(EngineError::Token { id: 1001, vocab: 1001 }));
}
