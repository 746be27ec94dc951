//! `syn1 generate`: a model in this process, one prompt, the text as it streams.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use syn1_coordinator::request::Generate;
use syn1_coordinator::server::today;
use syn1_model::chat::Message;

use crate::answer::{self, Question};
use crate::chat;
use crate::interrupt::blocking;
use crate::local::Local;
use crate::model::{self, Prepared};
use crate::options::{ModelOptions, TextOptions};
use crate::swarm;

/// Options of `syn1 generate`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  syn1 generate \"How do I use a HashMap?\" --nodes 2 --temperature 0
  syn1 generate --ids 1,2,3 --model path/to/model --json
  echo \"# Ownership\" | syn1 generate --max-tokens 200

With one node the device runs the token loop itself and draws the tokens. A coordinator does for several nodes, where
--min-p or --repetition-penalty is asked for, and where the weights must shrink to fit. Greedy text is the same in
both; a drawn text is the same for a seed as long as the same one of them draws it.

The prompt and its continuation go to standard output, everything else to standard error.")]
pub(crate) struct Args {
    /// Text to continue [default: standard input]
    prompt: Option<String>,
    /// Token ids to continue, in place of text (for models without a tokenizer)
    #[arg(long, value_name = "ID,ID,..", value_delimiter = ',', conflicts_with = "prompt")]
    ids: Vec<u32>,
    /// The prompt is a user's message, to be answered by the model's chat template
    #[arg(long, conflicts_with = "ids")]
    chat: bool,
    /// What the model is told in front of the message
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
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
    let prepared = Arc::new(model::prepare(&args.model).await?);
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
    let local = Local::ready(&prepared, args.nodes, &args.how, false).await?;
    let updates = local.generate(ask.clone())?;
    answer::print(local.by(), updates, &prepared, Question { ask, text, json: args.json }).await
}

/// The prompt as ids, and what of its text is printed in front of the answer, where there is a tokenizer.
async fn prompt(args: &Args, prepared: &Prepared) -> Result<(Vec<u32>, Option<String>)> {
    let Some(tokenizer) = prepared.tokenizer.clone() else {
        if args.chat {
            bail!("{} has no tokenizer.json, so nothing can be said to it: give --ids 1,2,3", prepared.name);
        }
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
    let (given, system) = (args.prompt.clone(), args.system.clone());
    if args.chat {
        chat::check_template(&tokenizer)?;
    }
    let is_chat = args.chat;
    blocking(move || {
        let text = match given {
            Some(text) => text,
            None => std::io::read_to_string(std::io::stdin()).context("cannot read the prompt from standard input")?,
        };
        if is_chat {
            let messages: Vec<_> = chat::begin(system).into_iter().chain([Message::new("user", text)]).collect();
            return Ok((tokenizer.encode_chat(&messages, today())?, Some(String::new())));
        }
        Ok((tokenizer.encode(&text)?, Some(text)))
    })
    .await
}
