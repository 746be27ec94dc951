//! Hidden rows and logits.

use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Engine, Input, Step};
use syn1_kernels::gpu::GpuOptions;
use syn1_model::piece::PieceBytes;
use syn1_model::plan::{Op, Plan, WeightFormat};

use crate::plain::{Reference, arbitrary_pieces, kinds};
use crate::setup::*;

/// f32 differs by the order of sums alone; f16 KV caches may round a value the other way.
fn tolerance(format: WeightFormat) -> f64 {
    match format {
        WeightFormat::F32 => 2e-5,
        _ => 1e-3,
    }
}

#[test]
fn the_software_adapter_has_subgroups_so_that_it_tests_both_twins() {
    let device = device();
    assert!(device.has_subgroups() || !device.is_software(), "{device:?} runs only the twins without subgroups");
}

#[test]
fn hidden_rows_and_logits_are_those_of_the_plain_forward_pass_for_every_number_of_rows() {
    let device = device();
    for spec in [ragged(), odd()] {
        for format in WeightFormat::ALL {
            let (plan, pieces) = whole(&spec, format);
            let front = Plan::new(&spec, format, 0..spec.layers - 1);
            let front_pieces = crate::setup::pieces(&front);
            let ids = ids(&spec, 131);
            let (_, logits) = Reference::new(&plan, &pieces).forward(&ids);
            let (hidden, _) = Reference::new(&front, &front_pieces).forward(&ids);
            for options in twins() {
                let mut with_head = engine(&device, &plan, &pieces, options);
                let mut without = engine(&device, &front, &front_pieces, options);
                let (a, b) = (with_head.open().unwrap(), without.open().unwrap());
                for rows in [1, 2, 7, 8, 9, 15, 16, 17, 33, 63, 64, 65, 130] {
                    let what = format!("{rows} rows, {format:?}, {options:?}, width {}", spec.width);
                    let got = feed(&mut with_head, a, 0, &ids[..rows], 0);
                    assert_close(&got, &logits[..rows].concat(), tolerance(format), &what);
                    let got = feed(&mut without, b, 0, &ids[..rows], 0);
                    assert_close(&got, &hidden[..rows].concat(), tolerance(format), &what);
                }
            }
        }
    }
}

#[test]
fn every_kind_of_model_gives_what_the_plain_forward_pass_gives_and_loops_as_it_steps() {
    let device = device();
    for (name, spec) in kinds() {
        for format in WeightFormat::ALL {
            let plan = Plan::new(&spec, format, 0..spec.layers);
            let pieces = arbitrary_pieces(&plan);
            let ids = ids(&spec, 40);
            let (_, want) = Reference::new(&plan, &pieces).forward(&ids);
            for options in twins() {
                let what = format!("{name}, {format:?}, {options:?}");
                let mut engine = engine(&device, &plan, &pieces, options);
                let slot = engine.open().unwrap();
                let got = feed(&mut engine, slot, 0, &ids[..33], 0);
                assert_close(&got, &want[..33].concat(), tolerance(format), &what);
                feed(&mut engine, slot, 33, &ids[33..36], 3);
                for row in 36..40 {
                    let got = feed(&mut engine, slot, row, &ids[row..=row], 0);
                    assert_close(&got, &want[row], tolerance(format), &format!("{what}, row {row} alone"));
                }
                let mut token = ids[39];
                for (turn, id) in greedy(&mut engine, slot, 39, token, 6).into_iter().enumerate() {
                    token = argmax(&feed(&mut engine, slot, 39 + turn, &[token], 0));
                    assert_eq!(token, id, "{what}, turn {turn}");
                }
            }
        }
    }
}

/// The matrix units' inputs are rounded to f16, each by up to 2^-11.
#[test]
fn matrix_units_give_what_the_plain_forward_pass_gives_up_to_the_rounding_of_their_inputs() {
    let device = device();
    if !device.has_cooperative_matrices() {
        eprintln!("skipped: {} has no cooperative matrices that the kernels can use", device.name());
        return;
    }
    let others = kinds().into_iter().map(|(_, spec)| spec);
    for spec in [ragged(), odd()].into_iter().chain(others) {
        for format in WeightFormat::ALL {
            let plan = Plan::new(&spec, format, 0..spec.layers);
            let pieces = arbitrary_pieces(&plan);
            let most = spec.max_positions.min(131);
            let ids = ids(&spec, most);
            let (_, want) = Reference::new(&plan, &pieces).forward(&ids);
            let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
            let slot = engine.open().unwrap();
            for rows in [16, 32, 33, 47, 48, 49, 63, 64, 65, most] {
                let what = format!("{rows} rows, {format:?}, {:?}, width {}", spec.family, spec.width);
                let got = feed(&mut engine, slot, 0, &ids[..rows], 0);
                assert_close(&got, &want[..rows].concat(), 5e-3, &what);
            }
        }
    }
}

