//! What this tab's device can do with random weights: the figures of `syn1 bench decode`.

use std::ops::ControlFlow;

use serde_json::{Value, json};
use syn1_kernels::engine::{Decode, Engine, EngineConfig, EngineError, Input, Slot, Step};
use syn1_model::{Plan, random_piece};
use web_time::Instant;

use crate::device::{self, Device, TabEngine, Trouble};
use crate::options::BenchOptions;
use crate::timer::sleep;

/// Measures. `told` hears how far it has come.
///
/// # Errors
/// A sentence.
pub(crate) async fn run(options: BenchOptions, told: &dyn Fn(Value)) -> Result<Value, String> {
    let BenchOptions { shape, weights, tokens, prompt, runs, device, adapter, no_gpu, tiles } = options;
    let spec = shape.spec();
    if tokens < 2 || prompt == 0 || runs == 0 || prompt + tokens > spec.max_positions {
        return Err(format!(
            "a prompt of {prompt}, {tokens} tokens and {runs} runs: one, two and one at least, and {} positions at most",
            spec.max_positions
        ));
    }
    let device = Device::choose(device, &adapter, no_gpu.as_deref(), tiles, &|_| ()).await?.device;
    let plan = Plan::new(&spec, weights, 0..spec.layers);
    let total = plan.pieces.len() + runs + 1;
    let at = async |done: usize, text: &str| {
        told(json!({ "done": done, "total": total, "text": text }));
        // A page that asks something meanwhile is heard.
        sleep(0).await;
    };
    let said = |error: EngineError| error.to_string();
    let mut taker = device.taker(plan.clone()).await.map_err(said)?;
    for (index, &piece) in plan.pieces.iter().enumerate() {
        at(index, &format!("making random weights: {piece}")).await;
        taker.whole(piece, random_piece(&spec, weights, piece, SEED)).await.map_err(said)?;
    }
    let made = plan.pieces.len();
    let (weight_bytes, kv_bytes) =
        (plan.bytes_per_token(), plan.kv_bytes_per_position() * (prompt + tokens / 2) as u64);
    let config = EngineConfig { max_positions: prompt + tokens, slots: 1, max_rows: prompt };
    let mut engine = device::engine(taker, config, &Trouble::default()).await.map_err(said)?;
    let slot = engine.open().map_err(said)?;
    let ids: Vec<u32> = (0..prompt as u32).map(|id| (id * 37 + 11) % spec.vocab as u32).collect();
    let (mut firsts, mut paces, mut hops) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..=runs {
        at(made + run, if run == 0 { "warming up" } else { "measuring" }).await;
        let first = prefill(&mut engine, slot, &ids).await?;
        let pace = tokens as f64 / decode(&mut engine, slot, prompt, tokens).await?;
        let hop = hop(&mut engine, slot, prompt, tokens).await?;
        // The first run warms up.
        if run > 0 {
            firsts.push(first);
            paces.push(pace);
            hops.push(hop);
        }
    }
    drop(engine);
    at(total, "reading memory").await;
    let limit = device.read_bandwidth(weight_bytes).await? as f64;
    let (first, pace, hop) = (median(firsts), median(paces), median(hops));
    let read = pace * (weight_bytes + kv_bytes) as f64;
    Ok(json!({
        "model": shape.name(),
        "weights": weights.name(),
        "device": device.name(),
        "weight_bytes_per_token": weight_bytes,
        "kv_bytes_per_token": kv_bytes,
        "first_token_ms": first * 1e3,
        "prefill_tokens_per_second": prompt as f64 / first,
        "tokens_per_second": pace,
        "in_one_dispatch": false,
        "read_bytes_per_second": read,
        "limit_bytes_per_second": limit,
        "share_of_limit": read / limit,
        "hop_us": { "compute": 1e6 / pace, "above": (1e6 * hop - 1e6 / pace).max(0.0) },
    }))
}

/// Seconds until the prompt's last logits.
async fn prefill(engine: &mut TabEngine, slot: Slot, ids: &[u32]) -> Result<f64, String> {
    let begun = Instant::now();
    let step = Step { slot, position: 0, input: Input::Tokens(ids), wanted: ids.len() - 1 };
    engine.run(step, &mut Vec::new()).await.map_err(|error| error.to_string())?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds of the token loop.
async fn decode(engine: &mut TabEngine, slot: Slot, position: usize, tokens: usize) -> Result<f64, String> {
    let begun = Instant::now();
    let looped = engine.decode(Decode::greedy(slot, position, 1, tokens), |_| ControlFlow::Continue(())).await;
    looped.map_err(|error| error.to_string())?;
    Ok(begun.elapsed().as_secs_f64())
}

/// The median of the seconds from a row in to its logits out, as a node in a chain computes it.
async fn hop(engine: &mut TabEngine, slot: Slot, first: usize, tokens: usize) -> Result<f64, String> {
    let (mut out, mut times) = (Vec::new(), Vec::new());
    for position in first..first + tokens {
        let begun = Instant::now();
        let step = Step { slot, position, input: Input::Tokens(&[1]), wanted: 0 };
        engine.run(step, &mut out).await.map_err(|error| error.to_string())?;
        times.push(begun.elapsed().as_secs_f64());
    }
    Ok(median(times))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

const SEED: u64 = 1;
