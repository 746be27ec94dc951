//! The integer kernels beside the CPU engine, over the same packed pieces.

use std::path::Path;

use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Engine, EngineConfig, Input, Step};
use syn1_kernels_int::{Activation, Block, BlockLayout, Norm, Rope, Scratch, Shape};
use syn1_model::pack::pack_piece;
use syn1_model::plan::{Op, Piece, Plan, WeightFormat};
use syn1_model::source::Source;
use syn1_model::spec::{self, NormKind, Position, Spec};

/// The shape of a model's blocks.
fn shape(spec: &Spec) -> Shape {
    Shape {
        width: spec.width,
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        ffn: spec.ffn,
        norm: if spec.norm.kind == NormKind::Layer { Norm::Layer } else { Norm::Rms },
        eps: spec.norm.eps,
        activation: match spec.activation {
            spec::Activation::GeluTanh => Activation::GeluTanh,
            spec::Activation::Silu => Activation::Silu,
        },
        gated: spec.gated,
        rope: match spec.position {
            Position::Learned => None,
            Position::Rope(rope) => Some(Rope { theta: rope.theta, dims: rope.dims }),
        },
    }
}

fn open(model: &str) -> Source {
    Source::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(model)).expect("a model of the repository")
}

/// Rows as they stand behind the layers before `layer`.
fn rows_before(source: &Source, layer: usize, ids: &[u32]) -> Vec<f32> {
    run(source, 0..layer, Input::Tokens(ids))
}

fn run(source: &Source, layers: std::ops::Range<usize>, input: Input<'_>) -> Vec<f32> {
    let plan = Plan::new(source.spec(), WeightFormat::Int8, layers);
    let pieces: Vec<_> =
        plan.pieces.iter().map(|piece| pack_piece(source, *piece, WeightFormat::Int8).expect("packed")).collect();
    let config = EngineConfig { max_positions: 64, slots: 1, max_rows: 64 };
    let mut engine = CpuEngine::new(plan, &pieces, config, Some(2)).expect("an engine");
    let slot = engine.open().expect("a slot");
    let mut out = Vec::new();
    let step = Step { slot, position: 0, input, wanted: usize::MAX };
    pollster::block_on(engine.run(step, &mut out)).expect("a step");
    out
}

/// The rows behind a block, by the integer kernels.
fn in_integers(source: &Source, layer: usize, rows: &[f32]) -> Vec<f32> {
    let shape = shape(source.spec());
    let piece = pack_piece(source, Piece::Block(layer), WeightFormat::Int8).expect("packed");
    let block = Block::new(shape, piece.as_slice()).expect("a block");
    let positions = rows.len() / shape.width;
    let (floats, words) = Scratch::words(&shape);
    let (mut floats, mut row, mut weights) = (vec![0.0; floats], vec![0; words], vec![0; positions]);
    let mut scratch = Scratch::new(&shape, &mut floats, &mut row, &mut weights).expect("room");
    let mut cache = vec![0; positions * shape.kv_words()];
    let mut rows = rows.to_vec();
    for (position, x) in rows.chunks_exact_mut(shape.width).enumerate() {
        block.attention(x, position, &mut cache, &mut scratch).expect("attention");
        block.mlp(x, &mut scratch).expect("an MLP");
    }
    rows
}

/// The root mean square of the difference over that of what a block adds.
fn error(rows: &[f32], got: &[f32], want: &[f32]) -> f64 {
    let square = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum() };
    (square(got, want) / square(want, rows)).sqrt()
}

#[test]
fn blocks_add_what_the_cpu_engine_adds_to_within_a_thousandth() {
    for (model, layers) in [("models/tiny-rust-docs", [1, 4, 7]), ("fixtures/llama", [1, 2, 3])] {
        let source = open(model);
        let ids: Vec<u32> = (0..48).map(|i| (i * 37 + 11) % 900).collect();
        for layer in layers {
            let rows = rows_before(&source, layer, &ids);
            let want = if layer + 1 == source.spec().layers {
                continue;
            } else {
                run(&source, layer..layer + 1, Input::Rows(&rows))
            };
            let error = error(&rows, &in_integers(&source, layer, &rows), &want);
            println!("{model}, layer {layer}: {error:.2e}");
            assert!(error < 1e-3, "{model}, layer {layer}: {error}");
        }
    }
}

#[test]
fn the_layout_is_that_of_the_plan() {
    for model in ["models/tiny-rust-docs", "fixtures/gpt2", "fixtures/llama", "fixtures/mistral"] {
        let source = open(model);
        let plan = Plan::new(source.spec(), WeightFormat::Int8, 1..2);
        let layout = BlockLayout::new(&shape(source.spec())).expect("a layout");
        let piece = pack_piece(&source, Piece::Block(1), WeightFormat::Int8).expect("packed");
        assert_eq!(layout.bytes(), piece.as_slice().len(), "{model}");
        let matrices: Vec<_> = plan
            .ops
            .iter()
            .filter_map(|op| match op {
                Op::Qkv { gemv, .. } | Op::Out { gemv, .. } | Op::Up { gemv, .. } | Op::Down { gemv, .. } => {
                    Some((gemv.matrix.data.offset as usize, gemv.matrix.row_bytes()))
                }
                _ => None,
            })
            .collect();
        assert_eq!(layout.matrices().to_vec(), matrices, "{model}");
    }
}

#[test]
fn damaged_pieces_are_refused_by_name() {
    let source = open("fixtures/gpt2");
    let shape = shape(source.spec());
    let piece = pack_piece(&source, Piece::Block(0), WeightFormat::Int8).expect("packed");
    let refused = |bytes: &[u8]| Block::new(shape, bytes).expect_err("refused").to_string();
    assert!(refused(&piece.as_slice()[1..]).contains("bytes, its shape says"));
    let layout = BlockLayout::new(&shape).expect("a layout");
    let mut bytes = piece.as_slice().to_vec();
    let (down, _) = layout.matrices()[3];
    let scale = down + shape.ffn.next_multiple_of(32) + 1;
    bytes[scale] = 0x7c;
    assert!(refused(&bytes).contains("row 0 of down has a scale"));
    let mut bytes = piece.as_slice().to_vec();
    bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(refused(&bytes).contains("infinite or NaN"));
}
