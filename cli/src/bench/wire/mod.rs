//! `syn1 bench wire`: what each form costs at each boundary and what it does to the model's answers.

mod report;

use anyhow::{Context, Result, bail};
use syn1_core::{Codec, Form, Header};
use syn1_model::folder::ModelFolder;

use self::report::{BoundaryReport, ChainReport, Report, SizeReport};
use super::agreement::Quality;
use super::block_on;
use super::chain::{Chain, Window};
use super::coding::Coding;
use super::text::TextOptions;
use crate::interrupt::blocking;
use crate::model::{self, Prepared};
use crate::options::ModelOptions;
use crate::progress::CountBar;
use crate::show;
use crate::wire::{Boundary, Gate, Measured};

/// Options of `syn1 bench wire`.
#[derive(clap::Args)]
#[command(after_help = "\
Every position of a text is fed with the right tokens before it (teacher forcing): once with exact activations, once
with each form at one boundary and all others exact, and once with each form at every boundary between nodes.
Agreement: the most likely next token is the same. KL: how far the distribution is from the exact one, in nats per
token. A form passes the gate at a boundary if it keeps 99.5 % agreement and a mean KL of at most 0.0001 there; of
those that pass, the one with the fewest bytes is picked (delta and compressed only where they save 2 %), and
`--wire auto` uses it once it is saved.")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    text: TextOptions,
    /// Nodes to split over, each count in turn [default: 2 and one per layer]
    #[arg(long, value_name = "N,N,..", value_delimiter = ',')]
    nodes: Vec<usize>,
    /// Write what was picked to wire.json in the model's folder, where `--wire auto` finds it
    #[arg(long)]
    save: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let prepared = model::prepare(&args.model).await?;
    let (json, save) = (args.json, args.save);
    let folder = prepared.folder.clone();
    let report = blocking(move || measure(&args, &prepared)).await?;
    if let (true, Some(folder)) = (save, folder) {
        report.picked.save(&folder)?;
        show::say(&format!("picked forms are written to {}", folder.join(Measured::FILE).display()));
    }
    if json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&report.table())?)
}

/// Everything that is printed. Blocks for as long as it takes.
fn measure(args: &Args, prepared: &Prepared) -> Result<Report> {
    let folder = ModelFolder::open(&prepared.shards)?;
    let ids = args.text.ids(&prepared.name, prepared.tokenizer.as_ref(), prepared.folder.as_deref())?;
    let layers = prepared.spec.layers;
    if layers < 2 {
        bail!("{} has {layers} layer: there is no boundary to cross", prepared.name);
    }
    let counts = if args.nodes.is_empty() { vec![2, layers] } else { args.nodes.clone() };
    if let Some(wrong) = counts.iter().find(|nodes| !(2..=layers).contains(nodes)) {
        bail!("{wrong} nodes: a model of {layers} layers has a boundary with 2 to {layers} nodes");
    }
    let mut chain = Chain::new(&folder, prepared.format)?;
    let windows: Vec<&[u32]> = ids.chunks(chain.window).collect();
    let forms = Form::ALL.len();
    let bar = CountBar::new("passes", windows.len() * ((layers - 1) * forms + counts.len() * (forms + 1)));
    let windows = windows.into_iter().map(|ids| block_on(chain.exact(ids))).collect::<Result<Vec<_>>>()?;

    let mut boundaries = Vec::new();
    for layer in 1..layers {
        for form in Form::ALL {
            boundaries.push(boundary(&mut chain, &windows, layer, form, &bar)?);
        }
    }
    let picked = pick(&prepared.manifest.sha256().to_string(), layers, ids.len(), &boundaries);
    let wire = picked.wire()?;
    let mut chains = Vec::new();
    for &nodes in &counts {
        let crossings: Vec<usize> = (1..nodes).map(|node| node * layers / nodes).collect();
        for form in Form::ALL {
            let (bits, quality) = whole(&mut chain, &windows, &crossings, |_| form, &bar)?;
            chains.push(ChainReport::new(nodes, form.to_string(), bits, &quality));
        }
        let (bits, quality) = whole(&mut chain, &windows, &crossings, |layer| wire.before(layer), &bar)?;
        chains.push(ChainReport::new(nodes, "auto".into(), bits, &quality));
    }
    drop(bar);
    Ok(Report {
        model: prepared.name.clone(),
        positions: ids.len(),
        header_bytes: Header::LEN,
        sizes: sizes(prepared.spec.width as u16)?,
        boundaries,
        chains,
        picked,
    })
}

