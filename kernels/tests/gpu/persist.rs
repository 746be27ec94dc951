//! The token loop in one dispatch gives the same tokens as the other kernels.
//!
//! Software adapters run one workgroup to its end before they begin another, so one is what these tests use there.

use std::ops::ControlFlow;

use syn1_kernels::engine::{Decode, Engine, EngineConfig};
use syn1_kernels::gpu::{GpuDevice, GpuEngine, GpuOptions, Persistence};
use syn1_model::plan::{Plan, WeightFormat};
use syn1_model::spec::{Attention, Spec};

use crate::setup::{decode, device, feed, greedy, ids, odd, pieces, whole};

/// Learned positions, GELU, layer norm.
pub(crate) fn plain() -> Spec {
    Spec { width: 128, heads: 4, kv_heads: 4, head_dim: 32, ffn: 256, layers: 3, vocab: 1001, ..Spec::gpt2_124m() }
}

/// Rotated heads that share KV heads, SwiGLU, RMS norm, a head of its own.
pub(crate) fn gated() -> Spec {
    Spec {
        width: 96,
        heads: 6,
        kv_heads: 2,
        head_dim: 16,
        ffn: 160,
        layers: 2,
        vocab: 334,
        max_positions: 1024,
        tied_head: false,
        position: match Spec::llama_1b().position {
            syn1_model::spec::Position::Rope(rope) => {
                syn1_model::spec::Position::Rope(syn1_model::spec::Rope { dims: 16, ..rope })
            }
            other => other,
        },
        ..Spec::llama_1b()
    }
}

fn config() -> EngineConfig {
    EngineConfig { max_positions: 512, slots: 2, max_rows: 64 }
}

fn engine(device: &GpuDevice, spec: &Spec, format: WeightFormat, persist: Persistence) -> GpuEngine {
    let (plan, pieces) = whole(spec, format);
    GpuEngine::with_options(device, plan, &pieces, config(), GpuOptions { persist, ..GpuOptions::default() }).unwrap()
}

#[test]
fn every_format_and_both_kinds_of_model_give_the_tokens_that_the_other_kernels_give() {
    let device = device();
    for spec in [plain(), gated()] {
        for format in WeightFormat::ALL {
            let prompt = ids(&spec, 9);
            let mut texts = Vec::new();
            for persist in [Persistence::Off, sized(64), sized(256)] {
                let mut engine = engine(&device, &spec, format, persist);
                assert_eq!(engine.in_one_dispatch(), persist != Persistence::Off);
                let slot = engine.open().unwrap();
                feed(&mut engine, slot, 0, &prompt[..8], 8);
                texts.push(greedy(&mut engine, slot, 8, prompt[8], 40));
            }
            assert_eq!(texts[0], texts[1], "{format}, 64 threads");
            assert_eq!(texts[0], texts[2], "{format}, 256 threads");
        }
    }
}

#[test]
fn a_loop_goes_on_where_another_ended_and_other_kernels_read_its_kv_cache() {
    let device = device();
    let mut texts = Vec::new();
    for persist in [Persistence::Off, sized(128)] {
        let mut engine = engine(&device, &plain(), WeightFormat::F16, persist);
        let slot = engine.open().unwrap();
        let mut text = greedy(&mut engine, slot, 0, 3, 21);
        let last = text[20];
        text.extend(greedy(&mut engine, slot, 21, last, 30));
        // A stop id in the middle of a submit, and a step of rows behind it.
        let stop = [text[40]];
        let stopped = decode(&mut engine, Decode { stop: &stop, ..Decode::greedy(slot, 21, last, 30) }).unwrap();
        let at = 21 + stopped.len();
        text.extend(&stopped);
        let logits = feed(&mut engine, slot, at, &[5, 6, 7], 0);
        assert!(logits.iter().all(|logit| logit.is_finite()));
        text.extend(logits.chunks(1001).map(crate::setup::argmax));
        texts.push(text);
    }
    assert_eq!(texts[0], texts[1]);
}

#[test]
fn a_window_hides_what_lies_before_it() {
    let device = device();
    let local = syn1_model::spec::Local { window: 16, layers: vec![true; 3], rope: None };
    let spec = Spec { attention: Attention { local: Some(local), ..Attention::default() }, ..plain() };
    let texts = [Persistence::Off, sized(128)].map(|persist| {
        let mut engine = engine(&device, &spec, WeightFormat::F32, persist);
        let slot = engine.open().unwrap();
        greedy(&mut engine, slot, 0, 3, 60)
    });
    assert_eq!(texts[0], texts[1]);
}

#[test]
fn what_it_cannot_run_is_refused_by_name() {
    let device = device();
    let refusal = |plan: Plan| {
        let options = GpuOptions { persist: sized(128), ..GpuOptions::default() };
        let pieces = pieces(&plan);
        let config = EngineConfig { max_positions: 64.min(plan.spec.max_positions), ..config() };
        match GpuEngine::with_options(&device, plan, &pieces, config, options) {
            Ok(_) => panic!("it was taken"),
            Err(error) => error.to_string(),
        }
    };
    let spec = plain();
    assert!(refusal(Plan::new(&spec, WeightFormat::F16, 0..2)).contains("only a part of the model"));
    assert!(refusal(Plan::new(&odd(), WeightFormat::F16, 0..2)).contains("differ in window or rotation"));
    let normed = Spec { attention: Attention { qk_norm: true, ..Attention::default() }, ..gated() };
    assert!(refusal(Plan::new(&normed, WeightFormat::F16, 0..2)).contains("norms heads"));
    let many = GpuOptions { persist: Persistence::Sized { groups: 65, threads: 128 }, ..GpuOptions::default() };
    let (plan, pieces) = whole(&spec, WeightFormat::F16);
    let error = GpuEngine::with_options(&device, plan, &pieces, config(), many).err().unwrap().to_string();
    assert!(error.contains("rows for 64 workgroups, not for 65"), "{error}");
}

#[test]
fn measuring_keeps_it_only_where_it_gives_the_same_tokens() {
    let device = device();
    let texts = [Persistence::Off, Persistence::Measured].map(|persist| {
        let mut engine = engine(&device, &plain(), WeightFormat::F16, persist);
        let slot = engine.open().unwrap();
        let mut text = Vec::new();
        let sink = |id| {
            text.push(id);
            ControlFlow::Continue(())
        };
        pollster::block_on(engine.decode(Decode::greedy(slot, 0, 3, 60), sink)).unwrap();
        assert!(!(device.is_software() && engine.in_one_dispatch()));
        text
    });
    assert_eq!(texts[0], texts[1]);
}

fn sized(threads: u32) -> Persistence {
    Persistence::Sized { groups: 1, threads }
}
