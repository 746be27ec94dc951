//! One answer: the text as it streams, then its figures.

use anyhow::{Result, bail};
use serde::Serialize;
use syn1_coordinator::request::Generate;
use syn1_coordinator::server::{Generation, Server};
use syn1_coordinator::update::{Figures, Finish, Finished, NodeView, Topology, Update};
use syn1_coordinator::wire::Wire;
use syn1_model::plan::WeightFormat;
use syn1_model::tokenizer::Tokenizer;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::model::Prepared;
use crate::show;

/// What is asked, and how the answer is printed.
pub(crate) struct Question {
    pub(crate) ask: Generate,
    /// The prompt as text; none without a tokenizer.
    pub(crate) text: Option<String>,
    /// One JSON object in place of text.
    pub(crate) json: bool,
}

/// Who answers.
#[derive(Clone, Copy)]
pub(crate) enum By<'a> {
    /// A coordinator, whose nodes' activations travel in this way.
    Coordinator(&'a Server, &'a Wire),
    /// The token loop of the device of this name.
    Device(&'a str),
}

/// The updates of one request. Dropping them ends it.
pub(crate) enum Updates {
    /// From a coordinator.
    Coordinator(Generation),
    /// From a device.
    Device(UnboundedReceiver<Update>),
}

/// A finished answer.
pub(crate) struct Answer {
    pub(crate) ids: Vec<u32>,
    pub(crate) text: String,
    pub(crate) end: Finished,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    weights: WeightFormat,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    /// Prompt and continuation, as they are printed without `--json`; null without a tokenizer.
    text: Option<String>,
    /// The continuation alone.
    completion: Option<&'a str>,
    finish: Finish,
    seed: u64,
    timings: Timings,
    /// Who chose the tokens: `coordinator` or `device`.
    by: &'static str,
    /// The device's name; null with a coordinator, whose nodes have their own.
    device: Option<&'a str>,
    /// Null where nothing travels.
    wire: Option<WireReport>,
    /// Those of a coordinator.
    nodes: Vec<NodeView>,
}

#[derive(Serialize)]
struct Timings {
    first_token_ms: f64,
    total_ms: f64,
    tokens_per_second: Option<f64>,
    compute_ms: Option<f64>,
    wire_ms: Option<f64>,
    coordinator_ms: f64,
    /// Tokens guessed ahead, and how many of them were right.
    guessed: usize,
    accepted: usize,
}

#[derive(Serialize)]
struct WireReport {
    form: String,
    frames: u64,
    bytes: u64,
    /// Bytes per position of the text, prompt included; those of wrong guesses count.
    bytes_per_token: f64,
}

/// Prints what `by` answers in `updates`: prompt, continuation and figures, or the report.
pub(crate) async fn print(by: By<'_>, updates: Updates, prepared: &Prepared, question: Question) -> Result<()> {
    let Question { ask, text, json } = question;
    let tokenizer = prepared.tokenizer.as_ref();
    if !json {
        show::out(text.as_deref().unwrap_or_default())?;
    }
    let streamed = stream(updates, !json, tokenizer.is_some()).await;
    if !json {
        show::out("\n")?;
    }
    let answer = streamed?;
    let wire = match by {
        By::Coordinator(_, wire) => Some(wire_report(wire, &answer, &ask, tokenizer)),
        By::Device(_) => None,
    };
    let (weights, nodes) = match by {
        By::Coordinator(server, _) => {
            let Topology { weights, nodes, .. } = server.topology();
            (weights, nodes.into_iter().filter(|node| node.layers.is_some()).collect())
        }
        By::Device(_) => (prepared.format, Vec::new()),
    };
    if !json {
        show::say(&figures_line(&answer.end.figures, wire.as_ref(), nodes.len(), &ask));
        return Ok(());
    }
    let (by, device) = match by {
        By::Coordinator(..) => ("coordinator", None),
        By::Device(device) => ("device", Some(device)),
    };
    let report = Report {
        model: &prepared.name,
        weights,
        prompt_ids: &ask.prompt,
        ids: &answer.ids,
        text: text.map(|text| text + &answer.text),
        completion: tokenizer.is_some().then_some(&answer.text),
        finish: answer.end.reason,
        seed: ask.sampling.seed,
        timings: timings(&answer.end.figures),
        by,
        device,
        wire,
        nodes,
    };
    Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?)
}

impl From<Generation> for Updates {
    fn from(generation: Generation) -> Self {
        Self::Coordinator(generation)
    }
}

impl From<UnboundedReceiver<Update>> for Updates {
    fn from(updates: UnboundedReceiver<Update>) -> Self {
        Self::Device(updates)
    }
}

impl Updates {
    async fn next(&mut self) -> Option<Update> {
        match self {
            Self::Coordinator(generation) => generation.next().await,
            Self::Device(updates) => updates.recv().await,
        }
    }
}

