//! The CPU engine against the reference's golden numbers, a plain f64 forward, and itself.

mod group;
#[path = "../plain/mod.rs"]
mod plain;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::Value;
use syn1_kernels::cpu::{CpuEngine, describe};
use syn1_kernels::engine::{Decode, Engine, EngineConfig, EngineError, Input, Slot, Step};
use syn1_kernels::sampling::{Chooser, Sampler};
use syn1_model::plan::{Plan, WeightFormat};
use syn1_model::spec::{Activation, Attention, Family, Norm, NormKind, Position, Rope, RopeScaling, Spec};
use syn1_model::{ModelFolder, PieceBytes};

use plain::{Reference, arbitrary_pieces, kinds};

const CONFIG: EngineConfig = EngineConfig { max_positions: 80, slots: 2, max_rows: 24 };

#[test]
fn the_bundled_model_gives_the_reference_s_logits_and_tokens() {
    reproduce("models/tiny-rust-docs", "greedy_64", 3);
}

#[test]
fn every_fixture_gives_the_reference_s_logits_and_tokens() {
    fixtures().iter().for_each(|folder| reproduce(folder, "greedy_24", usize::MAX));
}

/// Compares `cases` golden cases in both formats.
fn reproduce(folder: &str, greedy: &str, cases: usize) {
    let model = Model::open(folder);
    let golden = golden(folder);
    for (format, tolerance) in [(WeightFormat::F32, 1e-3), (WeightFormat::F16, 3e-3)] {
        let mut engine = model.engine(format, 0..model.spec.layers, 2);
        let slot = engine.open().unwrap();
        for case in golden["cases"].as_array().unwrap().iter().take(cases) {
            let ids = ids_of(&case["ids"]);
            let logits = prefill(&mut engine, slot, &ids, 24);
            let close = |id: usize, want: &Value| {
                let (got, want) = (f64::from(logits[id]), want.as_f64().unwrap());
                assert!((got - want).abs() < tolerance, "{folder} {format:?}: logit of {id} is {got}, not {want}");
            };
            for pair in case["last_logits_top"].as_array().unwrap() {
                close(pair[0].as_u64().unwrap() as usize, &pair[1]);
            }
            for (id, want) in case["last_logits_first16"].as_array().unwrap().iter().enumerate() {
                close(id, want);
            }
            let want = ids_of(&case[greedy]);
            let last = ids.len() - 1;
            let got = decode(&mut engine, Decode::greedy(slot, last, ids[last], want.len()));
            assert_eq!(got, Ok(want), "{folder} {format:?}");
        }
    }
}

#[test]
fn the_residual_stream_at_every_boundary_has_the_reference_s_length() {
    for folder in fixtures() {
        let model = Model::open(&folder);
        for end in 1..model.spec.layers {
            let mut engine = model.engine(WeightFormat::F32, 0..end, 2);
            let slot = engine.open().unwrap();
            for case in golden(&folder)["cases"].as_array().unwrap() {
                let mut rows = Vec::new();
                for (index, id) in ids_of(&case["ids"]).into_iter().enumerate() {
                    run(&mut engine, slot, index, Input::Tokens(&[id]), 0, &mut rows);
                }
                let norm = rows.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                let want = case["hidden_norms_last_position"][end].as_f64().unwrap();
                assert!((norm - want).abs() < 1e-4 * want.max(10.0), "{folder} behind layer {end}: {norm}, not {want}");
            }
        }
    }
}

