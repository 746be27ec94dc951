//! candle: its Llama over plain tensors, and over quantized ones.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use candle_transformers::models::quantized_llama::ModelWeights;

use crate::form::Form;
use crate::greedy::Rival;
use crate::shape::{Shape, WEIGHTS};

/// Weights and arithmetic in one type.
pub(crate) struct Plain {
    model: Llama,
    config: Config,
    dtype: DType,
    cache: Cache,
}

impl Plain {
    /// Loads a Hugging Face folder.
    pub(crate) fn load(shape: &Shape, form: Form, folder: &Path) -> Result<Self> {
        let config: LlamaConfig = serde_json::from_value(shape.config()).context("candle cannot read the config")?;
        let config = config.into_config(false);
        let dtype = if form == Form::F32 { DType::F32 } else { DType::F16 };
        let weights = candle_core::safetensors::load(folder.join(WEIGHTS), &Device::Cpu)?;
        let model = Llama::load(VarBuilder::from_tensors(weights, dtype, &Device::Cpu), &config)?;
        let cache = Cache::new(true, dtype, &config, &Device::Cpu)?;
        Ok(Self { model, config, dtype, cache })
    }
}

impl Rival for Plain {
    fn begin(&mut self) -> Result<()> {
        self.cache = Cache::new(true, self.dtype, &self.config, &Device::Cpu)?;
        Ok(())
    }

    fn forward(&mut self, ids: &[u32], position: usize) -> Result<Vec<f32>> {
        let logits = self.model.forward(&row(ids)?, position, &mut self.cache)?;
        Ok(logits.squeeze(0)?.to_vec1()?)
    }
}

/// Quantized weights, f32 for everything else.
pub(crate) struct Quantized {
    model: ModelWeights,
}

impl Quantized {
    /// Loads a GGUF.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let content = Content::read(&mut file)?;
        Ok(Self { model: ModelWeights::from_gguf(content, &mut file, &Device::Cpu)? })
    }
}

impl Rival for Quantized {
    fn begin(&mut self) -> Result<()> {
        self.model.clear_kv_cache();
        Ok(())
    }

    fn forward(&mut self, ids: &[u32], position: usize) -> Result<Vec<f32>> {
        Ok(self.model.forward(&row(ids)?, position)?.squeeze(0)?.to_vec1()?)
    }
}

fn row(ids: &[u32]) -> Result<Tensor> {
    Ok(Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?)
}
