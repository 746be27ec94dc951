//! `syn1 bench wire`: what each codec costs and what it does to the model's answers.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use syn1_core::{Codec, Header, codec, encoded_len};
use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Engine, EngineConfig, Input, Slot, Step};
use syn1_model::manifest::load_piece;
use syn1_model::plan::Plan;

use super::{block_on, median};
use crate::interrupt::blocking;
use crate::model::{self, Prepared};
use crate::options::ModelOptions;
use crate::show;

/// Options of `syn1 bench wire`.
#[derive(clap::Args)]
#[command(after_help = "\
Every position of a text is fed with the right tokens before it (teacher forcing), once with exact activations and
once with each codec at every boundary between nodes. Agreement: the most likely next token is the same. KL: how far
the codec's distribution is from the exact one, in nats per token.")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelOptions,
    /// The text [default: eval.txt in the model's folder]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Positions to compare
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    positions: u32,
    /// Nodes to split over, each count in turn [default: 2 and one per layer]
    #[arg(long, value_name = "N,N,..", value_delimiter = ',')]
    nodes: Vec<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    positions: usize,
    header_bytes: usize,
    rows: Vec<RowReport>,
    quality: Vec<QualityReport>,
}

#[derive(Serialize)]
struct RowReport {
    width: u16,
    codec: &'static str,
    payload_bytes: u32,
    bits_per_element: f64,
    encode_ns: f64,
    decode_ns: f64,
}

#[derive(Serialize)]
struct QualityReport {
    nodes: usize,
    codec: &'static str,
    agreement: f64,
    mean_kl: f64,
    worst_kl: f64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let prepared = model::prepare(&args.model).await?;
    let json = args.json;
    let report = blocking(move || measure(&args, &prepared)).await?;
    if json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&table(&report))?)
}

/// Everything that is printed. Blocks for as long as it takes.
fn measure(args: &Args, prepared: &Prepared) -> Result<Report> {
    let ids = text(args, prepared)?;
    let layers = prepared.spec.layers;
    let counts = if args.nodes.is_empty() { vec![2, layers] } else { args.nodes.clone() };
    if let Some(wrong) = counts.iter().find(|nodes| !(2..=layers).contains(nodes)) {
        bail!("{wrong} nodes: a model of {layers} layers has a boundary with 2 to {layers} nodes");
    }
    let mut chain = Chain::new(prepared)?;
    let (quality, activations) = compare(&mut chain, &ids, &counts)?;
    let mut widths = vec![prepared.spec.width as u16];
    if prepared.spec.width != GPT2_WIDTH {
        widths.push(GPT2_WIDTH as u16);
    }
    let rows = widths.iter().flat_map(|width| CODECS.map(|codec| row(codec, *width, &activations)));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    Ok(Report { model: prepared.name.clone(), positions: ids.len(), header_bytes: Header::LEN, rows, quality })
}

/// The model as one engine per layer, so that a codec can sit at any boundary.
struct Chain {
    engines: Vec<(CpuEngine, Slot)>,
    width: usize,
    vocab: usize,
    window: usize,
}

impl Chain {
    fn new(prepared: &Prepared) -> Result<Self> {
        let window = prepared.max_positions.min(WINDOW);
        let config = EngineConfig { max_positions: window, slots: 1, max_rows: window };
        let mut engines = Vec::new();
        for layer in 0..prepared.spec.layers {
            let plan = Plan::new(&prepared.spec, prepared.format, layer..layer + 1);
            let pieces = plan.pieces.iter().map(|piece| {
                let listed = prepared.manifest.find(*piece).context("the manifest lacks a piece of the model")?;
                Ok(load_piece(&prepared.shards, listed)?)
            });
            let pieces = pieces.collect::<Result<Vec<_>>>()?;
            let mut engine = CpuEngine::new(plan, &pieces, config, None)?;
            let slot = engine.open()?;
            engines.push((engine, slot));
        }
        Ok(Self { engines, width: prepared.spec.width, vocab: prepared.spec.vocab, window })
    }

    /// Logits of every position of `ids`, with `codec` at the boundaries between `nodes` nodes. `seen` gets the
    /// activations that crossed.
    async fn logits(&mut self, ids: &[u32], wire: Option<(Codec, usize)>, seen: &mut Vec<f32>) -> Result<Vec<f32>> {
        let layers = self.engines.len();
        let mut rows = Vec::new();
        for layer in 0..layers {
            let (engine, slot) = &mut self.engines[layer];
            let input = if layer == 0 { Input::Tokens(ids) } else { Input::Rows(&rows) };
            let mut out = Vec::new();
            engine.run(Step { slot: *slot, position: 0, input, wanted: 0 }, &mut out).await?;
            rows = out;
            let crosses = |nodes: usize| (1..nodes).any(|node| node * layers / nodes == layer + 1);
            if let Some((codec, nodes)) = wire
                && crosses(nodes)
            {
                seen.extend_from_slice(&rows);
                rows = through(codec, &rows, self.width)?;
            }
        }
        Ok(rows)
    }
}