#[test]
fn every_supported_architecture_equals_the_plain_forward() {
    let mut specs = vec![odd_spec(), Model::open("fixtures/gpt2").spec];
    specs.push(Spec { gated: false, tied_head: true, heads: 4, kv_heads: 4, head_dim: 20, ..odd_spec() });
    specs.push(Spec { activation: Activation::GeluTanh, kv_heads: 1, ..odd_spec() });
    specs.push(Spec { position: rotary(10), head_dim: 14, ..odd_spec() });
    specs.extend(kinds().into_iter().map(|(_, spec)| spec));
    let ids: Vec<u32> = (0..19).map(|i| i * i * 7 % 131).collect();
    for spec in specs {
        for format in WeightFormat::ALL {
            let tolerance = if format == WeightFormat::F32 { 2e-4 } else { 1e-1 };
            let plan = Plan::new(&spec, format, 0..spec.layers);
            let pieces = arbitrary_pieces(&plan);
            let (_, want) = Reference::new(&plan, &pieces).forward(&ids);
            let mut engine = CpuEngine::new(plan, &pieces, CONFIG, Some(2)).unwrap();
            let slot = engine.open().unwrap();
            let mut got = Vec::new();
            run(&mut engine, slot, 0, Input::Tokens(&ids), 0, &mut got);
            let spread = want.iter().flatten().map(|x| x.abs()).fold(0.0, f64::max);
            assert!(spread > 2.0, "logits of at most {spread} would prove little");
            for (index, (got, want)) in got.iter().zip(want.iter().flatten()).enumerate() {
                assert!((f64::from(*got) - want).abs() < tolerance, "{spec:?} {format:?} {index}: {got}, not {want}");
            }
        }
    }
}

#[test]
fn the_bits_depend_neither_on_the_threads_nor_on_the_chunks() {
    let others = kinds().into_iter().map(|(_, spec)| spec);
    for spec in others.chain([odd_spec(), Model::open("fixtures/gpt2").spec]) {
        for format in WeightFormat::ALL {
            let plan = Plan::new(&spec, format, 0..spec.layers);
            let pieces = arbitrary_pieces(&plan);
            let ids: Vec<u32> = (0..23).map(|i| i * 5 % 131).collect();
            let mut want = None;
            for (threads, chunk) in [(1, 1), (1, 23), (2, 1), (2, 7), (2, 23), (3, 2), (5, 1), (5, 10)] {
                let mut engine = CpuEngine::new(plan.clone(), &pieces, CONFIG, Some(threads)).unwrap();
                let slot = engine.open().unwrap();
                let (mut all, mut out) = (Vec::new(), Vec::new());
                for (index, part) in ids.chunks(chunk).enumerate() {
                    run(&mut engine, slot, index * chunk, Input::Tokens(part), 0, &mut out);
                    all.extend(out.iter().map(|x| x.to_bits()));
                }
                assert_eq!(all.len(), 23 * spec.vocab);
                let same = *want.get_or_insert_with(|| all.clone()) == all;
                assert!(same, "{format:?}: {threads} threads, chunks of {chunk}");
            }
        }
    }
}

#[test]
fn a_split_at_any_boundary_gives_the_bits_of_the_whole() {
    let model = Model::open("fixtures/gpt2");
    let ids = [3, 141, 59, 26, 535, 8, 97];
    for format in WeightFormat::ALL {
        let mut whole = model.engine(format, 0..model.spec.layers, 2);
        let slot = whole.open().unwrap();
        let mut want = Vec::new();
        run(&mut whole, slot, 0, Input::Tokens(&ids), 2, &mut want);
        assert_eq!(want.len(), 5 * model.spec.vocab);
        for boundary in 1..model.spec.layers {
            let mut first = model.engine(format, 0..boundary, 1);
            let mut second = model.engine(format, boundary..model.spec.layers, 2);
            let slots = (first.open().unwrap(), second.open().unwrap());
            let (mut rows, mut got) = (Vec::new(), Vec::new());
            run(&mut first, slots.0, 0, Input::Tokens(&ids), 0, &mut rows);
            assert_eq!(rows.len(), ids.len() * model.spec.width);
            run(&mut second, slots.1, 0, Input::Rows(&rows), 2, &mut got);
            assert_eq!(got, want, "{format:?} at {boundary}");
        }
    }
}

#[test]
fn a_step_at_an_earlier_position_forgets_what_came_behind() {
    let mut engine = fixture();
    let slot = engine.open().unwrap();
    let want = prefill(&mut engine, slot, &[5, 6, 7, 8, 9], 24);
    run(&mut engine, slot, 2, Input::Tokens(&[100, 101, 102, 103, 104, 105]), 6, &mut Vec::new());
    let mut got = Vec::new();
    run(&mut engine, slot, 2, Input::Tokens(&[7, 8]), 2, &mut got);
    assert_eq!(
        now(engine.run(step(slot, 5, Input::Tokens(&[1]), 0), &mut got)),
        Err(EngineError::Gap { have: 4, got: 5 })
    );
    run(&mut engine, slot, 4, Input::Tokens(&[9]), 0, &mut got);
    assert_eq!(got, want);
}

