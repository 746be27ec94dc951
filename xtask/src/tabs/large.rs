//! A piece larger than what a tab takes into WebAssembly's memory at a time: it goes to the GPU in parts.

use std::fs::{self, File};
use std::io::Write;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{fetched, ready, tab};
use crate::browser::Browser;
use crate::root;
use crate::swarm::Coordinator;

/// Served from the network and from what the browser kept, WebAssembly never has as much memory as the piece has bytes.
pub(super) fn check(browser: &Browser) -> Result<()> {
    let folder = model()?;
    let path = folder.path().to_str().context("the folder's name is no text")?;
    let coordinator = Coordinator::of(path, &["--nodes", "1"])?;
    let page = tab(&coordinator, browser, "tab", "gpu")?;
    for visit in ["the first visit", "the second"] {
        let ready = ready(&page)?;
        let came = fetched(&ready);
        ensure!((came > PIECE) == (visit == "the first visit"), "at {visit} came {came} bytes");
        let most = ready["wasm_bytes"].as_u64().context("no wasm_bytes")?;
        ensure!(most < PIECE / 2, "at {visit} a piece of {PIECE} bytes took {most} of WebAssembly's memory");
        coordinator.wait_ready(&page)?;
        println!("{visit}: a piece of {PIECE} bytes, {most} bytes of WebAssembly's memory at most");
        page.reload()?;
        super::begin(&page, &json!({ "name": "tab", "device": "gpu" }))?;
    }
    page.close()
}

/// A GPT-2 whose embedding is most of it, all zeros; the file has holes, so it takes no room. Most of its words
/// are never written.
fn model() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let bundled = root()?.join("models/tiny-rust-docs");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&fs::read(bundled.join("tokenizer.json"))?)?;
    let words = tokenizer["model"]["vocab"].as_object_mut().context("the bundled tokenizer has no vocabulary")?;
    (words.len() as u64..VOCAB).for_each(|id| drop(words.insert(format!("word {id}"), id.into())));
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string())?;
    let config = json!({
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new", "n_embd": WIDTH,
        "n_head": 4, "n_layer": 1, "n_positions": 64, "vocab_size": VOCAB, "layer_norm_epsilon": 1e-5,
        "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": true,
    });
    fs::write(folder.path().join("config.json"), config.to_string())?;
    let w = WIDTH;
    let mut tensors = vec![("wte.weight".to_owned(), vec![VOCAB, w]), ("wpe.weight".to_owned(), vec![64, w])];
    let block = [
        ("ln_1.weight", vec![w]),
        ("ln_1.bias", vec![w]),
        ("attn.c_attn.weight", vec![w, 3 * w]),
        ("attn.c_attn.bias", vec![3 * w]),
        ("attn.c_proj.weight", vec![w, w]),
        ("attn.c_proj.bias", vec![w]),
        ("ln_2.weight", vec![w]),
        ("ln_2.bias", vec![w]),
        ("mlp.c_fc.weight", vec![w, 4 * w]),
        ("mlp.c_fc.bias", vec![4 * w]),
        ("mlp.c_proj.weight", vec![4 * w, w]),
        ("mlp.c_proj.bias", vec![w]),
    ];
    tensors.extend(block.map(|(name, shape)| (format!("h.0.{name}"), shape)));
    tensors.extend(["ln_f.weight", "ln_f.bias"].map(|name| (name.to_owned(), vec![w])));
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let begin = end;
        end += 2 * shape.iter().product::<u64>();
        header.insert(
            format!("transformer.{name}"),
            json!({ "dtype": "F16", "shape": shape, "data_offsets": [begin, end] }),
        );
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = File::create(folder.path().join("model.safetensors"))?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.set_len(8 + header.len() as u64 + end)?;
    Ok(folder)
}

const WIDTH: u64 = 256;
const VOCAB: u64 = 200_000;
/// Bytes of the embedding.
const PIECE: u64 = 2 * VOCAB * WIDTH;
