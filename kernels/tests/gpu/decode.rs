//! The token loop as a stream, and its draws.

use std::ops::ControlFlow;

use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Decode, Engine, EngineError, Slot};
use syn1_kernels::gpu::{GpuEngine, GpuOptions};
use syn1_kernels::sampling::{Chooser, Sampler};
use syn1_model::piece::PieceBytes;
use syn1_model::plan::{Op, Plan, WeightFormat};
use syn1_model::spec::Spec;

use crate::setup::*;

fn sampled(temperature: f32, top_k: u32, top_p: f32, seed: u64) -> Sampler {
    Sampler::Sampled { temperature, top_k, top_p, seed }
}

/// What the loop must give: one step at a time, chosen here.
fn step_by_step(engine: &mut GpuEngine, slot: Slot, token: u32, count: usize, sampler: &Sampler) -> Vec<u32> {
    let mut chooser = Chooser::default();
    let mut ids = vec![token];
    for position in 0..count {
        let logits = feed(engine, slot, position, &ids[position..], 0);
        ids.push(chooser.choose(&logits, sampler, position));
    }
    ids.split_off(1)
}

#[test]
fn draws_are_those_of_the_definition_from_the_logits_of_single_steps() {
    let device = device();
    for (number, spec) in [ragged(), odd(), Spec { vocab: 3001, ..odd() }].into_iter().enumerate() {
        for format in FORMATS {
            let (plan, pieces) = whole(&spec, format);
            for (options, window_bytes) in [(twins()[0], 20_000), (twins()[1], GpuOptions::default().window_bytes)] {
                let mut engine = engine(&device, &plan, &pieces, GpuOptions { window_bytes, ..options });
                let slot = engine.open().unwrap();
                // Random weights give flat distributions, cold temperatures steep ones.
                for (temperature, top_k, top_p) in [
                    (0.05, 0, 1.0),
                    (1.0, 0, 1.0),
                    (0.05, 7, 1.0),
                    (0.7, 40, 0.9),
                    (0.02, 40, 0.95),
                    (1.0, 0, 0.5),
                    (0.02, 0, 0.9),
                    (30.0, 999, 0.999),
                    (1.0, spec.vocab as u32 + 1, 0.7),
                ] {
                    let sampler = sampled(temperature, top_k, top_p, 77 + number as u64);
                    let want = step_by_step(&mut engine, slot, 5, 24, &sampler);
                    let got = decode(&mut engine, Decode { sampler, ..Decode::greedy(slot, 0, 5, 24) }).unwrap();
                    assert_eq!(got, want, "{sampler:?} {format:?} {options:?} width {}", spec.width);
                }
            }
        }
    }
}

#[test]
fn the_bundled_model_writes_the_same_drawn_ids_on_gpu_and_cpu() {
    let device = device();
    let folder = model("models/tiny-rust-docs");
    let (plan, pieces) = packed(&folder, WeightFormat::F32);
    let mut cpu = CpuEngine::new(plan.clone(), &pieces, config(&plan.spec), Some(2)).unwrap();
    let on_cpu = cpu.open().unwrap();
    for options in twins() {
        let mut gpu = engine(&device, &plan, &pieces, options);
        let on_gpu = gpu.open().unwrap();
        for (seed, (top_k, top_p)) in [(0, 1.0), (40, 0.95), (0, 0.9), (20, 1.0), (0, 1.0)].into_iter().enumerate() {
            let sampler = sampled(0.8, top_k, top_p, seed as u64);
            let of = |slot| Decode { sampler, ..Decode::greedy(slot, 0, 9, 40) };
            let want = decode(&mut cpu, of(on_cpu)).unwrap();
            assert_eq!(decode(&mut gpu, of(on_gpu)).unwrap(), want, "{sampler:?} {options:?}");
        }
    }
}

