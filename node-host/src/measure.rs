//! What a device can do with a model's layers, measured before it has any of their weights.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use syn1_kernels::engine::{EngineConfig, EngineError};
use syn1_kernels::measure::layer_ns;
use syn1_model::{Piece, Plan, Spec, WeightFormat, random_piece};
use tokio::sync::Mutex;

use crate::device::Device;

/// Measured speeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// Reading weights, bytes per second.
    pub read_bytes_per_s: u64,
    /// One layer for one token, nanoseconds.
    pub layer_ns: u64,
}

/// Why a device was not measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// The device failed or has no room for one layer.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Nobody waits for the figures any more.
    #[error("the measurement was cancelled")]
    Cancelled,
}

/// The speed of a device with layers of this shape. Blocks for about a second the first time; later ones on the same
/// device and shape get the same figures, so that several nodes in one process do not measure each other.
///
/// # Errors
/// When the device fails or has no room for one layer, and between two parts once `cancelled` is set.
pub async fn speed(
    device: &Device,
    spec: &Spec,
    format: WeightFormat,
    cancelled: &AtomicBool,
) -> Result<Speed, MeasureError> {
    let one_layer = Spec { layers: 1, ..spec.clone() };
    let key = (device.describe().to_owned(), format!("{one_layer:?} {format:?}"));
    // Held while measuring: two nodes that measure at once would each find half a machine.
    let mut known = KNOWN.lock().await;
    let known = known.get_or_insert_default();
    if let Some(speed) = known.get(&key) {
        return Ok(*speed);
    }
    let speed = measure(device, spec, format, cancelled).await?;
    known.insert(key, speed);
    Ok(speed)
}

async fn measure(
    device: &Device,
    spec: &Spec,
    format: WeightFormat,
    cancelled: &AtomicBool,
) -> Result<Speed, MeasureError> {
    let go_on = || if cancelled.load(Ordering::Relaxed) { Err(MeasureError::Cancelled) } else { Ok(()) };
    go_on()?;
    // A middle layer: it brings neither the embedding nor the head with it.
    let spec = Spec { layers: 3, ..spec.clone() };
    let plan = Plan::new(&spec, format, 1..2);
    let bytes = plan.weight_bytes();
    let read = device.read_bandwidth(bytes.saturating_mul(16).min(LARGEST_READ_BYTES))?.max(1);
    go_on()?;
    let layer_ns = if bytes > LARGEST_BLOCK_BYTES {
        // Making so many random weights takes longer than it is worth: a layer of this size is bound by its bytes.
        (bytes as f64 / read as f64 * 1e9) as u64
    } else {
        let piece = random_piece(&spec, format, Piece::Block(1), 1);
        go_on()?;
        let config = EngineConfig { max_positions: STEPS.min(spec.max_positions), slots: 1, max_rows: 1 };
        let mut engine = device.step_engine(plan, &[piece], config)?;
        go_on()?;
        layer_ns(&mut engine, STEPS.min(spec.max_positions)).await?
    };
    Ok(Speed { read_bytes_per_s: read, layer_ns })
}

type Known = HashMap<(String, String), Speed>;

/// Figures by device and shape.
static KNOWN: Mutex<Option<Known>> = Mutex::const_new(None);
/// Steps that are timed: enough for a median, and few enough for the smallest context.
const STEPS: usize = 64;
/// Weights of a large layer, several times over: beyond every cache, and quick to fill.
const LARGEST_READ_BYTES: u64 = 256 << 20;
/// A layer above this is not made of random numbers.
const LARGEST_BLOCK_BYTES: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceChoice;

    #[tokio::test]
    async fn a_device_is_measured_once_for_a_shape() {
        let device = Device::open(&DeviceChoice::Cpu, Some(1)).unwrap();
        let spec = Spec { width: 64, heads: 2, kv_heads: 2, head_dim: 32, ffn: 128, ..Spec::gpt2_124m() };
        let cancelled = AtomicBool::new(false);
        let first = speed(&device, &spec, WeightFormat::F16, &cancelled).await.unwrap();
        assert!(first.layer_ns > 0 && first.read_bytes_per_s > 1);
        let deeper = Spec { layers: 5, ..spec };
        assert_eq!(speed(&device, &deeper, WeightFormat::F16, &cancelled).await.unwrap(), first);
    }

    #[tokio::test]
    async fn a_cancelled_measurement_ends_and_leaves_no_figures() {
        let device = Device::open(&DeviceChoice::Cpu, Some(1)).unwrap();
        let spec = Spec { width: 32, heads: 2, kv_heads: 2, head_dim: 16, ffn: 96, ..Spec::gpt2_124m() };
        let cancelled = AtomicBool::new(true);
        let ended = speed(&device, &spec, WeightFormat::F16, &cancelled).await;
        assert!(matches!(ended, Err(MeasureError::Cancelled)));
        cancelled.store(false, Ordering::Relaxed);
        assert!(speed(&device, &spec, WeightFormat::F16, &cancelled).await.is_ok());
    }
}
