//! `syn1 generate`: a coordinator and nodes in this process, one prompt, the text as it streams.

use anyhow::{Context, Result, bail};
use syn1_coordinator::request::Generate;

use crate::answer::{self, Question};
use crate::context;
use crate::interrupt::blocking;
use crate::model::{self, Prepared};
use crate::options::{ModelOptions, TextOptions};
use crate::show;
use crate::swarm::{self, Swarm};

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
    how: TextOptions,
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

pub(crate) async fn run(args: Args) -> Result<()> {
    let prepared = model::prepare(&args.model).await?;
    swarm::check_nodes(&prepared, args.nodes.into())?;
    let (prompt, text) = prompt(&args, &prepared).await?;
    let ask = Generate {
        prompt,
        max_tokens: args.how.max_tokens as usize,
        sampling: args.how.sampling.sampling(),
        stop: args.stop,
        ignore_eos: args.ignore_eos,
        speculate: args.how.speculate.into(),
    };
    swarm::check_ask(&prepared, &ask)?;
    show::say(&context::cost(&prepared, 1, Some(args.nodes.into())));
    let (wire, why) = args.how.wire.wire.resolve(&prepared)?;
    if let (Some(why), 2..) = (why, args.nodes) {
        show::say(&format!("wire {wire}: {why}"));
    }
    let mut swarm = Swarm::start(&prepared, args.nodes.into(), &args.how.device, &wire)?;
    swarm.ready().await?;
    show::say(swarm.device());
    answer::print(swarm.server(), &prepared, Question { ask, text, wire, json: args.json }).await
}

/// The prompt as ids, and as text where there is a tokenizer.
async fn prompt(args: &Args, prepared: &Prepared) -> Result<(Vec<u32>, Option<String>)> {
    let Some(tokenizer) = prepared.tokenizer.clone() else {
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
    let given = args.prompt.clone();
    blocking(move || {
        let text = match given {
            Some(text) => text,
            None => std::io::read_to_string(std::io::stdin()).context("cannot read the prompt from standard input")?,
        };
        Ok((tokenizer.encode(&text)?, Some(text)))
    })
    .await
}
