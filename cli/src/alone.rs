//! The whole model on one device of this machine: the engine's own token loop, without coordinator and wire.

use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_coordinator::text::{self, Text};
use syn1_coordinator::update::{Figures, Finish, Finished, Update};
use syn1_kernels::engine::{Decode, Engine, EngineConfig, EngineError, Input, Step};
use syn1_kernels::sampling::Sampler;
use syn1_node_host::{AnyEngine, Device};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::bench::block_on;
use crate::model::Prepared;
use crate::options::DeviceOptions;

/// An engine on a thread of its own.
pub(crate) struct Alone {
    thread: Thread,
    device: Device,
}

/// The engine's thread; ended when this is dropped.
struct Thread {
    asks: Option<mpsc::Sender<Ask>>,
    ended: mpsc::Receiver<()>,
}

/// A request, and where its updates go.
type Ask = (Generate, UnboundedSender<Update>);

/// The device's sampler that draws as `sampling` says; none where that is more than the device's does.
pub(crate) fn sampler(sampling: &Sampling) -> Option<Sampler> {
    let &Sampling { temperature, top_k, top_p, seed, .. } = sampling;
    let sampler = match temperature {
        0.0 => Sampler::Greedy,
        _ => Sampler::Sampled { temperature, top_k, top_p, seed },
    };
    // Whatever else changes a choice, or tells of it, is the coordinator's.
    let plain =
        Sampling { temperature, top_k, top_p, seed, min_p: 0.0, repetition_penalty: 1.0, ..Sampling::default() };
    (*sampling == plain && sampler.check().is_ok()).then_some(sampler)
}

