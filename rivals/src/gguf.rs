//! The same weights as a GGUF, written by candle.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};

use crate::form::Form;
use crate::shape::{EMBEDDING, EPS, HEAD_DIM, POSITIONS, Shape, WEIGHTS};

/// Converts the Hugging Face folder `model`.
pub(crate) fn write(shape: &Shape, form: Form, model: &Path, path: &Path) -> Result<()> {
    let weights = candle_core::safetensors::load(model.join(WEIGHTS), &Device::Cpu)?;
    let mut tensors = Vec::new();
    for (name, rows, _) in shape.tensors() {
        let tensor = weights.get(&name).with_context(|| format!("{} has no {name}", model.display()))?;
        let tensor = match name.rsplit('.').nth(1) {
            Some("q_proj") => neighbours(tensor, shape.heads)?,
            Some("k_proj") => neighbours(tensor, shape.kv_heads)?,
            _ => tensor.clone(),
        };
        let form = if name == EMBEDDING { form.of_head() } else { form };
        let stored = if rows == 1 { GgmlDType::F32 } else { ggml(form) };
        tensors.push((renamed(&name)?, QTensor::quantize(&tensor.to_dtype(DType::F32)?, stored)?));
    }
    let count = |value: usize| u32::try_from(value).map(Value::U32);
    let metadata = [
        ("general.architecture", Value::String("llama".into())),
        ("general.name", Value::String(shape.name.into())),
        ("llama.block_count", count(shape.layers)?),
        ("llama.context_length", count(POSITIONS)?),
        ("llama.embedding_length", count(shape.width)?),
        ("llama.feed_forward_length", count(shape.ffn)?),
        ("llama.attention.head_count", count(shape.heads)?),
        ("llama.attention.head_count_kv", count(shape.kv_heads)?),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(EPS)),
        ("llama.rope.dimension_count", count(HEAD_DIM)?),
        ("llama.rope.freq_base", Value::F32(shape.theta)),
        ("llama.vocab_size", count(shape.vocab)?),
        ("tokenizer.ggml.model", Value::String("none".into())),
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = BufWriter::new(File::create(path).with_context(|| format!("cannot make {}", path.display()))?);
    gguf_file::write(&mut file, &metadata, &tensors)?;
    file.into_inner().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// A GGUF's Llama rotates neighbours, a checkpoint's the elements that lie half a head apart.
fn neighbours(matrix: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, cols) = matrix.dims2()?;
    let halves = matrix.reshape((heads, 2, HEAD_DIM / 2, cols))?;
    Ok(halves.transpose(1, 2)?.contiguous()?.reshape((rows, cols))?)
}

/// GGUF's name of a checkpoint's tensor.
fn renamed(name: &str) -> Result<String> {
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let (of_block, name) = layer.map_or((String::new(), name), |(layer, rest)| (format!("blk.{layer}."), rest));
    let renamed = match name {
        EMBEDDING => "token_embd",
        "model.norm.weight" => "output_norm",
        "self_attn.q_proj.weight" => "attn_q",
        "self_attn.k_proj.weight" => "attn_k",
        "self_attn.v_proj.weight" => "attn_v",
        "self_attn.o_proj.weight" => "attn_output",
        "mlp.gate_proj.weight" => "ffn_gate",
        "mlp.up_proj.weight" => "ffn_up",
        "mlp.down_proj.weight" => "ffn_down",
        "input_layernorm.weight" => "attn_norm",
        "post_attention_layernorm.weight" => "ffn_norm",
        other => return Err(anyhow!("a GGUF's Llama has no name for {other}")),
    };
    Ok(format!("{of_block}{renamed}.weight"))
}

fn ggml(form: Form) -> GgmlDType {
    match form {
        Form::F32 => GgmlDType::F32,
        Form::F16 => GgmlDType::F16,
        Form::Int8 => GgmlDType::Q8_0,
        Form::Int4 => GgmlDType::Q4_0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Size;

    #[test]
    fn elements_that_lie_half_a_head_apart_become_neighbours() {
        let rows: Vec<f32> = (0..2 * HEAD_DIM).map(|row| row as f32).collect();
        let turned = neighbours(&Tensor::from_vec(rows, (2 * HEAD_DIM, 1), &Device::Cpu).unwrap(), 2).unwrap();
        let turned: Vec<f32> = turned.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(turned[..4], [0.0, 32.0, 1.0, 33.0]);
        assert_eq!(turned[HEAD_DIM..HEAD_DIM + 4], [64.0, 96.0, 65.0, 97.0]);
    }

    #[test]
    fn every_tensor_has_a_name_of_its_own() {
        let tensors = Size::Llama135m.shape().tensors();
        let names: std::collections::BTreeSet<String> =
            tensors.iter().map(|(name, ..)| renamed(name).unwrap()).collect();
        assert_eq!(names.len(), tensors.len());
        assert!(names.contains("blk.29.ffn_down.weight"));
        assert!(renamed("model.layers.0.self_attn.q_proj.bias").is_err());
    }
}