#[test]
fn slots_do_not_see_each_other() {
    let mut engine = fixture();
    let texts = [[11, 22, 33, 44], [55, 66, 77, 88]];
    let alone = texts.map(|ids| {
        let slot = engine.open().unwrap();
        let logits = prefill(&mut engine, slot, &ids, 24);
        engine.close(slot);
        logits
    });
    let slots = [engine.open().unwrap(), engine.open().unwrap()];
    let mut got = [Vec::new(), Vec::new()];
    for position in 0..4 {
        for ((slot, ids), logits) in slots.iter().zip(&texts).zip(&mut got) {
            run(&mut engine, *slot, position, Input::Tokens(&ids[position..=position]), 0, logits);
        }
    }
    assert_eq!(got, alone);
}

#[test]
fn slots_are_limited_reusable_and_empty_when_opened() {
    let mut engine = fixture();
    let slots = [engine.open().unwrap(), engine.open().unwrap()];
    assert_ne!(slots[0], slots[1]);
    assert_eq!(engine.open(), Err(EngineError::Slots(2)));
    run(&mut engine, slots[0], 0, Input::Tokens(&[1, 2, 3]), 3, &mut Vec::new());
    engine.close(slots[0]);
    engine.close(Slot(99));
    let mut out = vec![1.0];
    let closed = now(engine.run(step(slots[0], 0, Input::Tokens(&[1]), 0), &mut out));
    assert_eq!((closed, out.len()), (Err(EngineError::NoSlot(slots[0].0)), 0));
    let again = engine.open().unwrap();
    let gap = now(engine.run(step(again, 3, Input::Tokens(&[1]), 0), &mut out));
    assert_eq!(gap, Err(EngineError::Gap { have: 0, got: 3 }));
}

#[test]
fn a_bad_step_names_the_rule_and_leaves_the_cache_alone() {
    let mut engine = fixture();
    let slot = engine.open().unwrap();
    let ids: Vec<u32> = (0..12).collect();
    let want = prefill(&mut engine, slot, &ids, 24);
    run(&mut engine, slot, 0, Input::Tokens(&ids[..11]), 11, &mut Vec::new());
    let vocab = engine.plan().spec.vocab;
    let bad = [
        (Slot(7), 0, Input::Tokens(&[1]), EngineError::NoSlot(7)),
        (slot, 0, Input::Tokens(&[]), EngineError::Rows { got: 0, max: 24 }),
        (slot, 0, Input::Tokens(&[1; 25]), EngineError::Rows { got: 25, max: 24 }),
        (slot, 12, Input::Tokens(&[1]), EngineError::Gap { have: 11, got: 12 }),
        (slot, 0, Input::Tokens(&[1, u32::MAX]), EngineError::Token { id: u32::MAX, vocab }),
        (slot, 0, Input::Rows(&[0.0; 96]), EngineError::Input { want: "token ids", got: "rows" }),
    ];
    for (slot, position, input, error) in bad {
        assert_eq!(now(engine.run(step(slot, position, input, 0), &mut Vec::new())), Err(error));
    }
    let mut got = Vec::new();
    run(&mut engine, slot, 11, Input::Tokens(&ids[11..]), 0, &mut got);
    assert_eq!(got, want);

    let mut behind = Model::open("fixtures/gpt2").engine(WeightFormat::F16, 1..2, 1);
    let slot = behind.open().unwrap();
    let torn = now(behind.run(step(slot, 0, Input::Rows(&[0.0; 97]), 0), &mut got));
    assert_eq!(torn, Err(EngineError::Input { want: "whole rows", got: "a torn row" }));
    let ids = now(behind.run(step(slot, 0, Input::Tokens(&[1]), 0), &mut got));
    assert_eq!(ids, Err(EngineError::Input { want: "rows of the residual stream", got: "token ids" }));
}

#[test]
fn the_context_is_used_to_its_end_and_not_beyond() {
    let mut engine = fixture();
    let slot = engine.open().unwrap();
    for start in (0..80).step_by(20) {
        run(&mut engine, slot, start, Input::Tokens(&[start as u32; 20]), 20, &mut Vec::new());
    }
    let beyond = now(engine.run(step(slot, 80, Input::Tokens(&[1]), 0), &mut Vec::new()));
    assert_eq!(beyond, Err(EngineError::Context { end: 81, max: 80 }));
    let beyond = decode(&mut engine, Decode::greedy(slot, 78, 1, 3));
    assert_eq!(beyond, Err(EngineError::Context { end: 81, max: 80 }));
    assert_eq!(decode(&mut engine, Decode::greedy(slot, 78, 1, 2)).unwrap().len(), 2);
}

