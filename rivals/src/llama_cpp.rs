//! llama.cpp, with its defaults: an f16 KV cache, weights repacked for the processor where it has kernels for that.

use std::num::NonZeroU32;
use std::path::Path;

use anyhow::{Context, Result};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;

use crate::greedy::Rival;

/// A model's context.
pub(crate) struct LlamaCpp<'a> {
    context: LlamaContext<'a>,
}

/// Loads a GGUF.
pub(crate) fn load(backend: &LlamaBackend, path: &Path) -> Result<LlamaModel> {
    let loaded = LlamaModel::load_from_file(backend, path, &LlamaModelParams::default());
    loaded.with_context(|| format!("llama.cpp cannot load {}", path.display()))
}

impl<'a> LlamaCpp<'a> {
    /// A context of so many positions, for so many threads.
    pub(crate) fn new(model: &'a LlamaModel, backend: &LlamaBackend, positions: usize, threads: usize) -> Result<Self> {
        let positions = u32::try_from(positions)?;
        let threads = i32::try_from(threads)?;
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(positions))
            .with_n_batch(positions)
            .with_n_threads(threads)
            .with_n_threads_batch(threads);
        Ok(Self { context: model.new_context(backend, params).context("llama.cpp cannot make a context")? })
    }
}

impl Rival for LlamaCpp<'_> {
    fn begin(&mut self) -> Result<()> {
        self.context.clear_kv_cache();
        Ok(())
    }

    fn forward(&mut self, ids: &[u32], position: usize) -> Result<Vec<f32>> {
        let mut batch = LlamaBatch::new(ids.len(), 1);
        for (at, &id) in ids.iter().enumerate() {
            let token = LlamaToken::new(i32::try_from(id)?);
            batch.add(token, i32::try_from(position + at)?, &[0], at + 1 == ids.len())?;
        }
        self.context.decode(&mut batch).context("llama.cpp cannot decode")?;
        Ok(self.context.get_logits_ith(i32::try_from(ids.len())? - 1).to_vec())
    }
}