impl Alone {
    /// Opens the device and loads the model; what is to run `for_long` may measure first whether tokens are faster in one
    /// dispatch. `None` where there is no room for the weights as they are.
    pub(crate) async fn start(
        prepared: &Arc<Prepared>,
        options: &DeviceOptions,
        for_long: bool,
    ) -> Result<Option<Self>> {
        let (asks, asked) = mpsc::channel();
        let (ready, loaded) = oneshot::channel();
        let (over, ended) = mpsc::channel();
        let (prepared, options) = (prepared.clone(), options.clone());
        let work = move || {
            // Sent by its drop, whatever ends this thread.
            let _over = over;
            match engine(&prepared, &options, for_long) {
                Ok(Some((device, mut engine))) => {
                    let rows = device.prompt_rows();
                    let _ = ready.send(Ok(Some(device)));
                    while let Ok((ask, updates)) = asked.recv() {
                        answer(&mut engine, &prepared, &ask, rows, &updates);
                    }
                }
                // Nobody listens any more where the program is about to end.
                Ok(None) => drop(ready.send(Ok(None))),
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        std::thread::Builder::new()
            .name("syn1-engine".into())
            .spawn(work)
            .context("cannot start the engine's thread")?;
        let thread = Thread { asks: Some(asks), ended };
        let device = loaded.await.context("the engine's thread ended while it loaded the model")??;
        Ok(device.map(|device| Self { device, thread }))
    }

    /// What computes.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The updates of a request. Dropping them ends it.
    pub(crate) fn generate(&self, ask: Generate) -> UnboundedReceiver<Update> {
        let (sender, updates) = unbounded_channel();
        // A thread that is gone drops the sender, which whoever waits for updates is told.
        if let Some(asks) = &self.thread.asks {
            drop(asks.send((ask, sender)));
        }
        updates
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.asks.take());
        // A GPU driver that is at work when the program ends crashes in its own clean-up.
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}

/// The device and the engine; none where the device has no room.
fn engine(prepared: &Prepared, options: &DeviceOptions, for_long: bool) -> Result<Option<(Device, AnyEngine)>> {
    let device = options.open()?;
    let config = EngineConfig {
        max_positions: prepared.max_positions,
        slots: 1,
        max_rows: device.prompt_rows().min(prepared.max_positions),
    };
    let needed = prepared.bytes();
    if device.memory_bytes(needed)? < needed {
        return Ok(None);
    }
    let (plan, pieces) = prepared.whole()?;
    let make = if for_long { Device::loop_engine } else { Device::engine };
    let engine = make(&device, plan, &pieces, config)?;
    Ok(Some((device, engine)))
}

/// Answers a request, whose prompt goes through in steps of `rows` tokens; its last update says how it ended.
fn answer(engine: &mut AnyEngine, prepared: &Prepared, ask: &Generate, rows: usize, updates: &UnboundedSender<Update>) {
    let end = match engine.open() {
        Ok(slot) => {
            let end = block_on(generate(engine, Decode::greedy(slot, 0, 0, 0), prepared, ask, rows, updates));
            engine.close(slot);
            end
        }
        Err(error) => Err(error.to_string()),
    };
    match end {
        Ok(Some(end)) => drop(updates.send(Update::Finished(end))),
        Ok(None) => {}
        Err(why) => drop(updates.send(Update::Failed(why))),
    }
}

/// Feeds the prompt and runs the loop, `empty` but for its slot; nothing where nobody wants the rest.
async fn generate(
    engine: &mut AnyEngine,
    empty: Decode<'_>,
    prepared: &Prepared,
    ask: &Generate,
    rows: usize,
    updates: &UnboundedSender<Update>,
) -> Result<Option<Finished>, String> {
    let begun = Instant::now();
    let failed = |error: EngineError| error.to_string();
    let sampler = sampler(&ask.sampling).ok_or("the device's sampler has neither min-p nor a repetition penalty")?;
    let (&token, front) = ask.prompt.split_last().ok_or("the prompt is empty")?;
    for (index, part) in front.chunks(rows).enumerate() {
        if updates.is_closed() {
            return Ok(None);
        }
        let position = index * rows;
        let step = Step { slot: empty.slot, position, input: Input::Tokens(part), wanted: part.len() };
        engine.run(step, &mut Vec::new()).await.map_err(failed)?;
    }

    let tokenizer = prepared.tokenizer.as_ref();
    let ends = text::ends(&prepared.spec.eos, tokenizer);
    let mut text = Text::new(ask, &ends, prepared.max_positions, tokenizer);
    let stop = text.ends().to_vec();
    let mut figures = Figures { prompt_tokens: ask.prompt.len(), ..Figures::default() };
    let (mut position, mut end) = (front.len(), Ok(None));
    let sink = |id| {
        let came = Instant::now();
        position += 1;
        let (update, goes_on) = match text.push(id, position) {
            Ok(text::Next::More(update)) => (Some(update), true),
            Ok(text::Next::Last(update, held, reason)) => {
                end = Ok(Some((held, reason)));
                (update, false)
            }
            Err(why) => {
                end = Err(why);
                (None, false)
            }
        };
        let wanted = update.is_none_or(|update| updates.send(update).is_ok());
        stamp(&mut figures, begun, came);
        if wanted && goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let count = ask.max_tokens.min(prepared.max_positions - front.len());
    let decode = Decode { position: front.len(), token, count, stop: &stop, sampler, ..empty };
    engine.decode(decode, sink).await.map_err(failed)?;
    figures.tokens = text.tokens();
    figures.compute = Some(figures.total.saturating_sub(figures.coordinator));
    let end: Option<(String, Finish)> = end?;
    Ok(end.map(|(text, reason)| Finished { text, reason, figures }))
}

/// Takes in that a token `came`, and was dealt with until now.
fn stamp(figures: &mut Figures, begun: Instant, came: Instant) {
    figures.total = begun.elapsed();
    figures.coordinator += came.elapsed();
    if figures.first_token.is_zero() {
        figures.first_token = figures.total;
    }
    figures.decode = figures.total - figures.first_token;
}

/// How long the engine's thread may take to end what it is at.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_device_cannot_draw_is_left_to_the_coordinator() {
        let plain = Sampling { temperature: 0.8, top_k: 40, top_p: 0.9, seed: 7, ..Sampling::default() };
        let drawn = Sampler::Sampled { temperature: 0.8, top_k: 40, top_p: 0.9, seed: 7 };
        assert_eq!(sampler(&plain), Some(drawn));
        assert_eq!(sampler(&Sampling { temperature: 0.0, ..plain.clone() }), Some(Sampler::Greedy));
        for other in [
            Sampling { min_p: 0.1, ..plain.clone() },
            Sampling { repetition_penalty: 1.1, ..plain.clone() },
            Sampling { presence_penalty: 0.1, ..plain.clone() },
            Sampling { logprobs: Some(0), ..plain.clone() },
            Sampling { temperature: 1e-4, ..plain },
        ] {
            assert_eq!(sampler(&other), None, "{other:?}");
        }
    }
}
