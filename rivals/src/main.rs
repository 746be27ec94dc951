//! What else decodes a small language model on a CPU, beside syn1 over the same weights, in one run.
//!
//! `cargo xtask rivals` in the repository builds everything and runs this. It writes a Llama of a public model's shape with
//! random f16 weights as a Hugging Face folder, which syn1 packs and [candle](https://crates.io/crates/candle-core) loads, and
//! as GGUF files, which candle and llama.cpp (bundled by [llama-cpp-2](https://crates.io/crates/llama-cpp-2)) load. Then
//! everyone decodes in turns: a prompt of 16 tokens, and greedy tokens behind it, of which only the latter are timed.
//!
//! Rivals are built for this machine's own processor (`.cargo/config.toml`). Everyone takes all of its cores, or as many as
//! `RAYON_NUM_THREADS` says; syn1 is a process of its own for each run. Measure with nothing else running: candle's and
//! llama.cpp's threads wait for each other by spinning, so they lose most where one of them is not let run. What "int8" and "int4" mean differs a little, and so do the bytes that a token
//! reads: see [`Form`].
//!
//! Standard output is one JSON list with an entry for each arm, in the form that `torch_decode.py` beside this describes,
//! with `of_syn1` (this arm's pace over syn1's, the median over the rounds), `share_of_limit` (syn1's own measure of reading
//! as many bytes), and for exact weights `same_ids` and `largest_logit_difference` (what `syn1 bench golden` says of the
//! arm's answers). Standard error is the same as a table.
#![forbid(unsafe_code)]

mod candle;
mod entry;
mod form;
mod gguf;
mod greedy;
mod llama_cpp;
mod shape;
mod syn1;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use llama_cpp_2::llama_backend::LlamaBackend;

use crate::candle::{Plain, Quantized};
use crate::entry::{Entry, median};
use crate::form::Form;
use crate::greedy::{Decoded, Rival, decode};
use crate::llama_cpp::LlamaCpp;
use crate::shape::{Shape, Size};
use crate::syn1::Syn1;

/// Measures candle, llama.cpp and syn1 on this machine's CPU; prints JSON, and a table to standard error.
#[derive(Parser)]
struct Options {
    /// The program syn1, a release build
    #[arg(long, value_name = "PATH")]
    syn1: PathBuf,
    /// The model's shape
    #[arg(long, value_enum, default_value_t = Size::Llama135m)]
    shape: Size,
    /// Weights to measure with, one after the other
    #[arg(long, value_enum, value_name = "FORM,FORM,..", value_delimiter = ',', default_values_t = Form::ALL)]
    weights: Vec<Form>,
    /// Tokens per run
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(64..=1024))]
    tokens: u16,
    /// Rounds in which each arm has one run; medians are printed
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let shape = options.shape.shape();
    // Goes with all weights however this ends.
    let folder = tempfile::tempdir().context("cannot make a folder for random weights")?;
    let model = folder.path().join("model");
    eprintln!("writing {} with random weights", shape.name);
    shape.write(&model)?;
    let mut backend = LlamaBackend::init().context("llama.cpp does not start")?;
    backend.void_logs();
    entry::print_head();
    let mut entries = Vec::new();
    for &form in &options.weights {
        let measured = measure(&options, &shape, form, &model, folder.path(), &backend)?;
        measured.iter().for_each(Entry::print);
        entries.extend(measured);
    }
    println!("{}", serde_json::to_string_pretty(&entries)?);
    Ok(())
}

/// Everyone over weights of one form, in turns.
fn measure(
    options: &Options,
    shape: &Shape,
    form: Form,
    model: &Path,
    scratch: &Path,
    backend: &LlamaBackend,
) -> Result<Vec<Entry>> {
    // candle has no other setting than its environment.
    let (tokens, threads) = (usize::from(options.tokens), candle_core::utils::get_num_threads());
    let prompt: Vec<u32> = (0..PROMPT).map(|id| (id * 37 + 11) % shape.vocab as u32).collect();
    let syn1 = Syn1::split(&options.syn1, model, form, &scratch.join(form.name()))?;
    let gguf = scratch.join(format!("{}.gguf", form.name()));
    gguf::write(shape, form, model, &gguf)?;
    let loaded = llama_cpp::load(backend, &gguf)?;

    let mut rivals: Vec<(String, Box<dyn Rival + '_>)> = Vec::new();
    let candle = format!("candle {}", version_of("candle-core"));
    if form.is_exact() {
        rivals.push((candle, Box::new(Plain::load(shape, form, model)?)));
    } else {
        rivals.push((format!("{candle}, {}", form.gguf_name()), Box::new(Quantized::load(&gguf)?)));
    }
    let llama_cpp = format!("llama.cpp (llama-cpp-2 {}), {}", version_of("llama-cpp-2"), form.gguf_name());
    rivals.push((llama_cpp, Box::new(LlamaCpp::new(&loaded, backend, prompt.len() + tokens + 1, threads)?)));

    let mut decoded: Vec<Vec<Decoded>> = rivals.iter().map(|_| Vec::new()).collect();
    let mut reports = Vec::new();
    for round in 0..=options.runs {
        // The first round warms up.
        for ((_, rival), decoded) in rivals.iter_mut().zip(&mut decoded) {
            let run = decode(rival.as_mut(), &prompt, tokens)?;
            if round > 0 {
                decoded.push(run);
            }
        }
        let report = syn1.decode(prompt.len(), tokens, threads)?;
        if round > 0 {
            reports.push(report);
        }
    }

    let work = format!("{}-{}", shape.name, form.name());
    let device = reports.first().context("no runs")?.device.clone();
    let ours: Vec<f64> = reports.iter().map(|report| report.tokens_per_second).collect();
    let mut entry = Entry::new(&work, "syn1", &ours, &device);
    entry.read_gb_per_second = median(reports.iter().map(|report| report.read_bytes_per_second / 1e9));
    entry.share_of_limit = Some(median(reports.iter().map(|report| report.share_of_limit)));
    let mut entries = vec![entry];
    for ((name, _), decoded) in rivals.iter().zip(&decoded) {
        let paces: Vec<f64> = decoded.iter().map(|run| tokens as f64 / run.seconds).collect();
        let mut entry = Entry::new(&work, name, &paces, &device);
        entry.read_gb_per_second = median(paces.iter().map(|pace| pace * shape.bytes_per_token(form) / 1e9));
        entry.of_syn1 = Some(median(paces.iter().zip(&ours).map(|(pace, ours)| pace / ours)));
        if let (true, Some(run)) = (form.is_exact(), decoded.first()) {
            entry.compared = Some(syn1.compare(&prompt, run, scratch)?);
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// The version of a dependency that this was built with.
fn version_of(package: &str) -> &'static str {
    let named = format!("name = \"{package}\"\nversion = \"");
    let behind = include_str!("../Cargo.lock").split_once(&named).map_or("", |(_, behind)| behind);
    behind.split('"').next().unwrap_or_default()
}

const PROMPT: u32 = 16;
