//! `syn1 bench quality`: what each weight format and each wire codec does to the model's answers.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::Serialize;
use syn1_coordinator::placement::size;
use syn1_core::{Codec, Form};
use syn1_model::folder::ModelFolder;
use syn1_model::plan::{Plan, WeightFormat};

use super::agreement::{Perplexity, Quality};
use super::block_on;
use super::chain::Chain;
use super::coding::Coding;
use super::text::TextOptions;
use crate::calibrate::CalibrateWith;
use crate::interrupt::blocking;
use crate::model;
use crate::progress::CountBar;
use crate::show;

/// Options of `syn1 bench quality`.
#[derive(clap::Args)]
#[command(after_help = "\
Every position of a text is fed with the right tokens before it, in windows of 256, with the weights in each format and
the activations in each codec at the boundary between two nodes (f32: exact). The first line, f32 weights and exact
activations, is what the others are compared with. Perplexity: of the text's own next tokens. Same next: the most likely
next token is the same. int4 is calibrated as syn1 split does it; the line \"nearest\" is int4 with every weight rounded
to the nearest. KL: how far the distribution is from the exact one, in nats per token. Everything is computed on
the CPU, whose results do not depend on the machine's number of cores.")]
pub(crate) struct Args {
    /// A Hugging Face folder [default: the bundled tiny-rust-docs]
    #[arg(long, value_name = "DIR", env = "SYN1_MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    text: TextOptions,
    /// What int4 is calibrated with, as for syn1 split; none leaves the line out
    #[arg(long, value_name = "TEXT", default_value = "auto")]
    calibrate: CalibrateWith,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything that is printed.
#[derive(Serialize)]
struct Report {
    model: String,
    positions: usize,
    /// Positions of a window.
    window: usize,
    lines: Vec<Line>,
}

/// One weight format ("nearest": int4 without calibration) with one wire codec.
#[derive(Serialize)]
struct Line {
    weights: &'static str,
    weight_bytes: u64,
    wire: String,
    perplexity: f64,
    agreement: f64,
    mean_kl: f64,
    worst_kl: f64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let json = args.json;
    let report = blocking(move || measure(&args)).await?;
    if json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&report.table())?)
}

/// Blocks for as long as it takes.
fn measure(args: &Args) -> Result<Report> {
    let dir = model::find(args.model.as_deref())?;
    let folder = ModelFolder::open(&dir)?;
    if let Some(manifest) = folder.manifest() {
        let (dir, have) = (dir.display(), manifest.format);
        bail!("{dir} holds only {have} weights: name the Hugging Face folder that it was split from");
    }
    let ids = args.text.ids(folder.name(), folder.tokenizer(), Some(&dir))?;
    let mut weights: Vec<_> = WeightFormat::ALL.map(|format| (format, format.name(), None)).into();
    if let (Some(choice), Some(source)) = (args.calibrate.choose(&folder, WeightFormat::Int4)?, folder.source()) {
        // What a split makes, in front of what it would be without.
        let nearest = weights.len() - 1;
        weights[nearest].1 = "nearest";
        weights.insert(nearest, (WeightFormat::Int4, "int4", Some((choice, source))));
    }
    let mut bar = None;
    let (mut exact, mut lines, mut window) = (Vec::new(), Vec::new(), 0);
    let count = weights.len();
    for (format, name, calibrated) in weights {
        let calibrator = calibrated.map(|(choice, source)| choice.calibrator(source)).transpose()?;
        let mut chain = Chain::with(&folder, format, calibrator)?;
        let windows: Vec<&[u32]> = ids.chunks(chain.window).collect();
        let bar = bar.get_or_insert_with(|| CountBar::new("passes", windows.len() * (1 + WIRE.len()) * count));
        window = chain.window;
        lines.extend(of_format(&folder, (format, name), &mut chain, &windows, &mut exact, bar)?);
    }
    Ok(Report { model: folder.name().to_owned(), positions: ids.len(), window, lines })
}

/// The lines of one weight format. `exact` holds the logits of every window; the first format leaves its own there.
fn of_format(
    folder: &ModelFolder,
    (format, name): (WeightFormat, &'static str),
    chain: &mut Chain,
    windows: &[&[u32]],
    exact: &mut Vec<Vec<f32>>,
    bar: &CountBar,
) -> Result<Vec<Line>> {
    let spec = folder.spec();
    let middle = spec.layers / 2;
    // With a single layer there is no boundary.
    let wire: &[Codec] = if middle == 0 { &[] } else { &WIRE };
    let mut codings: Vec<Coding> = wire.iter().map(|codec| Coding::new(Form::plain(*codec), chain.width)).collect();
    let mut sums: Vec<(Perplexity, Quality)> = (0..=wire.len()).map(|_| Default::default()).collect();
    for (index, ids) in windows.iter().enumerate() {
        let plain = block_on(chain.exact(ids))?;
        bar.step();
        if exact.len() == index {
            exact.push(plain.logits.clone());
        }
        let mut add = |line: usize, logits: &[f32]| {
            let (perplexity, quality) = &mut sums[line];
            perplexity.add(spec.vocab, ids, logits);
            quality.compare(spec.vocab, &exact[index], logits);
        };
        add(0, &plain.logits);
        for (line, coding) in codings.iter_mut().enumerate() {
            let back = coding.through(plain.before(middle))?;
            add(line + 1, &block_on(chain.from(middle, back))?);
            bar.step();
        }
    }
    let weight_bytes = Plan::new(spec, format, 0..spec.layers).weight_bytes();
    let names = std::iter::once(Codec::F32).chain(wire.iter().copied()).map(|codec| Form::plain(codec).to_string());
    let line = |(wire, (perplexity, quality)): (String, &(Perplexity, Quality))| Line {
        weights: name,
        weight_bytes,
        wire,
        perplexity: perplexity.value(),
        agreement: quality.agreement(),
        mean_kl: quality.mean_kl(),
        worst_kl: quality.worst_kl(),
    };
    Ok(names.zip(&sums).map(line).collect())
}

impl Report {
    fn table(&self) -> String {
        let mut text = format!(
            "{}: {} teacher-forced positions in windows of {}, two nodes, against f32 weights and exact activations\n",
            self.model, self.positions, self.window
        );
        text += "weights        size  wire  perplexity  same next   mean KL  worst KL\n";
        for line in &self.lines {
            text += &format!(
                "{:7} {:>11}  {:4} {:11.4} {:8.2} % {:9.1e} {:9.1e}\n",
                line.weights,
                size(line.weight_bytes),
                line.wire,
                line.perplexity,
                line.agreement * 100.0,
                line.mean_kl,
                line.worst_kl
            );
        }
        text
    }
}

/// How activations travel beside f32, which is exact.
const WIRE: [Codec; 3] = [Codec::F16, Codec::Q8, Codec::Q4];
