//! `syn1 chat`: a conversation, line by line, with a model on this machine.

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::{Context, Result};
use syn1_coordinator::request::Generate;
use syn1_coordinator::server::today;
use syn1_model::chat::{ChatError, Message};
use syn1_model::tokenizer::Tokenizer;

use crate::answer;
use crate::interrupt::blocking;
use crate::local::Local;
use crate::model;
use crate::options::{ModelOptions, TextOptions};
use crate::show;
use crate::swarm;

/// Options of `syn1 chat`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  syn1 chat --model path/to/chat-model
  syn1 chat --model path/to/chat-model --system \"You are a patient teacher.\" --nodes 2
  printf 'Hello\\nAnd now?\\n' | syn1 chat --model path/to/chat-model

Each line is a message. /reset forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C ends it at once. Answers go to
standard output, everything else to standard error.")]
pub(crate) struct Args {
    /// What the model is told in front of the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    model: ModelOptions,
    /// Nodes to split the model over, all on this machine
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    nodes: u16,
    #[command(flatten)]
    how: TextOptions,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let prepared = Arc::new(model::prepare(&args.model).await?);
    swarm::check_nodes(&prepared, args.nodes.into())?;
    let tokenizer = prepared.tokenizer.clone();
    let tokenizer =
        tokenizer.with_context(|| format!("{} has no tokenizer.json, so nothing can be said to it", prepared.name))?;
    check_template(&tokenizer)?;
    // What is wrong with the sampling is told now rather than after the first message.
    swarm::check_ask(&prepared, &ask(&args, vec![0]))?;
    let local = Local::ready(&prepared, args.nodes, &args.how, true).await?;

    let is_terminal = std::io::stdin().is_terminal();
    let mut messages = begin(args.system.clone());
    while let Some(line) = read_line(is_terminal).await? {
        match line.trim() {
            "" => continue,
            "/quit" => break,
            "/reset" => {
                messages = begin(args.system.clone());
                show::say("forgotten: the conversation begins anew");
                continue;
            }
            _ => messages.push(Message::new("user", line)),
        }
        match say(&local, &tokenizer, &args, &messages).await {
            Ok(answer) => messages.push(Message::new("assistant", answer)),
            // Somebody at a terminal can do something about it; a pipe's other lines would be answers to nothing.
            Err(error) if is_terminal && !error.is::<show::OutputError>() => {
                messages.pop();
                show::say(&format!("error: {error}; /reset begins anew"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the model is made for chats, known before anything is loaded.
pub(crate) fn check_template(tokenizer: &Tokenizer) -> Result<(), ChatError> {
    tokenizer.chat_template().map(drop).ok_or(ChatError::NoTemplate)
}

/// A conversation that has not begun.
pub(crate) fn begin(system: Option<String>) -> Vec<Message> {
    system.map(|text| Message::new("system", text)).into_iter().collect()
}

/// The next line without its end; `None` after the last.
async fn read_line(is_terminal: bool) -> Result<Option<String>> {
    if is_terminal {
        show::ask("> ");
    }
    blocking(move || {
        let mut line = String::new();
        let bytes = std::io::stdin().read_line(&mut line).context("cannot read the message from standard input")?;
        if bytes == 0 && is_terminal {
            // Ctrl-D leaves the cursor behind the sign.
            show::say("");
        }
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        Ok((bytes > 0).then_some(line))
    })
    .await
}

/// Prints the answer to the last message as it comes, and gives it.
async fn say(local: &Local, tokenizer: &Tokenizer, args: &Args, messages: &[Message]) -> Result<String> {
    let (tokenizer, messages) = (tokenizer.clone(), messages.to_vec());
    let prompt = blocking(move || Ok(tokenizer.encode_chat(&messages, today())?)).await?;
    let updates = local.generate(ask(args, prompt))?;
    let answer = answer::stream(updates, true, true).await;
    show::out("\n")?;
    Ok(answer?.text)
}

fn ask(args: &Args, prompt: Vec<u32>) -> Generate {
    Generate {
        prompt,
        max_tokens: args.how.max_tokens as usize,
        sampling: args.how.sampling.sampling(),
        stop: Vec::new(),
        ignore_eos: false,
        speculate: args.how.speculate.into(),
    }
}