#[test]
fn values_that_f16_cannot_hold_are_clamped_as_on_the_cpu() {
    let (device, spec) = (device(), ragged());
    let (plan, mut pieces) = whole(&spec, WeightFormat::F16);
    let qkv = |op: &Op| if let Op::Qkv { layer: 0, gemv, .. } = op { Some(gemv.aux) } else { None };
    let aux = plan.ops.iter().find_map(qkv).unwrap();
    let block = plan.pieces.iter().position(|piece| *piece == aux.piece).unwrap();
    let mut bytes = pieces[block].as_slice().to_vec();
    // The constants added to the first two values, which stand behind queries and keys.
    let values = aux.offset as usize + 8 * (spec.heads + spec.kv_heads) * spec.head_dim;
    for (row, constant) in [1e6_f32, -1e6].into_iter().enumerate() {
        bytes[values + 8 * row + 4..][..4].copy_from_slice(&constant.to_le_bytes());
    }
    pieces[block] = PieceBytes::copy_of(&bytes);
    let ids = ids(&spec, 5);
    let mut cpu = CpuEngine::new(plan.clone(), &pieces, config(&spec), Some(1)).unwrap();
    let (slot, mut want) = (cpu.open().unwrap(), Vec::new());
    let step = Step { slot, position: 0, input: Input::Tokens(&ids), wanted: 0 };
    pollster::block_on(cpu.run(step, &mut want)).unwrap();
    let want: Vec<f64> = want.into_iter().map(f64::from).collect();
    assert!(want.iter().all(|logit| logit.is_finite()));
    for options in twins() {
        let mut gpu = engine(&device, &plan, &pieces, options);
        let slot = gpu.open().unwrap();
        assert_close(&feed(&mut gpu, slot, 0, &ids, 0), &want, 2e-3, &format!("{options:?}"));
    }
}

#[test]
fn a_long_context_gives_what_the_plain_forward_pass_gives_by_single_rows_and_by_many() {
    let device = device();
    for spec in [ragged(), odd()] {
        for format in FORMATS {
            let (plan, pieces) = whole(&spec, format);
            let ids = ids(&spec, 610);
            let (_, want) = Reference::new(&plan, &pieces).forward(&ids);
            for options in twins() {
                let mut engine = engine(&device, &plan, &pieces, options);
                let slot = engine.open().unwrap();
                for (index, part) in ids.chunks(150).enumerate() {
                    let got = feed(&mut engine, slot, index * 150, part, part.len() - 1);
                    let last = index * 150 + part.len() - 1;
                    assert_close(&got, &want[last], tolerance(format), &format!("row {last}, {format:?} {options:?}"));
                }
                for last in [609, 513, 512, 511, 385, 384, 383] {
                    feed(&mut engine, slot, last - 1, &ids[last - 1..last], 1);
                    let got = feed(&mut engine, slot, last, &ids[last..=last], 0);
                    assert_close(
                        &got,
                        &want[last],
                        tolerance(format),
                        &format!("alone {last}, {format:?} {options:?}"),
                    );
                }
            }
        }
    }
}

#[test]
fn a_chain_of_ranges_gives_what_the_whole_model_gives() {
    let (device, spec) = (device(), ragged());
    for format in FORMATS {
        let (plan, pieces) = whole(&spec, format);
        let ids = ids(&spec, 21);
        let (_, want) = Reference::new(&plan, &pieces).forward(&ids);
        for options in twins() {
            let mut hidden: Vec<f32> = Vec::new();
            for layers in [0..1, 1..2, 2..3] {
                let plan = Plan::new(&spec, format, layers);
                let mut engine = engine(&device, &plan, &crate::setup::pieces(&plan), options);
                let slot = engine.open().unwrap();
                let input = if plan.embeds() { Input::Tokens(&ids) } else { Input::Rows(&hidden) };
                let mut out = Vec::new();
                pollster::block_on(engine.run(Step { slot, position: 0, input, wanted: 20 }, &mut out)).unwrap();
                hidden = out;
            }
            assert_close(&hidden, &want[20], tolerance(format), &format!("{format:?} {options:?}"));
        }
    }
}