#[test]
fn logits_are_given_for_the_wanted_rows_only() {
    let mut engine = fixture();
    let (slot, vocab) = (engine.open().unwrap(), engine.plan().spec.vocab);
    let ids = [9, 8, 7, 6, 5];
    let (mut all, mut some) = (Vec::new(), Vec::new());
    run(&mut engine, slot, 0, Input::Tokens(&ids), 0, &mut all);
    assert_eq!(all.len(), 5 * vocab);
    for wanted in [1, 3, 4, 5, 6, usize::MAX] {
        run(&mut engine, slot, 0, Input::Tokens(&ids), wanted, &mut some);
        assert_eq!(some, all[wanted.min(5) * vocab..], "from {wanted} on");
    }
}

#[test]
fn the_token_loop_gives_what_steps_and_a_choice_give() {
    let mut engine = fixture();
    let slot = engine.open().unwrap();
    let mut chooser = Chooser::default();
    for sampler in samplers() {
        let (mut token, mut want, mut logits) = (17, vec![], Vec::new());
        for position in 0..12 {
            run(&mut engine, slot, position, Input::Tokens(&[token]), 0, &mut logits);
            token = chooser.choose(&logits, &sampler, position);
            if sampler == Sampler::Greedy {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert_eq!(logits.iter().position(|logit| *logit == max), Some(token as usize));
            }
            want.push(token);
        }
        let all = Decode { sampler, ..Decode::greedy(slot, 0, 17, 12) };
        assert_eq!(decode(&mut engine, all).unwrap(), want, "{sampler:?}");
        assert_eq!(decode(&mut engine, all).unwrap(), want, "a seed gives the same ids");
    }
    let mut part = Model::open("fixtures/gpt2").engine(WeightFormat::F16, 0..2, 1);
    let slot = part.open().unwrap();
    assert_eq!(decode(&mut part, Decode::greedy(slot, 0, 17, 6)), Err(EngineError::NotWhole(0..2)));
}

#[test]
fn a_stop_id_is_the_last_and_the_loop_goes_on_behind_it() {
    let mut engine = fixture();
    let slot = engine.open().unwrap();
    let all = Decode::greedy(slot, 0, 17, 20);
    let ids = decode(&mut engine, all).unwrap();
    let at = 1 + ids.iter().skip(1).position(|id| !ids[..1].contains(id)).unwrap();
    let stop = [4711, ids[at]];
    assert_eq!(decode(&mut engine, Decode { stop: &stop, ..all }).unwrap(), ids[..=at]);
    let gap = decode(&mut engine, Decode::greedy(slot, at + 2, ids[at], 1));
    assert_eq!(gap, Err(EngineError::Gap { have: at + 1, got: at + 2 }));
    assert_eq!(decode(&mut engine, Decode::greedy(slot, at + 1, ids[at], 19 - at)).unwrap(), ids[at + 1..]);
}

