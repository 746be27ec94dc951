//! What becomes of the families' checkpoints: properties that hold between them.

use half::f16;
use safetensors::Dtype;
use serde_json::json;

use crate::fixture::Model;
use crate::layout::{BlockLayout, HeadLayout};
use crate::pack::pack_piece;
use crate::piece::PieceBytes;
use crate::plan::{Gemv, Matrix, Piece, Tensor, WeightFormat, all_pieces};
use crate::source::Source;
use crate::spec::Spec;

fn packed(model: &Model, piece: Piece, format: WeightFormat) -> PieceBytes {
    let folder = model.write(Dtype::F16);
    pack_piece(&Source::open(folder.path()).expect("source"), piece, format).expect("pack")
}

fn floats(piece: &PieceBytes, tensor: Tensor) -> Vec<f32> {
    let bytes = &piece.as_slice()[tensor.offset as usize..][..tensor.bytes as usize];
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// A row of a packed matrix in f32, without its padding.
fn row(piece: &PieceBytes, matrix: &Matrix, index: usize) -> Vec<f32> {
    floats(piece, matrix.data)[index * matrix.stride..][..matrix.cols].to_vec()
}

fn assert_same_pieces(a: &Model, b: &Model) {
    for format in [WeightFormat::F16, WeightFormat::F32] {
        for piece in all_pieces(&a.spec(), format) {
            assert!(packed(a, piece, format).as_slice() == packed(b, piece, format).as_slice(), "{piece} {format:?}");
        }
    }
}

/// The llama fixture with another architecture's name.
fn llama_as(class: &str, kind: &str) -> Model {
    let mut model = Model::of("llama");
    model.config["architectures"] = json!([class]);
    model.config["model_type"] = json!(kind);
    model
}

#[test]
fn a_phi3_whose_matrices_are_those_of_a_llama_is_packed_as_the_llama() {
    let llama = Model::of("llama");
    let mut phi3 = llama_as("Phi3ForCausalLM", "phi3");
    for index in 0..4 {
        let mut fuse = |parts: &[&str], whole: &str| {
            let at = |name: &str| format!("model.layers.{index}.{name}.weight");
            let parts: Vec<_> = parts.iter().map(|part| phi3.tensors.remove(&at(part)).expect(part)).collect();
            let rows = parts.iter().map(|(shape, _)| shape[0]).sum();
            let cols = parts[0].0[1];
            phi3.tensors.insert(at(whole), (vec![rows, cols], parts.into_iter().flat_map(|part| part.1).collect()));
        };
        fuse(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "self_attn.qkv_proj");
        fuse(&["mlp.gate_proj", "mlp.up_proj"], "mlp.gate_up_proj");
    }
    assert_same_pieces(&llama, &phi3);
}

#[test]
fn a_mistral_with_a_llama_s_weights_and_a_llama_without_prefix_are_packed_as_the_llama() {
    let llama = Model::of("llama");
    assert_same_pieces(&llama, &llama_as("MistralForCausalLM", "mistral"));
    let mut bare = Model::of("llama");
    bare.rename(|name| name.trim_start_matches("model.").to_owned());
    assert_same_pieces(&llama, &bare);
}

#[test]
fn biases_follow_the_rows_that_they_belong_to() {
    let model = Model::of("qwen2");
    let spec = model.spec();
    let layout = BlockLayout::new(&spec, WeightFormat::F32, 1);
    let piece = packed(&model, Piece::Block(1), WeightFormat::F32);
    let stored = |part: &str| {
        let at = |kind: &str| model.values(&format!("model.layers.1.self_attn.{part}.{kind}"));
        let (weight, bias) = (at("weight"), at("bias"));
        weight.chunks(spec.width).map(<[f32]>::to_vec).zip(bias).collect::<Vec<_>>()
    };
    let stored: Vec<(Vec<f32>, f32)> = ["q_proj", "k_proj", "v_proj"].iter().flat_map(|part| stored(part)).collect();
    let aux = floats(&piece, layout.qkv.aux);
    let mut moved = 0;
    for index in 0..spec.qkv_rows() {
        let weights = row(&piece, &layout.qkv.matrix, index);
        let place = stored.iter().position(|(stored, _)| *stored == weights).expect("a stored row");
        assert_eq!(aux[2 * index + 1], stored[place].1, "row {index}");
        moved += usize::from(place != index);
    }
    // Of each of the eight rotated heads of 16, all but the first and the last element.
    assert_eq!(moved, 8 * 14);
}

#[test]
fn a_rotated_pair_and_a_gate_with_its_factor_are_neighbours() {
    let model = Model::of("phi3");
    let spec = model.spec();
    let layout = BlockLayout::new(&spec, WeightFormat::F32, 0);
    let piece = packed(&model, Piece::Block(0), WeightFormat::F32);
    let stored = |name: &str, row: usize| model.values(name)[row * spec.width..][..spec.width].to_vec();
    // Heads of 16 elements of which 8 are rotated: the pairs are (0, 4), (1, 5), (2, 6), (3, 7).
    let qkv = "model.layers.0.self_attn.qkv_proj.weight";
    for (packed, place) in [(0, 0), (1, 4), (2, 1), (7, 7), (8, 8), (17, 20), (16 * 7 + 1, 16 * 7 + 4), (129, 129)] {
        assert_eq!(row(&piece, &layout.qkv.matrix, packed), stored(qkv, place), "row {packed}");
    }
    let up = "model.layers.0.mlp.gate_up_proj.weight";
    for (packed, place) in [(0, 0), (1, spec.ffn), (2, 1), (3, spec.ffn + 1), (2 * spec.ffn - 1, 2 * spec.ffn - 1)] {
        assert_eq!(row(&piece, &layout.up.matrix, packed), stored(up, place), "row {packed}");
    }
}

#[test]
fn norms_of_q_and_k_are_turned_with_their_heads_and_gemma_s_have_their_one() {
    for (name, one) in [("qwen3", 0.0), ("gemma3", 1.0)] {
        let model = Model::of(name);
        let spec = model.spec();
        let layout = BlockLayout::new(&spec, WeightFormat::F16, 2);
        let piece = packed(&model, Piece::Block(2), WeightFormat::F16);
        let qk = layout.qk_norm.expect("qk_norm");
        for (tensor, part) in [(qk.q, "q_norm"), (qk.k, "k_norm")] {
            let stored = model.values(&format!("model.layers.2.self_attn.{part}.weight"));
            let half = spec.head_dim / 2;
            let turned = (0..half).flat_map(|pair| [stored[pair] + one, stored[pair + half] + one]);
            let gamma = floats(&piece, tensor);
            assert_eq!(gamma[..spec.head_dim], turned.collect::<Vec<_>>(), "{name} {part}");
            assert!(gamma[spec.head_dim..].iter().all(|padding| *padding == 0.0));
        }
        let stored = model.values("model.layers.2.input_layernorm.weight");
        let gamma = floats(&piece, layout.qkv.norm.expect("norm").gamma);
        assert!(gamma.iter().zip(&stored).all(|(gamma, stored)| *gamma == stored + one), "{name}");
    }
}

#[test]
fn gemma_s_four_norms_stand_where_they_belong() {
    let model = Model::of("gemma2");
    let spec = model.spec();
    let layout = BlockLayout::new(&spec, WeightFormat::F16, 3);
    let piece = packed(&model, Piece::Block(3), WeightFormat::F16);
    let [attention, mlp] = layout.post_norms.expect("post norms");
    let folded = |gemv: Gemv| gemv.norm.expect("norm").gamma;
    for (tensor, name) in [
        (folded(layout.qkv), "input_layernorm"),
        (attention.gamma, "post_attention_layernorm"),
        (folded(layout.up), "pre_feedforward_layernorm"),
        (mlp.gamma, "post_feedforward_layernorm"),
    ] {
        let stored = model.values(&format!("model.layers.3.{name}.weight"));
        let gamma: Vec<f32> = stored.iter().map(|stored| stored + 1.0).collect();
        assert_eq!(floats(&piece, tensor)[..spec.width], gamma, "{name}");
    }
    let head = packed(&model, Piece::Head, WeightFormat::F16);
    let gemv = HeadLayout::new(&spec, WeightFormat::F16).gemv;
    let stored = model.values("model.norm.weight");
    assert!(floats(&head, folded(gemv)).iter().zip(&stored).all(|(gamma, stored)| *gamma == stored + 1.0));
}

#[test]
fn tensors_that_the_family_does_not_have_are_refused_and_saved_frequencies_are_passed_over() {
    let mut model = Model::of("llama");
    model.tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), (vec![8], vec![1.0; 8]));
    assert!(Source::open(model.write(Dtype::F16).path()).is_ok());
    let bias = "model.layers.0.self_attn.q_proj.bias";
    model.tensors.insert(bias.into(), (vec![96], vec![0.0; 96]));
    let text = Source::open(model.write(Dtype::F16).path()).expect_err("bias").to_string();
    assert!(text.contains(bias), "{text}");

    let mut model = Model::of("gemma3");
    model.tensors.remove("model.layers.6.self_attn.k_norm.weight");
    let text = Source::open(model.write(Dtype::F16).path()).expect_err("norm").to_string();
    assert!(text.contains("model.layers.6.self_attn.k_norm.weight"), "{text}");
}