#[test]
fn chunks_of_any_size_give_what_one_chunk_gives() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let ids = ids(&plan.spec, 150);
    let mut engine = engine(&device, &plan, &pieces, twins()[0]);
    let slot = engine.open().unwrap();
    let want: Vec<f64> = feed(&mut engine, slot, 0, &ids, 0).into_iter().map(f64::from).collect();
    for chunk in [1, 3, 8, 64, 149] {
        let mut got = Vec::new();
        for (index, part) in ids.chunks(chunk).enumerate() {
            got.extend(feed(&mut engine, slot, index * chunk, part, 0));
        }
        assert_close(&got, &want, 1e-3, &format!("chunks of {chunk}"));
    }
}

#[test]
fn only_the_wanted_rows_come_back() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F32);
    let (vocab, ids) = (plan.spec.vocab, ids(&plan.spec, 12));
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let slot = engine.open().unwrap();
    let all: Vec<f64> = feed(&mut engine, slot, 0, &ids, 0).into_iter().map(f64::from).collect();
    for wanted in [0, 1, 5, 11] {
        let got = feed(&mut engine, slot, 0, &ids, wanted);
        assert_close(&got, &all[wanted * vocab..], 1e-5, &format!("from row {wanted}"));
    }
    assert!(feed(&mut engine, slot, 0, &ids, 12).is_empty());
    assert!(feed(&mut engine, slot, 12, &ids, usize::MAX).is_empty());
}

#[test]
fn a_step_forgets_the_positions_behind_its_own() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let ids = ids(&plan.spec, 40);
    for options in twins() {
        let mut engine = engine(&device, &plan, &pieces, options);
        let slot = engine.open().unwrap();
        feed(&mut engine, slot, 0, &ids[..30], 30);
        let want = feed(&mut engine, slot, 30, &ids[30..33], 0);
        feed(&mut engine, slot, 20, &[9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9], 14);
        feed(&mut engine, slot, 20, &ids[20..30], 10);
        assert_eq!(feed(&mut engine, slot, 30, &ids[30..33], 0), want, "{options:?}");
    }
}

#[test]
fn requests_do_not_disturb_each_other() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let ids = ids(&plan.spec, 60);
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let alone = engine.open().unwrap();
    let want: Vec<Vec<f32>> =
        (0..6).map(|part| feed(&mut engine, alone, part * 10, &ids[part * 10..][..10], 9)).collect();
    engine.close(alone);
    let (a, b) = (engine.open().unwrap(), engine.open().unwrap());
    for (part, want) in want.iter().enumerate() {
        feed(&mut engine, b, part * 7, &ids[50 - part * 7..][..7], 0);
        assert_eq!(&feed(&mut engine, a, part * 10, &ids[part * 10..][..10], 9), want, "part {part}");
    }
}

#[test]
fn a_new_request_begins_empty() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let slot = engine.open().unwrap();
    let want = feed(&mut engine, slot, 0, &[5, 6, 7], 2);
    engine.close(slot);
    let slot = engine.open().unwrap();
    let step = Step { slot, position: 3, input: Input::Tokens(&[8]), wanted: 0 };
    let gap = pollster::block_on(engine.run(step, &mut Vec::new()));
    assert!(gap.is_err(), "position 3 of an empty cache");
    assert_eq!(feed(&mut engine, slot, 0, &[5, 6, 7], 2), want);
}

#[test]
fn matrices_larger_than_a_binding_give_the_same_logits() {
    let device = device();
    let others = kinds().into_iter().take(1).map(|(_, spec)| spec);
    for spec in [ragged(), odd()].into_iter().chain(others) {
        for format in WeightFormat::ALL {
            let (plan, pieces) = whole(&spec, format);
            let ids = ids(&spec, 17);
            let (_, want) = Reference::new(&plan, &pieces).forward(&ids);
            for options in twins() {
                // Windows of a few rows: the token matrix in many, the blocks' matrices in several.
                let options = GpuOptions { window_bytes: 20_000, ..options };
                let mut engine = engine(&device, &plan, &pieces, options);
                let slot = engine.open().unwrap();
                let got = feed(&mut engine, slot, 0, &ids, 0);
                assert_close(&got, &want.concat(), tolerance(format), &format!("{format:?} {options:?}"));
                let got = feed(&mut engine, slot, 16, &ids[16..], 0);
                assert_close(&got, &want[16], tolerance(format), &format!("{format:?} {options:?}, one row"));
            }
        }
    }
}