/// Collects an answer; with `echo` it is printed as it comes (ids where there is no tokenizer).
pub(crate) async fn stream(updates: impl Into<Updates>, echo: bool, as_text: bool) -> Result<Answer> {
    let mut updates = updates.into();
    let (mut ids, mut answer) = (Vec::new(), String::new());
    let show = |fresh: &str| if echo { show::out(fresh) } else { Ok(()) };
    while let Some(update) = updates.next().await {
        match update {
            Update::Token { id, text, .. } => {
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
            Update::Again if echo => {
                bail!("a node computed garbage, and part of this text came of it: repeat the request")
            }
            Update::Again => (ids, answer) = (Vec::new(), String::new()),
            Update::Failed(why) => bail!(why),
        }
    }
    bail!("what answers ended before the answer did")
}

fn figures_line(figures: &Figures, wire: Option<&WireReport>, nodes: usize, ask: &Generate) -> String {
    let pace = figures.tokens_per_second().map_or_else(|| "-".into(), |pace| format!("{pace:.1}"));
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let sampling = &ask.sampling;
    let guesses = match figures.guessed {
        0 => String::new(),
        guessed => format!(", {} of {guessed} guesses right", figures.accepted),
    };
    let seed = if sampling.temperature > 0.0 { format!(", seed {}", sampling.seed) } else { String::new() };
    let (tokens, first) = (figures.tokens, ms(figures.first_token));
    let compute = ms(figures.compute.unwrap_or_default());
    let Some(wire) = wire else {
        let text = ms(figures.coordinator);
        return format!(
            "[{tokens} tokens, {pace} tok/s, first token {first:.1} ms, {compute:.1} ms compute + {text:.1} ms text{seed}]"
        );
    };
    format!(
        "[{tokens} tokens on {nodes} node{}, {pace} tok/s, first token {first:.1} ms, {:.0} bytes/token on the wire ({}), \
         {compute:.1} ms compute + {:.1} ms wire + {:.1} ms coordinator{guesses}{seed}]",
        if nodes == 1 { "" } else { "s" },
        wire.bytes_per_token,
        wire.form,
        ms(figures.wire().unwrap_or_default()),
        ms(figures.coordinator),
    )
}

fn wire_report(wire: &Wire, answer: &Answer, ask: &Generate, tokenizer: Option<&Tokenizer>) -> WireReport {
    let Figures { prompt_tokens, tokens, frames, bytes, .. } = answer.end.figures;
    // The last token is shown, not fed, unless the model was asked what follows it and said: the end.
    let all_fed = answer.end.reason == Finish::Stop && !ended_by_string(answer, ask, tokenizer);
    let positions = prompt_tokens + if all_fed { tokens } else { tokens.saturating_sub(1) };
    WireReport { form: wire.to_string(), frames, bytes, bytes_per_token: bytes as f64 / positions as f64 }
}

/// Whether a stop string is in the text that the tokens make, and so cut it off.
fn ended_by_string(answer: &Answer, ask: &Generate, tokenizer: Option<&Tokenizer>) -> bool {
    let text = tokenizer.and_then(|tokenizer| tokenizer.decode(&answer.ids).ok()).unwrap_or_default();
    ask.stop.iter().any(|stop| text.contains(stop))
}

fn timings(figures: &Figures) -> Timings {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    Timings {
        first_token_ms: ms(figures.first_token),
        total_ms: ms(figures.total),
        tokens_per_second: figures.tokens_per_second(),
        compute_ms: figures.compute.map(ms),
        wire_ms: figures.wire().map(ms),
        coordinator_ms: ms(figures.coordinator),
        guessed: figures.guessed,
        accepted: figures.accepted,
    }
}

#[cfg(test)]
mod tests {
    use syn1_core::{Codec, Form};

    use super::*;

    fn answer(tokens: usize, reason: Finish) -> Answer {
        let figures = Figures { prompt_tokens: 4, tokens, bytes: 1200, ..Figures::default() };
        Answer { ids: vec![1; tokens], text: String::new(), end: Finished { text: String::new(), reason, figures } }
    }

    #[test]
    fn the_last_token_counts_on_the_wire_only_where_the_model_answered_it_with_the_end() {
        let ask = Generate {
            prompt: vec![1; 4],
            max_tokens: 9,
            sampling: Default::default(),
            stop: vec![],
            ignore_eos: false,
            speculate: 0,
        };
        let bytes = |reason| {
            wire_report(&Wire::everywhere(Form::plain(Codec::F16)), &answer(3, reason), &ask, None).bytes_per_token
        };
        assert_eq!(bytes(Finish::Length), 200.0);
        assert!((bytes(Finish::Stop) - 1200.0 / 7.0).abs() < 1e-9);
    }
}
