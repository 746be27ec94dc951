//! A step's layers in one dispatch give what the CPU gives, between steps that go by the other kernels.
//!
//! Software adapters run one workgroup to its end before they begin another, so one is what these tests use there.

use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Engine, EngineConfig, Input, Slot, Step};
use syn1_kernels::gpu::{GpuEngine, GpuOptions, Persistence};
use syn1_model::plan::{Plan, WeightFormat};
use syn1_model::spec::Spec;

use crate::persist::{gated, plain};
use crate::setup::*;

fn config() -> EngineConfig {
    EngineConfig { max_positions: 256, slots: 3, max_rows: 40 }
}

fn options(steps: Persistence) -> GpuOptions {
    GpuOptions { steps, ..GpuOptions::default() }
}

const SIZED: Persistence = Persistence::Sized { groups: 1, threads: 128 };

/// What enters a range: ids, or rows.
struct Entering {
    ids: Vec<u32>,
    rows: Vec<f32>,
    width: Option<usize>,
}

impl Entering {
    fn new(plan: &Plan) -> Self {
        let width = plan.spec.width;
        let rows = (0..200 * width).map(|i| ((i * 7 + i / width) as f32 * 0.37).sin()).collect();
        Self { ids: ids(&plan.spec, 200), rows, width: (!plan.embeds()).then_some(width) }
    }

    fn step(&self, slot: Slot, position: usize, count: usize) -> Step<'_> {
        let input = match self.width {
            None => Input::Tokens(&self.ids[position..position + count]),
            Some(width) => Input::Rows(&self.rows[position * width..(position + count) * width]),
        };
        Step { slot, position, input, wanted: 0 }
    }
}

fn run(engine: &mut impl Engine, step: Step<'_>) -> Vec<f32> {
    let mut out = Vec::new();
    pollster::block_on(engine.run(step, &mut out)).unwrap();
    out
}

/// Two requests in turns: prompts of several rows, single rows, a step back, and single rows behind several.
const TURNS: [(usize, usize, usize); 14] = [
    (0, 0, 9),
    (1, 0, 33),
    (0, 9, 1),
    (0, 10, 1),
    (1, 33, 1),
    (0, 11, 1),
    (1, 34, 1),
    (1, 35, 3),
    (1, 38, 1),
    (0, 10, 1),
    (0, 11, 1),
    (1, 39, 30),
    (1, 69, 1),
    (1, 70, 1),
];

#[test]
fn each_format_in_a_range_or_the_whole_gives_what_the_cpu_gives_beside_steps_of_several_rows() {
    let device = device();
    // The products are those of the loop, which its tests run in every format for both kinds of model.
    for (spec, format, layers) in [
        (plain(), WeightFormat::F32, 0..3),
        (plain(), WeightFormat::Int8, 1..2),
        (gated(), WeightFormat::F16, 1..2),
        (gated(), WeightFormat::Int4, 0..2),
    ] {
        let plan = Plan::new(&spec, format, layers.clone());
        let pieces = pieces(&plan);
        let (entering, options) = (Entering::new(&plan), options(SIZED));
        let mut gpu = GpuEngine::with_options(&device, plan.clone(), &pieces, config(), options).unwrap();
        assert!(gpu.steps_in_one_dispatch());
        let mut cpu = CpuEngine::new(plan, &pieces, config(), Some(2)).unwrap();
        // A cache in front, so that theirs begin in the middle of the bank.
        let slots = [0, 1, 2].map(|_| (cpu.open().unwrap(), gpu.open().unwrap()).1);
        for (request, position, count) in TURNS {
            let step = entering.step(slots[1 + request], position, count);
            let want: Vec<f64> = run(&mut cpu, step).into_iter().map(f64::from).collect();
            let what = format!("{format}, layers {layers:?}, {count} rows at {position} of {request}");
            let tolerance = if format == WeightFormat::F32 { 4e-5 } else { 2e-3 };
            assert_close(&run(&mut gpu, step), &want, tolerance, &what);
        }
        assert!(gpu.steps_in_one_dispatch(), "no workgroup gave up");
    }
}

