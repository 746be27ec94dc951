//! `syn1 generate`: a coordinator and nodes in this process, one prompt, the text as it streams.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use syn1_coordinator::request::Generate;
use syn1_coordinator::server::Generation;
use syn1_coordinator::update::{Figures, Finish, Finished, NodeView, Update};

use crate::model::{self, Prepared};
use crate::options::{DeviceOptions, ModelOptions, SamplingOptions, Wire};
use crate::show;
use crate::swarm::Swarm;

/// Options of `syn1 generate`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  syn1 generate \"How do I use a HashMap?\" --nodes 2 --temperature 0
  syn1 generate --ids 1,2,3 --model path/to/model --json
  echo \"# Ownership\" | syn1 generate --max-tokens 200

The prompt and its continuation go to standard output, everything else to standard error.")]
pub(crate) struct Args {
    /// Text to continue [default: standard input]
    prompt: Option<String>,
    /// Token ids to continue, in place of text (for models without a tokenizer)
    #[arg(long, value_name = "ID,ID,..", value_delimiter = ',', conflicts_with = "prompt")]
    ids: Vec<u32>,
    #[command(flatten)]
    model: ModelOptions,
    /// Nodes to split the model over, all on this machine
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    nodes: u16,
    #[command(flatten)]
    device: DeviceOptions,
    /// How activations travel between nodes.
    #[arg(long, value_enum, default_value_t = Wire::F16)]
    wire: Wire,
    /// Tokens to generate at most
    #[arg(long, value_name = "M", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// Text that ends the answer (can be given several times)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on when the model says that the text ends
    #[arg(long)]
    ignore_eos: bool,
    /// Print one JSON object in place of text
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    /// Prompt and continuation, as they are printed without `--json`; null without a tokenizer.
    text: Option<String>,
    /// The continuation alone.
    completion: Option<&'a str>,
    finish: Finish,
    seed: u64,
    timings: Timings,
    wire: WireReport,
    nodes: Vec<NodeView>,
}

#[derive(Serialize)]
struct Timings {
    first_token_ms: f64,
    total_ms: f64,
    tokens_per_second: Option<f64>,
    compute_ms: f64,
    wire_ms: f64,
    coordinator_ms: f64,
}

#[derive(Serialize)]
pub(crate) struct WireReport {
    codec: &'static str,
    frames: u64,
    bytes: u64,
    /// Bytes per position that passed through the model, prompt included.
    bytes_per_token: f64,
}

/// A finished answer.
pub(crate) struct Answer {
    pub(crate) ids: Vec<u32>,
    pub(crate) text: String,
    pub(crate) end: Finished,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let prepared = model::prepare(&args.model).await?;
    let (prompt, text) = prompt(&args, &prepared)?;
    let sampling = args.sampling.sampling();
    let ask = Generate {
        prompt,
        max_tokens: args.max_tokens as usize,
        sampling,
        stop: args.stop.clone(),
        ignore_eos: args.ignore_eos,
    };
    let swarm = Swarm::start(&prepared, args.nodes.into(), &args.device, args.wire.codec())?;
    swarm.ready().await?;
    let generation = swarm.server().generate(ask.clone()).map_err(anyhow::Error::msg)?;
    let echo = !args.json;
    if echo {
        show::out(text.as_deref().unwrap_or_default())?;
    }
    let streamed = stream(generation, echo, prepared.tokenizer.is_some()).await;
    if echo {
        show::out("\n")?;
    }
    let answer = streamed?;
    let figures = answer.end.figures;
    let wire = wire_report(args.wire, &figures);
    if echo {
        eprintln!("{}", figures_line(&figures, &wire, args.nodes.into()));
        return Ok(());
    }
    let report = Report {
        model: &prepared.name,
        prompt_ids: &ask.prompt,
        ids: &answer.ids,
        text: text.map(|text| text + &answer.text),
        completion: prepared.tokenizer.is_some().then_some(&answer.text),
        finish: answer.end.reason,
        seed: sampling.seed,
        timings: timings(&figures),
        wire,
        nodes: swarm.server().topology().nodes,
    };
    show::out(&(serde_json::to_string(&report)? + "\n"))?;
    Ok(())
}

/// Collects an answer; with `echo` it is printed as it comes (ids where there is no tokenizer).
pub(crate) async fn stream(mut generation: Generation, echo: bool, as_text: bool) -> Result<Answer> {
    let (mut ids, mut answer) = (Vec::new(), String::new());
    let show = |fresh: &str| if echo { show::out(fresh) } else { Ok(()) };
    while let Some(update) = generation.next().await {
        match update {
            Update::Token { id, text } => {
                ids.push(id);
                if as_text {
                    show(&text)?;
                } else {
                    show(&if ids.len() == 1 { id.to_string() } else { format!(",{id}") })?;
                }
                answer.push_str(&text);
            }
            Update::Finished(end) => {
                show(&end.text)?;
                answer.push_str(&end.text);
                return Ok(Answer { ids, text: answer, end });
            }
            Update::Failed(why) => bail!(why),
        }
    }
    bail!("the coordinator ended before the answer did")
}

pub(crate) fn figures_line(figures: &Figures, wire: &WireReport, nodes: usize) -> String {
    let pace = figures.tokens_per_second().map_or_else(|| "-".into(), |pace| format!("{pace:.1}"));
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    format!(
        "[{} tokens on {nodes} node{}, {pace} tok/s, first token {:.1} ms, {:.0} bytes/token on the wire ({}), \
         {:.1} ms compute + {:.1} ms wire + {:.1} ms coordinator]",
        figures.tokens,
        if nodes == 1 { "" } else { "s" },
        ms(figures.first_token),
        wire.bytes_per_token,
        wire.codec,
        ms(figures.compute),
        ms(figures.wire()),
        ms(figures.coordinator),
    )
}

pub(crate) fn wire_report(wire: Wire, figures: &Figures) -> WireReport {
    // The last token is shown, not fed.
    let positions = figures.prompt_tokens + figures.tokens.saturating_sub(1);
    let bytes_per_token = figures.bytes as f64 / positions as f64;
    WireReport { codec: wire.codec().name(), frames: figures.frames, bytes: figures.bytes, bytes_per_token }
}

fn timings(figures: &Figures) -> Timings {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    Timings {
        first_token_ms: ms(figures.first_token),
        total_ms: ms(figures.total),
        tokens_per_second: figures.tokens_per_second(),
        compute_ms: ms(figures.compute),
        wire_ms: ms(figures.wire()),
        coordinator_ms: ms(figures.coordinator),
    }
}

/// The prompt as ids, and as text where there is a tokenizer.
fn prompt(args: &Args, prepared: &Prepared) -> Result<(Vec<u32>, Option<String>)> {
    let Some(tokenizer) = &prepared.tokenizer else {
        if args.ids.is_empty() {
            bail!("{} has no tokenizer.json: give the prompt as --ids 1,2,3", prepared.name);
        }
        return Ok((args.ids.clone(), None));
    };
    if !args.ids.is_empty() {
        let wrong = args.ids.iter().find(|id| **id as usize >= prepared.spec.vocab);
        if let Some(id) = wrong {
            bail!("token {id} is outside the vocabulary of {}", prepared.spec.vocab);
        }
        return Ok((args.ids.clone(), Some(tokenizer.decode(&args.ids)?)));
    }
    let text = match &args.prompt {
        Some(text) => text.clone(),
        None => std::io::read_to_string(std::io::stdin()).context("cannot read the prompt from standard input")?,
    };
    Ok((tokenizer.encode(&text)?, Some(text)))
}
