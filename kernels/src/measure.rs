//! How fast an engine is.

use std::time::Duration;

use web_time::Instant;

use crate::engine::{Engine, EngineError, Input, Step};

/// Runs up to `steps` single rows through an engine, which warms it up, and gives nanoseconds per layer (the median).
///
/// # Errors
/// When a step fails.
pub async fn layer_ns<E: Engine>(engine: &mut E, steps: usize) -> Result<u64, EngineError> {
    let (layers, width) = (engine.plan().layers.len(), engine.plan().spec.width);
    let rows: Vec<f32> = (0..width).map(|i| (i % 7) as f32 - 3.0).collect();
    let input = if engine.plan().embeds() { Input::Tokens(&[0]) } else { Input::Rows(&rows) };
    let slot = engine.open()?;
    let (mut out, mut times) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    let mut result = Ok(());
    for position in 0..steps {
        let before = Instant::now();
        result = engine.run(Step { slot, position, input, wanted: 0 }, &mut out).await;
        times.push(before.elapsed());
        if result.is_err() || begin.elapsed() > LONGEST {
            break;
        }
    }
    engine.close(slot);
    result?;
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    Ok(u64::try_from(median.as_nanos()).unwrap_or(u64::MAX) / layers.max(1) as u64)
}

/// No more steps are begun after this.
const LONGEST: Duration = Duration::from_millis(300);