#[test]
fn steps_of_several_requests_go_together_between_steps_in_one_dispatch() {
    let device = device();
    let plan = Plan::new(&plain(), WeightFormat::F16, 1..3);
    let (pieces, entering) = (pieces(&plan), Entering::new(&plan));
    let results = [Persistence::Off, SIZED].map(|steps| {
        let mut engine = GpuEngine::with_options(&device, plan.clone(), &pieces, config(), options(steps)).unwrap();
        let slots = [engine.open().unwrap(), engine.open().unwrap()];
        let mut all = Vec::new();
        for position in 0..6 {
            if position % 2 == 0 {
                let steps = slots.map(|slot| entering.step(slot, position, 1));
                let (mut out, mut ranges) = (Vec::new(), Vec::new());
                pollster::block_on(engine.run_many(&steps, &mut out, &mut ranges));
                assert!(ranges.iter().all(Result::is_ok));
                all.extend(out);
            } else {
                slots.into_iter().for_each(|slot| all.extend(run(&mut engine, entering.step(slot, position, 1))));
            }
        }
        all
    });
    let want: Vec<f64> = results[0].iter().map(|value| f64::from(*value)).collect();
    assert_close(&results[1], &want, 2e-3, "six positions of two requests");
}

#[test]
fn a_step_without_a_result_goes_by_the_other_kernels_and_leaves_the_same_cache() {
    let device = device();
    let (plan, pieces) = whole(&plain(), WeightFormat::F32);
    let entering = Entering::new(&plan);
    let results = [Persistence::Off, SIZED].map(|steps| {
        let mut engine = GpuEngine::with_options(&device, plan.clone(), &pieces, config(), options(steps)).unwrap();
        let slot = engine.open().unwrap();
        for position in 0..3 {
            let nothing = run(&mut engine, Step { wanted: 1, ..entering.step(slot, position, 1) });
            assert!(nothing.is_empty());
        }
        run(&mut engine, entering.step(slot, 3, 1))
    });
    let want: Vec<f64> = results[0].iter().map(|value| f64::from(*value)).collect();
    assert_close(&results[1], &want, 4e-5, "the fourth position");
}

#[test]
fn measuring_keeps_it_only_where_it_gives_the_same_rows_faster() {
    let device = device();
    let plan = Plan::new(&plain(), WeightFormat::F16, 1..2);
    let (pieces, entering) = (pieces(&plan), Entering::new(&plan));
    let results = [Persistence::Off, Persistence::Measured].map(|steps| {
        let mut engine = GpuEngine::with_options(&device, plan.clone(), &pieces, config(), options(steps)).unwrap();
        assert!(!(device.is_software() && engine.steps_in_one_dispatch()));
        let slots = [0, 1, 2].map(|_| engine.open().unwrap());
        run(&mut engine, entering.step(slots[2], 0, 1))
    });
    let want: Vec<f64> = results[0].iter().map(|value| f64::from(*value)).collect();
    assert_close(&results[1], &want, 2e-3, "a row");
}

#[test]
fn what_it_cannot_run_is_refused_by_name() {
    let device = device();
    let refusal = |spec: &Spec| {
        let plan = Plan::new(spec, WeightFormat::F16, 0..spec.layers);
        match GpuEngine::with_options(&device, plan.clone(), &pieces(&plan), config(), options(SIZED)) {
            Ok(_) => panic!("it was taken"),
            Err(error) => error.to_string(),
        }
    };
    let error = refusal(&odd());
    assert!(error.contains("a step's layers in one dispatch: ") && error.contains("window or rotation"), "{error}");
    let attention = syn1_model::spec::Attention { qk_norm: true, ..Default::default() };
    assert!(refusal(&Spec { attention, ..gated() }).contains("norms heads"));
}
