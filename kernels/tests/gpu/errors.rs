//! What is wrong is said, not met with a panic.

use syn1_kernels::engine::{Engine, EngineConfig, EngineError, Input, Slot, Step};
use syn1_kernels::gpu::{GpuDevice, GpuEngine, GpuOptions, OpenError, memory_bytes, read_bandwidth};
use syn1_model::piece::PieceBytes;
use syn1_model::plan::{Plan, WeightFormat};
use syn1_model::spec::{Position, Rope, RopeScaling, Spec};

use crate::setup::*;

#[test]
fn a_bad_step_is_refused_by_its_first_fault_and_changes_nothing() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let slot = engine.open().unwrap();
    let ids = ids(&plan.spec, 20);
    feed(&mut engine, slot, 0, &ids[..10], 10);
    let want = feed(&mut engine, slot, 10, &ids[10..12], 0);
    feed(&mut engine, slot, 10, &ids[10..11], 1);

    let long = vec![1; 161];
    let rows = vec![0.0; 96];
    let bad = [
        (slot, 12, Input::Tokens(&[1][..]), EngineError::Gap { have: 11, got: 12 }),
        (slot, usize::MAX, Input::Tokens(&[1]), EngineError::Gap { have: 11, got: usize::MAX }),
        (slot, 0, Input::Tokens(&[]), EngineError::Rows { got: 0, max: 160 }),
        (slot, 0, Input::Tokens(&long), EngineError::Rows { got: 161, max: 160 }),
        (slot, 0, Input::Tokens(&[1, 1001]), EngineError::Token { id: 1001, vocab: 1001 }),
        (slot, 0, Input::Rows(&rows), EngineError::Input { want: "token ids", got: "rows" }),
        (Slot(1), 0, Input::Tokens(&[1]), EngineError::NoSlot(1)),
        (Slot(99), 0, Input::Tokens(&[1]), EngineError::NoSlot(99)),
    ];
    for (slot, position, input, error) in bad {
        let mut out = vec![1.0];
        let got = pollster::block_on(engine.run(Step { slot, position, input, wanted: 0 }, &mut out));
        assert_eq!(got, Err(error));
        assert!(out.is_empty());
    }
    assert_eq!(feed(&mut engine, slot, 11, &ids[11..12], 0), want[plan.spec.vocab..], "the cache is as it was");
}

#[test]
fn a_step_beyond_the_context_is_refused() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let config = EngineConfig { max_positions: 10, ..config(&plan.spec) };
    let mut engine = GpuEngine::new(&device, plan, &pieces, config).unwrap();
    let slot = engine.open().unwrap();
    let step = Step { slot, position: 0, input: Input::Tokens(&[1; 11]), wanted: 0 };
    let got = pollster::block_on(engine.run(step, &mut Vec::new()));
    assert_eq!(got, Err(EngineError::Context { end: 11, max: 10 }));
    assert!(feed(&mut engine, slot, 0, &[1; 10], 10).is_empty());
}

#[test]
fn torn_rows_and_tokens_are_refused_by_a_range_in_the_middle() {
    let (device, spec) = (device(), ragged());
    let plan = Plan::new(&spec, WeightFormat::F16, 1..2);
    let mut engine = engine(&device, &plan, &pieces(&plan), GpuOptions::default());
    let slot = engine.open().unwrap();
    let torn = vec![0.0; 97];
    for input in [Input::Rows(&torn), Input::Tokens(&[1])] {
        let got = pollster::block_on(engine.run(Step { slot, position: 0, input, wanted: 0 }, &mut Vec::new()));
        assert!(matches!(got, Err(EngineError::Input { .. })), "{got:?}");
    }
}

#[test]
fn there_are_as_many_kv_caches_as_asked_for_and_a_closed_one_can_be_opened_again() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let mut engine = engine(&device, &plan, &pieces, GpuOptions::default());
    let slots: Vec<Slot> = (0..3).map(|_| engine.open().unwrap()).collect();
    assert_eq!(engine.open(), Err(EngineError::Slots(3)));
    engine.close(slots[1]);
    engine.close(slots[1]);
    engine.close(Slot(77));
    assert_eq!(engine.open(), Ok(slots[1]));
    assert_eq!(engine.open(), Err(EngineError::Slots(3)));
}

#[test]
fn pieces_that_do_not_fit_the_plan_are_refused_by_name() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let config = config(&plan.spec);
    let refused = |pieces: &[PieceBytes]| GpuEngine::new(&device, plan.clone(), pieces, config).unwrap_err();
    let short = PieceBytes::copy_of(&pieces[2].as_slice()[..100]);
    let mut torn = pieces.clone();
    torn[2] = short;
    let named = |error, name: &str| matches!(error, EngineError::Piece { piece, .. } if piece == name);
    assert!(named(refused(&torn), "block.0"));
    assert!(named(refused(&pieces[..pieces.len() - 1]), "head"));
    let mut more = pieces.clone();
    more.push(pieces[0].clone());
    assert!(matches!(refused(&more), EngineError::Piece { .. }));
}

#[test]
fn what_the_kernels_cannot_do_is_refused_by_name() {
    let (device, spec) = (device(), ragged());
    let rope = Rope { theta: 1e4, dims: 6, scaling: RopeScaling::None };
    let cases: [(Spec, &str); 2] = [
        (Spec { position: Position::Rope(rope), ..spec.clone() }, "6 rotated elements"),
        (Spec { head_dim: 20, ..spec.clone() }, "20 elements"),
    ];
    for (spec, name) in cases {
        // A middle layer, so that every case fails by the op it is about; the bytes do not matter.
        let plan = Plan::new(&spec, WeightFormat::F16, 1..2);
        let pieces = [PieceBytes::copy_of(&vec![0; plan.weight_bytes() as usize])];
        let error = GpuEngine::new(&device, plan, &pieces, config(&spec)).unwrap_err();
        assert!(matches!(&error, EngineError::Unsupported { what, .. } if what.contains(name)), "{error}");
    }
}

#[test]
fn a_size_that_the_model_or_the_device_cannot_have_is_refused() {
    let device = device();
    let (plan, pieces) = whole(&ragged(), WeightFormat::F16);
    let refused = |max_positions, max_rows| {
        let config = EngineConfig { max_positions, slots: 1, max_rows };
        GpuEngine::new(&device, plan.clone(), &pieces, config).unwrap_err()
    };
    assert_eq!(refused(701, 8), EngineError::Context { end: 701, max: 700 });
    assert!(matches!(refused(0, 8), EngineError::Context { .. }));
    assert!(matches!(refused(700, 0), EngineError::Rows { got: 0, .. }));
    assert!(matches!(refused(700, 65_536), EngineError::Rows { got: 65_536, .. }));
}

#[test]
fn an_adapter_that_is_not_there_is_refused_with_a_list_of_those_that_are() {
    let there = device();
    let Err(error) = GpuDevice::open("no such adapter") else { panic!("it was opened") };
    assert!(matches!(&error, OpenError::NotFound { found, .. } if *found == GpuDevice::list()), "{error}");
    assert!(GpuDevice::list().iter().any(|line| there.name().starts_with(&line.name)));
}

#[test]
fn a_device_reads_at_some_speed_and_has_room_for_no_more_than_asked() {
    let device = device();
    assert!(pollster::block_on(read_bandwidth(&device)).unwrap() > 1_000_000);
    let most = 200 << 20;
    let found = pollster::block_on(memory_bytes(&device, most)).unwrap();
    assert!(found > 64 << 20 && found <= most, "{found}");
}
