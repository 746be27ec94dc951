//! Models, devices and engines for the tests.

use std::ops::ControlFlow;
use std::path::Path;

use syn1_kernels::engine::{Decode, Engine, EngineConfig, EngineError, Input, Slot, Step};
use syn1_kernels::gpu::{GpuDevice, GpuEngine, GpuOptions};
use syn1_model::piece::PieceBytes;
use syn1_model::plan::{Plan, WeightFormat};
use syn1_model::spec::{Activation, Attention, Family, Local, Norm, NormKind, Position, Spec};
use syn1_model::{ModelFolder, random_piece};

/// Those that a golden is compared with, and that keep the two formats of the KV cache apart.
pub(crate) const FORMATS: [WeightFormat; 2] = [WeightFormat::F32, WeightFormat::F16];

/// Both forms of every reduction, with the usual windows, and f32 throughout.
pub(crate) fn twins() -> [GpuOptions; 2] {
    [true, false].map(|subgroups| GpuOptions { subgroups, cooperative: false, ..GpuOptions::default() })
}

/// The adapter that the tests run on: `SYN1_TEST_GPU` as a selector, else the fastest one, else a software adapter.
pub(crate) fn device() -> GpuDevice {
    let selector = std::env::var("SYN1_TEST_GPU").unwrap_or_else(|_| "gpu".into());
    match GpuDevice::open(&selector) {
        Ok(device) => device,
        Err(error) => panic!("these tests need a GPU adapter, a software one will do: {error}"),
    }
}

/// Widths that fit no vector: rows of 96 and 200 elements.
pub(crate) fn ragged() -> Spec {
    Spec {
        family: Family::Gpt2,
        layers: 3,
        width: 96,
        heads: 6,
        kv_heads: 6,
        head_dim: 16,
        ffn: 200,
        vocab: 1001,
        max_positions: 700,
        norm: Norm { kind: NormKind::Layer, eps: 1e-5 },
        position: Position::Learned,
        activation: Activation::GeluTanh,
        gated: false,
        attention: Attention::default(),
        post_norms: false,
        embed_scale: None,
        logit_softcap: None,
        tied_head: true,
        eos: vec![1],
    }
}

/// RMS norm, query heads that share KV heads, head parts that do not divide a workgroup, rows that are no multiple of
/// four, and a layer that sees only the latest positions.
pub(crate) fn odd() -> Spec {
    Spec {
        width: 90,
        heads: 4,
        kv_heads: 2,
        head_dim: 24,
        ffn: 134,
        vocab: 333,
        layers: 2,
        norm: Norm { kind: NormKind::Rms, eps: 1e-6 },
        attention: Attention {
            local: Some(Local { window: 300, layers: vec![false, true], rope: None }),
            ..Attention::default()
        },
        tied_head: false,
        ..ragged()
    }
}

/// The pieces of `plan`, random and always the same.
pub(crate) fn pieces(plan: &Plan) -> Vec<PieceBytes> {
    plan.pieces.iter().map(|piece| random_piece(&plan.spec, plan.format, *piece, 7)).collect()
}

/// A plan of all layers and its pieces.
pub(crate) fn whole(spec: &Spec, format: WeightFormat) -> (Plan, Vec<PieceBytes>) {
    let plan = Plan::new(spec, format, 0..spec.layers);
    let pieces = pieces(&plan);
    (plan, pieces)
}

pub(crate) fn config(spec: &Spec) -> EngineConfig {
    EngineConfig { max_positions: spec.max_positions, slots: 3, max_rows: 160 }
}

pub(crate) fn engine(device: &GpuDevice, plan: &Plan, pieces: &[PieceBytes], options: GpuOptions) -> GpuEngine {
    GpuEngine::with_options(device, plan.clone(), pieces, config(&plan.spec), options).unwrap()
}

/// Token ids, always the same.
pub(crate) fn ids(spec: &Spec, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 37 + i * i * 11 + 5) % spec.vocab as u32).collect()
}

/// Runs a step of tokens; gives the logits of the rows from `wanted` on, or the rows where the range has no head.
pub(crate) fn feed(engine: &mut GpuEngine, slot: Slot, position: usize, ids: &[u32], wanted: usize) -> Vec<f32> {
    let mut out = Vec::new();
    let step = Step { slot, position, input: Input::Tokens(ids), wanted };
    pollster::block_on(engine.run(step, &mut out)).unwrap();
    out
}

pub(crate) fn greedy(engine: &mut GpuEngine, slot: Slot, position: usize, token: u32, count: usize) -> Vec<u32> {
    decode(engine, Decode::greedy(slot, position, token, count)).unwrap()
}

/// All ids of a loop.
pub(crate) fn decode(engine: &mut impl Engine, decode: Decode<'_>) -> Result<Vec<u32>, EngineError> {
    let mut ids = Vec::new();
    let sink = |id| {
        ids.push(id);
        ControlFlow::Continue(())
    };
    pollster::block_on(engine.decode(decode, sink)).map(|()| ids)
}

/// The index of the largest value, the lowest among equals.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (index, value) in logits.iter().enumerate() {
        if *value > logits[best] {
            best = index;
        }
    }
    best as u32
}

/// Fails unless every value is within `tolerance` of the wanted one, as a part of the largest wanted magnitude.
pub(crate) fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-3_f64, |scale, v| scale.max(v.abs()));
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= tolerance * scale, "{what}: value {index} is {got}, not {want}");
    }
}

/// A model folder of the repository.
pub(crate) fn model(path: &str) -> ModelFolder {
    ModelFolder::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// The whole of a model folder, packed.
pub(crate) fn packed(folder: &ModelFolder, format: WeightFormat) -> (Plan, Vec<PieceBytes>) {
    let spec = folder.spec();
    let plan = Plan::new(spec, format, 0..spec.layers);
    let pieces = plan.pieces.iter().map(|piece| folder.piece(*piece, format).unwrap()).collect();
    (plan, pieces)
}