/// One form at the boundary before `layer`, every other boundary exact.
fn boundary(chain: &mut Chain, windows: &[Window], layer: usize, form: Form, bar: &CountBar) -> Result<BoundaryReport> {
    let mut coding = Coding::new(form, chain.width);
    let mut quality = Quality::default();
    for window in windows {
        let back = coding.through(window.before(layer))?;
        let logits = block_on(chain.from(layer, back))?;
        quality.compare(window.vocab, &window.logits, &logits);
        bar.step();
    }
    Ok(BoundaryReport::new(layer, form, coding.figures(), &quality))
}

/// `form` at each of `crossings`; bits per element of all of them, and the quality.
fn whole(
    chain: &mut Chain,
    windows: &[Window],
    crossings: &[usize],
    form: impl Fn(usize) -> Form,
    bar: &CountBar,
) -> Result<(f64, Quality)> {
    let mut codings: Vec<(usize, Coding)> =
        crossings.iter().map(|&layer| (layer, Coding::new(form(layer), chain.width))).collect();
    let mut quality = Quality::default();
    for window in windows {
        let mut rows: Option<Vec<f32>> = None;
        for index in 0..codings.len() {
            let next = codings.get(index + 1).map(|next| next.0);
            let (layer, coding) = &mut codings[index];
            let back = coding.through(rows.as_deref().unwrap_or_else(|| window.before(*layer)))?;
            rows = Some(match next {
                Some(next) => block_on(chain.between(*layer, next, back))?,
                None => block_on(chain.from(*layer, back))?,
            });
        }
        quality.compare(window.vocab, &window.logits, &rows.unwrap_or_default());
        bar.step();
    }
    let bits = codings.iter().map(|(_, coding)| coding.figures().bits_per_element).sum::<f64>();
    Ok((bits / codings.len() as f64, quality))
}

/// For every boundary the form of the fewest bytes among those that keep to the gate, which f32 always does. Forms stand
/// in the order of their cost, and one that costs more must be worth it.
fn pick(manifest_sha256: &str, layers: usize, positions: usize, reports: &[BoundaryReport]) -> Measured {
    let boundaries = (1..layers).filter_map(|layer| {
        let passing = reports.iter().filter(|report| report.layer == layer).filter(|report| report.passes(&GATE));
        let fewer =
            |next: &BoundaryReport, best: &BoundaryReport| next.bits_per_element < WORTH * best.bits_per_element;
        let best = passing.reduce(|best, next| if fewer(next, best) { next } else { best });
        best.map(|best| Boundary {
            before_layer: layer,
            wire: best.form.clone(),
            bits_per_element: best.bits_per_element,
            agreement: best.agreement,
            mean_kl: best.mean_kl,
        })
    });
    Measured::new(manifest_sha256.into(), layers, positions, GATE, boundaries.collect())
}

/// What one row takes whatever is in it, for the model's width and for the one that public figures are about.
fn sizes(width: u16) -> Result<Vec<SizeReport>> {
    let widths = if width == GPT2_WIDTH { vec![width] } else { vec![width, GPT2_WIDTH] };
    let plain = [Codec::F32, Codec::F16, Codec::Q8, Codec::Q4].map(Form::plain);
    let sizes = widths.into_iter().flat_map(|width| plain.map(|form| (width, form)));
    let sizes = sizes.map(|(width, form)| {
        let payload_bytes = form.max_len(1, width).context("a row that does not fit a frame")?;
        Ok(SizeReport { width, form: form.to_string(), payload_bytes })
    });
    sizes.collect()
}

/// The quality that a form must keep at one boundary. The divergence of several boundaries adds up: with eight nodes it
/// stays below a thousandth of a nat per token, which no text shows.
const GATE: Gate = Gate { agreement: 0.995, mean_kl: 1e-4 };

/// A form with more work for both ends must save at least 2 % of the bytes.
const WORTH: f64 = 0.98;

/// Width of GPT-2 124M, the row that public figures are about.
const GPT2_WIDTH: u16 = 768;