/// Quality of every codec for every node count, and the activations that crossed boundaries.
fn compare(chain: &mut Chain, ids: &[u32], counts: &[usize]) -> Result<(Vec<QualityReport>, Vec<f32>)> {
    let arms: Vec<(usize, Codec)> = counts.iter().flat_map(|&nodes| CODECS.map(|codec| (nodes, codec))).collect();
    let mut divergences: Vec<Vec<f64>> = vec![Vec::new(); arms.len()];
    let mut same = vec![0usize; arms.len()];
    let mut activations = Vec::new();
    let vocab = chain.vocab;
    for window in ids.chunks(chain.window) {
        let exact = block_on(chain.logits(window, None, &mut Vec::new()))?;
        for (arm, &(nodes, codec)) in arms.iter().enumerate() {
            activations.clear();
            let coded = block_on(chain.logits(window, Some((codec, nodes)), &mut activations))?;
            for (exact, coded) in exact.chunks_exact(vocab).zip(coded.chunks_exact(vocab)) {
                same[arm] += usize::from(best(exact) == best(coded));
                divergences[arm].push(divergence(exact, coded));
            }
        }
    }
    let reports = arms.iter().zip(divergences).zip(same).map(|((&(nodes, codec), kl), same)| QualityReport {
        nodes,
        codec: codec.name(),
        agreement: same as f64 / kl.len() as f64,
        mean_kl: kl.iter().sum::<f64>() / kl.len() as f64,
        worst_kl: kl.iter().copied().fold(0.0, f64::max),
    });
    Ok((reports.collect(), activations))
}

/// `rows` as they come out at the other end.
fn through(wanted: Codec, rows: &[f32], width: usize) -> Result<Vec<f32>> {
    let chosen = codec::choose(wanted, rows)?;
    let (count, cols) = (rows.len() / width, width as u16);
    let len = encoded_len(chosen, count as u16, cols).context("the activations do not fit a frame")?;
    let mut payload = vec![0; len as usize];
    codec::encode(chosen, rows, cols, &mut payload)?;
    let mut back = vec![0.0; rows.len()];
    codec::decode(chosen, &payload, count as u16, cols, &mut back)?;
    Ok(back)
}

/// Size and speed of one row of `width` elements, cut from real activations.
fn row(codec: Codec, width: u16, activations: &[f32]) -> Result<RowReport> {
    let mut values: Vec<f32> = activations.iter().copied().take(width.into()).collect();
    values.resize(width.into(), 0.0);
    let payload_bytes = encoded_len(codec, 1, width).context("a row that does not fit a frame")?;
    let mut payload = vec![0; payload_bytes as usize];
    let mut back = vec![0.0; values.len()];
    let (mut encodes, mut decodes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..REPEATS {
            codec::encode(codec, std::hint::black_box(&values), width, &mut payload)?;
        }
        let between = Instant::now();
        for _ in 0..REPEATS {
            codec::decode(codec, std::hint::black_box(&payload), 1, width, &mut back)?;
        }
        encodes.push((between - begun).as_nanos() as f64 / f64::from(REPEATS));
        decodes.push(between.elapsed().as_nanos() as f64 / f64::from(REPEATS));
    }
    Ok(RowReport {
        width,
        codec: codec.name(),
        payload_bytes,
        bits_per_element: f64::from(payload_bytes) * 8.0 / f64::from(width),
        encode_ns: median(encodes),
        decode_ns: median(decodes),
    })
}

fn text(args: &Args, prepared: &Prepared) -> Result<Vec<u32>> {
    let tokenizer = prepared.tokenizer.as_ref();
    let tokenizer =
        tokenizer.with_context(|| format!("{} has no tokenizer.json to read a text with", prepared.name))?;
    let path = match &args.text {
        Some(path) => path.clone(),
        None => model::find(args.model.model.as_deref())?.join("eval.txt"),
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the text {}: name one with --text", path.display()))?;
    let mut ids = tokenizer.encode(&text)?;
    let positions = args.positions as usize;
    if ids.len() < positions {
        bail!("{} has {} tokens, {positions} are asked for: see --positions", path.display(), ids.len());
    }
    ids.truncate(positions);
    Ok(ids)
}

/// Index of the largest logit, the lowest among equals.
fn best(logits: &[f32]) -> usize {
    let better = |best: usize, index: usize| if logits[index] > logits[best] { index } else { best };
    (1..logits.len()).fold(0, better)
}

/// Kullback-Leibler divergence of the softmax of `coded` from that of `exact`, in nats.
fn divergence(exact: &[f32], coded: &[f32]) -> f64 {
    let normaliser = |logits: &[f32]| {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - top).exp()).sum();
        f64::from(top) + sum.ln()
    };
    let (p, q) = (normaliser(exact), normaliser(coded));
    let terms = exact.iter().zip(coded).map(|(exact, coded)| {
        let (p, q) = (f64::from(*exact) - p, f64::from(*coded) - q);
        p.exp() * (p - q)
    });
    terms.sum::<f64>().max(0.0)
}

fn table(report: &Report) -> String {
    let mut text = format!("a frame's header: {} bytes; one row:\n", report.header_bytes);
    text += "width  codec   bytes   bits/element   encode ns   decode ns\n";
    for row in &report.rows {
        text += &format!(
            "{:5}  {:5} {:7} {:14.2} {:11.0} {:11.0}\n",
            row.width, row.codec, row.payload_bytes, row.bits_per_element, row.encode_ns, row.decode_ns
        );
    }
    text += &format!("\n{}: {} teacher-forced positions against exact activations\n", report.model, report.positions);
    text += "nodes  codec   same next token   mean KL (nats)   worst KL\n";
    for line in &report.quality {
        text += &format!(
            "{:5}  {:5} {:15.2} % {:16.2e} {:10.2e}\n",
            line.nodes,
            line.codec,
            line.agreement * 100.0,
            line.mean_kl,
            line.worst_kl
        );
    }
    text
}

const CODECS: [Codec; 4] = [Codec::F32, Codec::F16, Codec::Q8, Codec::Q4];

/// Width of GPT-2 124M, the row that public figures are about.
const GPT2_WIDTH: usize = 768;

/// Positions fed at once; every window begins without a past.
const WINDOW: usize = 256;

const ROUNDS: usize = 21;
const REPEATS: u32 = 200;
