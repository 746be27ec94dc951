//! The fusion experiment on this tab's GPU: the arms and figures of `syn1 bench fusion`.

use serde_json::{Value, json};
use syn1_fusion::{Arm, Experiment, Gpu, Shape, TOLERANCE};
use web_time::Instant;

use crate::device::Device;
use crate::options::FusionOptions;

/// Runs it. `told` hears how far it has come.
///
/// # Errors
/// A sentence.
pub(crate) async fn run(options: FusionOptions, told: &dyn Fn(Value)) -> Result<Value, String> {
    let FusionOptions { widths, layers, runs, seconds, adapter, no_gpu } = options;
    if let Some(why) = no_gpu {
        return Err(format!("{why}: the experiment compares kernels of a GPU"));
    }
    let sizes = layers.iter().flat_map(|&layers| widths.iter().map(move |&width| (width, layers)));
    let shapes = sizes.map(|(width, layers)| Shape::new(width, layers)).collect::<Result<Vec<_>, _>>();
    let shapes = shapes.map_err(|error| error.to_string())?;
    if shapes.is_empty() || runs == 0 || !(0.0..=MOST_SECONDS).contains(&seconds) {
        return Err(format!("a width, a number of layers, a run and 0 to {MOST_SECONDS} s an arm are needed at least"));
    }
    let name = if adapter.is_empty() { "a GPU without a name".to_owned() } else { adapter };
    let open = Device::open(&name).await?;
    let gpu = Gpu::new(open.gpu().device(), open.gpu().queue());
    let experiment = Experiment { shapes, arms: Arm::ALL.to_vec(), runs, seconds_per_arm: seconds };
    let begun = Instant::now();
    let mut progress = |at: syn1_fusion::Progress| {
        let Shape { width, layers, .. } = at.shape;
        let text = format!("width {width}, {layers} layers: {}", at.arm.name());
        told(json!({ "done": at.done, "total": at.of, "text": text }));
    };
    let shapes = experiment.run(gpu, &|| begun.elapsed().as_secs_f64(), &mut progress).await;
    let shapes = shapes.map_err(|error| error.to_string())?;
    Ok(json!({
        "device": format!("{name} (WebGPU)"),
        "subgroups": gpu.has_subgroups(),
        "runs": runs,
        "tolerance": TOLERANCE,
        "shapes": shapes,
    }))
}

/// Seconds that nobody waits for an arm.
const MOST_SECONDS: f64 = 600.0;