#[test]
fn a_tied_and_an_untied_head_hold_the_final_norm() {
    for name in ["llama", "llama3"] {
        let model = Model::of(name);
        let spec: Spec = model.spec();
        let piece = packed(&model, Piece::Head, WeightFormat::F32);
        let gemv = HeadLayout::new(&spec, WeightFormat::F32).gemv;
        let matrix = model.values(if spec.tied_head { "model.embed_tokens.weight" } else { "lm_head.weight" });
        let gamma = model.values("model.norm.weight");
        let sum = |row: &[f32]| {
            row.iter().zip(&gamma).map(|(weight, gamma)| f64::from(*weight) * f64::from(*gamma)).sum::<f64>() as f32
        };
        let aux: Vec<f32> = matrix.chunks(spec.width).flat_map(|row| [sum(row), 0.0]).collect();
        assert_eq!(floats(&piece, gemv.aux), aux, "{name}");
    }
}

#[test]
fn half_precision_sources_keep_their_bits() {
    let model = Model::of("mistral");
    let layout = BlockLayout::new(&model.spec(), WeightFormat::F16, 0).down;
    let piece = packed(&model, Piece::Block(0), WeightFormat::F16);
    let tensor = layout.matrix.data;
    let bytes = &piece.as_slice()[tensor.offset as usize..][..tensor.bytes as usize];
    let rows = bytes.chunks(2 * layout.matrix.stride);
    let found: Vec<u16> =
        rows.flat_map(|row| row[..2 * layout.matrix.cols].as_chunks().0).map(|b| u16::from_le_bytes(*b)).collect();
    let stored = model.values("model.layers.0.mlp.down_proj.weight");
    assert_eq!(found, stored.into_iter().map(|value| f16::from_f32(value).to_bits()).collect::<Vec<_>>());
}