#[test]
fn a_seed_gives_the_same_ids_and_another_one_others() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let slot = engine.open().unwrap();
    for (top_k, top_p) in [(0, 1.0), (30, 0.9)] {
        let mut of = |seed| {
            let sampler = sampled(1.0, top_k, top_p, seed);
            decode(&mut engine, Decode { sampler, ..Decode::greedy(slot, 0, 9, 30) }).unwrap()
        };
        let first = of(1);
        assert_eq!(of(1), first);
        assert_ne!(of(2), first);
        assert_ne!(of(1 << 40), first, "the high word counts");
    }
}

#[test]
fn one_token_or_a_small_share_is_the_greedy_loop() {
    let device = device();
    let (plan, pieces) = whole(&odd(), WeightFormat::F16);
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let slot = engine.open().unwrap();
    let want = greedy(&mut engine, slot, 0, 9, 30);
    for (top_k, top_p) in [(1, 1.0), (0, 0.0), (0, 1e-4), (40, 1e-4)] {
        let sampler = sampled(1.3, top_k, top_p, 4);
        let got = decode(&mut engine, Decode { sampler, ..Decode::greedy(slot, 0, 9, 30) }).unwrap();
        assert_eq!(got, want, "{top_k} {top_p}");
    }
}

/// A model whose logits are `logits`, whatever it reads.
fn constant(logits: &[f32]) -> (Plan, Vec<PieceBytes>) {
    let spec = Spec { vocab: logits.len(), layers: 1, ..ragged() };
    let (plan, mut pieces) = whole(&spec, WeightFormat::F16);
    let head = plan.ops.iter().find_map(|op| if let Op::Head { gemv, .. } = op { Some(gemv) } else { None }).unwrap();
    // The norm's gamma is zero, so that only the constants (c2) are left.
    let gamma = head.norm.unwrap().gamma;
    for (piece, bytes) in plan.pieces.iter().zip(&mut pieces) {
        let mut changed = bytes.as_slice().to_vec();
        if *piece == gamma.piece {
            changed[gamma.offset as usize..][..gamma.bytes as usize].fill(0);
        }
        if *piece == head.aux.piece {
            for (row, logit) in logits.iter().enumerate() {
                let at = head.aux.offset as usize + 8 * row;
                changed[at..at + 4].fill(0);
                changed[at + 4..at + 8].copy_from_slice(&logit.to_le_bytes());
            }
        }
        *bytes = PieceBytes::copy_of(&changed);
    }
    (plan, pieces)
}

#[test]
fn draws_follow_the_softmax_of_what_top_k_and_top_p_leave() {
    let device = device();
    let logits = [0.0, 1.0, 2.0, -1.0, 0.5, 2.0, 1.5, -0.5];
    let (plan, pieces) = constant(&logits);
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let slot = engine.open().unwrap();
    assert_eq!(feed(&mut engine, slot, 0, &[1], 0), logits, "the fixture");
    let all = logits.map(|logit| f64::from(logit).exp());
    let only = |ids: &[usize]| std::array::from_fn(|id| if ids.contains(&id) { all[id] } else { 0.0 });
    let cases: [(u32, f32, [f64; 8]); 4] = [
        (0, 1.0, all),
        (3, 1.0, only(&[2, 5, 6])),
        // 0.32 each for the two at 2.0, 0.19 for 1.5.
        (0, 0.7, only(&[2, 5, 6])),
        (3, 0.6, only(&[2, 5])),
    ];
    for (top_k, top_p, want) in cases {
        let (mut counts, draws) = ([0.0; 8], 4 * 500);
        for seed in 0..4 {
            let sampler = sampled(1.0, top_k, top_p, seed);
            for id in decode(&mut engine, Decode { sampler, ..Decode::greedy(slot, 0, 1, 500) }).unwrap() {
                counts[id as usize] += 1.0;
            }
        }
        let total: f64 = want.iter().sum();
        let chi_square = counts.iter().zip(want).map(|(count, want): (&f64, f64)| {
            let expected = want / total * f64::from(draws);
            assert!(expected > 0.0 || *count == 0.0, "a token that was left out is drawn: {counts:?}");
            if expected > 0.0 { (count - expected).powi(2) / expected } else { 0.0 }
        });
        // One in a million for 7 degrees of freedom.
        let chi_square: f64 = chi_square.sum();
        assert!(chi_square < 40.0, "top-k {top_k}, top-p {top_p}: {chi_square}, {counts:?}");
    }
}