#[test]
fn a_sink_that_has_enough_ends_the_loop_and_the_next_one_goes_on_right() {
    let mut engine = fixture();
    let slot = engine.open().unwrap();
    let ids = decode(&mut engine, Decode::greedy(slot, 0, 17, 20)).unwrap();
    let mut seen = Vec::new();
    let sink = |id| {
        seen.push(id);
        if seen.len() == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    now(engine.decode(Decode::greedy(slot, 0, 17, 20), sink)).unwrap();
    assert_eq!(seen, ids[..7]);
    assert_eq!(decode(&mut engine, Decode::greedy(slot, 7, ids[6], 13)).unwrap(), ids[7..]);
}

#[test]
fn a_sampler_out_of_range_is_refused_and_changes_nothing() {
    let mut engine = fixture();
    let slot = engine.open().unwrap();
    let sampler = Sampler::Sampled { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 1 };
    let refused = decode(&mut engine, Decode { sampler, ..Decode::greedy(slot, 0, 17, 4) });
    assert!(matches!(refused, Err(EngineError::Sampler { name: "temperature", .. })), "{refused:?}");
    let gap = decode(&mut engine, Decode::greedy(slot, 1, 17, 4));
    assert_eq!(gap, Err(EngineError::Gap { have: 0, got: 1 }));
}

/// One of each rule.
fn samplers() -> [Sampler; 5] {
    let sampled = |top_k, top_p, seed| Sampler::Sampled { temperature: 0.8, top_k, top_p, seed };
    [Sampler::Greedy, sampled(0, 1.0, 1), sampled(5, 1.0, 2), sampled(0, 0.6, u64::MAX), sampled(9, 0.9, 3)]
}

#[test]
fn pieces_that_do_not_fit_the_plan_are_refused_by_name() {
    let spec = odd_spec();
    let plan = Plan::new(&spec, WeightFormat::F16, 0..spec.layers);
    let pieces = arbitrary_pieces(&plan);
    let refusal = |pieces: &[PieceBytes]| match CpuEngine::new(plan.clone(), pieces, CONFIG, Some(1)) {
        Err(EngineError::Piece { piece, got, want }) => (piece, got, want),
        other => panic!("{:?}", other.err()),
    };
    let lengths: Vec<u64> = pieces.iter().map(|piece| piece.as_slice().len() as u64).collect();
    assert_eq!(refusal(&pieces[..4]), ("block.2".into(), 0, lengths[4]));
    let mut short = pieces.clone();
    short[2] = PieceBytes::copy_of(&short[2].as_slice()[1..]);
    assert_eq!(refusal(&short), ("block.0".into(), lengths[2] - 1, lengths[2]));
    let extra = [&pieces[..], &pieces[..1]].concat();
    assert_eq!((refusal(&extra).1, refusal(&extra).2), (lengths[0], 0));
}

#[test]
fn what_has_no_kernel_is_refused_by_name() {
    let spec = Spec { position: rotary(12), head_dim: 13, ..odd_spec() };
    let plan = Plan::new(&spec, WeightFormat::F16, 0..1);
    let pieces = arbitrary_pieces(&plan);
    let error = CpuEngine::new(plan, &pieces, CONFIG, Some(1)).err().unwrap();
    assert!(matches!(&error, EngineError::Unsupported { what, .. } if what.contains("13 elements")), "{error}");
    let plan = Plan::new(&odd_spec(), WeightFormat::F16, 1..2);
    let pieces = arbitrary_pieces(&plan);
    let config = EngineConfig { max_positions: 97, ..CONFIG };
    let error = CpuEngine::new(plan, &pieces, config, Some(1)).err();
    assert_eq!(error, Some(EngineError::Context { end: 97, max: 96 }));
}

#[test]
fn an_engine_without_positions_or_rows_is_refused() {
    let plan = Plan::new(&odd_spec(), WeightFormat::F16, 1..2);
    let pieces = arbitrary_pieces(&plan);
    let refusal = |config| CpuEngine::new(plan.clone(), &pieces, config, Some(1)).err();
    let none = refusal(EngineConfig { max_positions: 0, ..CONFIG });
    assert_eq!(none, Some(EngineError::Context { end: 0, max: 96 }));
    let none = refusal(EngineConfig { max_rows: 0, ..CONFIG });
    assert!(matches!(none, Some(EngineError::Rows { got: 0, .. })), "{none:?}");
}

#[test]
fn a_loop_of_no_turns_gives_no_ids_and_leaves_the_cache_alone() {
    let mut engine = fixture();
    let slot = engine.open().unwrap();
    let (mut want, mut got) = (Vec::new(), Vec::new());
    prefill(&mut engine, slot, &[5, 6, 7], 24);
    run(&mut engine, slot, 3, Input::Tokens(&[8]), 0, &mut want);
    assert_eq!(decode(&mut engine, Decode::greedy(slot, 1, 9, 0)), Ok(vec![]));
    run(&mut engine, slot, 3, Input::Tokens(&[8]), 0, &mut got);
    assert_eq!(got, want);
}

#[test]
fn an_engine_names_its_threads_and_instructions() {
    let model = Model::open("fixtures/gpt2");
    let names = [1, 2].map(|threads| model.engine(WeightFormat::F16, 0..1, threads).device().to_owned());
    assert!(names[0].starts_with("cpu (1 thread, ") && names[1].starts_with("cpu (2 threads, "), "{names:?}");
    assert!(describe().starts_with("cpu ("));
}

#[test]
fn two_engines_on_threads_of_their_own_do_not_disturb_each_other() {
    let ids: Vec<u32> = (0..20).collect();
    let task = |ids: &[u32]| {
        let mut engine = fixture();
        let slot = engine.open().unwrap();
        (0..5).map(|_| prefill(&mut engine, slot, ids, 3)).collect::<Vec<_>>()
    };
    let alone = task(&ids);
    let both = std::thread::scope(|scope| {
        let threads = [scope.spawn(|| task(&ids)), scope.spawn(|| task(&ids))];
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(both, [alone.clone(), alone]);
    let mut moved = fixture();
    assert!(std::thread::spawn(move || moved.open().is_ok()).join().unwrap());
}

/// Sizes that fit no register, grouped queries, a gate, SiLU, RMS norm, a head of its own.
fn odd_spec() -> Spec {
    Spec {
        family: Family::Gpt2,
        layers: 3,
        width: 72,
        heads: 6,
        kv_heads: 2,
        head_dim: 12,
        ffn: 101,
        vocab: 131,
        max_positions: 96,
        norm: Norm { kind: NormKind::Rms, eps: 1e-6 },
        position: Position::Learned,
        activation: Activation::Silu,
        gated: true,
        attention: Attention::default(),
        post_norms: false,
        embed_scale: None,
        logit_softcap: None,
        tied_head: false,
        eos: vec![],
    }
}

/// A rotation of the first `dims` elements of a head.
fn rotary(dims: usize) -> Position {
    Position::Rope(Rope { theta: 1e4, dims, scaling: RopeScaling::None })
}

/// A model of the repository.
struct Model {
    folder: ModelFolder,
    spec: Spec,
}

impl Model {
    fn open(folder: &str) -> Self {
        let folder = ModelFolder::open(&root().join(folder)).unwrap();
        let spec = folder.spec().clone();
        Self { folder, spec }
    }

    fn engine(&self, format: WeightFormat, layers: std::ops::Range<usize>, threads: usize) -> CpuEngine {
        let plan = Plan::new(&self.spec, format, layers);
        let pieces: Vec<_> = plan.pieces.iter().map(|piece| self.folder.piece(*piece, format).unwrap()).collect();
        CpuEngine::new(plan, &pieces, CONFIG, Some(threads)).unwrap()
    }
}

fn fixture() -> CpuEngine {
    let model = Model::open("fixtures/gpt2");
    model.engine(WeightFormat::F16, 0..model.spec.layers, 2)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folders of the random models, all of them.
fn fixtures() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("fixtures")).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.path().join("config.json").is_file());
    let mut names: Vec<String> = folders.map(|entry| format!("fixtures/{}", entry.file_name().display())).collect();
    names.sort();
    names
}

/// What transformers says of a model.
fn golden(folder: &str) -> Value {
    serde_json::from_slice(&std::fs::read(root().join(folder).join("golden.json")).unwrap()).unwrap()
}

fn ids_of(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn step(slot: Slot, position: usize, input: Input<'_>, wanted: usize) -> Step<'_> {
    Step { slot, position, input, wanted }
}

fn run(engine: &mut CpuEngine, slot: Slot, position: usize, input: Input<'_>, wanted: usize, out: &mut Vec<f32>) {
    now(engine.run(step(slot, position, input, wanted), out)).unwrap();
}

/// Feeds a prompt in chunks from position 0; the logits behind its last token.
fn prefill(engine: &mut CpuEngine, slot: Slot, ids: &[u32], chunk: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for (index, part) in ids.chunks(chunk).enumerate() {
        run(engine, slot, index * chunk, Input::Tokens(part), part.len() - 1, &mut out);
    }
    out
}

/// All ids of a loop.
fn decode(engine: &mut CpuEngine, decode: Decode<'_>) -> Result<Vec<u32>, EngineError> {
    let mut ids = Vec::new();
    let sink = |id| {
        ids.push(id);
        ControlFlow::Continue(())
    };
    now(engine.decode(decode, sink)).map(|()| ids)
}

fn now<F: Future>(future: F) -> F::Output {
    pollster::block_on(future)
}
