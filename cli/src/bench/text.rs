//! The text that qualities are measured on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use syn1_model::tokenizer::Tokenizer;

/// Which text, and how much of it.
#[derive(clap::Args)]
pub(super) struct TextOptions {
    /// The text [default: eval.txt in the model's folder]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Positions to compare
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(2..))]
    positions: u32,
}

impl TextOptions {
    /// The ids of the text, as many as there are positions. `model` is its name, `folder` where it lies.
    pub(super) fn ids(&self, model: &str, tokenizer: Option<&Tokenizer>, folder: Option<&Path>) -> Result<Vec<u32>> {
        let tokenizer = tokenizer.with_context(|| format!("{model} has no tokenizer.json to read a text with"))?;
        let path = match &self.text {
            Some(path) => path.clone(),
            None => folder.context("the model lies in no folder: name a text with --text")?.join("eval.txt"),
        };
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read the text {}: name one with --text", path.display()))?;
        let mut ids = tokenizer.encode(&text)?;
        let positions = self.positions as usize;
        if ids.len() < positions {
            bail!("{} has {} tokens, {positions} are asked for: see --positions", path.display(), ids.len());
        }
        ids.truncate(positions);
        Ok(ids)
    }
}