#[test]
fn ids_come_in_order_and_none_behind_a_stop_id_wherever_it_stands() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let slot = engine.open().unwrap();
    let sampler = sampled(1.0, 0, 1.0, 3);
    let all = Decode { sampler, ..Decode::greedy(slot, 0, 9, 100) };
    let ids = decode(&mut engine, all).unwrap();
    assert_eq!(ids.len(), 100);
    // In each of the first submits, at its end and in its midst.
    for at in [0, 1, 2, 3, 5, 9, 20, 33, 99] {
        let first = ids.iter().position(|id| *id == ids[at]).unwrap();
        let stop = [ids[at], 1_000_000];
        let got = decode(&mut engine, Decode { stop: &stop, ..all }).unwrap();
        assert_eq!(got, ids[..=first], "stop at {first}");
        let next = decode(&mut engine, Decode { sampler, ..Decode::greedy(slot, first + 2, 1, 1) });
        assert_eq!(next, Err(EngineError::Gap { have: first + 1, got: first + 2 }));
        let rest = Decode { sampler, ..Decode::greedy(slot, first + 1, ids[first], 99 - first) };
        assert_eq!(decode(&mut engine, rest).unwrap(), ids[first + 1..], "behind {first}");
    }
}

#[test]
fn a_sink_that_has_enough_ends_the_loop_and_another_goes_on_right() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    for options in twins() {
        let mut engine = engine(&device, &plan, &pieces, options);
        let slot = engine.open().unwrap();
        let ids = greedy(&mut engine, slot, 0, 9, 70);
        for enough in [1, 2, 6, 31] {
            let mut seen = Vec::new();
            let sink = |id| {
                seen.push(id);
                if seen.len() == enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            pollster::block_on(engine.decode(Decode::greedy(slot, 0, 9, 70), sink)).unwrap();
            assert_eq!(seen, ids[..enough]);
            // A step at once, which must wait for what the loop left in the device's queue.
            let logits = feed(&mut engine, slot, enough, &ids[enough - 1..enough], 0);
            assert_eq!(argmax(&logits), ids[enough], "the step behind {enough}");
            let rest = greedy(&mut engine, slot, enough + 1, ids[enough], 69 - enough);
            assert_eq!(rest, ids[enough + 1..], "behind {enough} ids");
        }
    }
}

#[test]
fn slots_do_not_see_each_others_loops() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let (a, b) = (engine.open().unwrap(), engine.open().unwrap());
    let alone = [greedy(&mut engine, a, 0, 9, 40), greedy(&mut engine, b, 0, 10, 40)];
    let mut got = [vec![9], vec![10]];
    for _ in 0..4 {
        for (slot, ids) in [a, b].into_iter().zip(&mut got) {
            let position = ids.len() - 1;
            let more = greedy(&mut engine, slot, position, ids[position], 10);
            ids.extend(more);
        }
    }
    assert_eq!(got.map(|ids| ids[1..].to_vec()), alone);
}

#[test]
fn a_sampler_out_of_range_is_refused_and_changes_nothing() {
    let device = device();
    let (plan, pieces) = whole(&odd(), WeightFormat::F16);
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let slot = engine.open().unwrap();
    greedy(&mut engine, slot, 0, 9, 5);
    for sampler in [sampled(f32::NAN, 0, 1.0, 1), sampled(1.0, 0, -0.1, 1)] {
        let refused = decode(&mut engine, Decode { sampler, ..Decode::greedy(slot, 0, 9, 3) });
        assert!(matches!(refused, Err(EngineError::Sampler { .. })), "{refused:?}");
    }
    let gap = decode(&mut engine, Decode::greedy(slot, 6, 9, 1));
    assert_eq!(gap, Err(EngineError::Gap { have: 5, got: 6 }));
}
