//! `syn1 bench fusion`: what fusing kernels gains, every arm verified and named.

use std::time::Instant;

use anyhow::{Result, bail};
use serde::Serialize;
use syn1_fusion::{Arm, ArmReport, Experiment, Gpu, Shape, ShapeReport, TOKENS, TOLERANCE, WIDTHS};
use syn1_kernels::gpu::GpuDevice;

use super::block_on;
use crate::interrupt::blocking;
use crate::progress::CountBar;
use crate::show;

/// Options of `syn1 bench fusion`.
#[derive(clap::Args)]
#[command(after_help = "\
Toy transformers of the public single-kernel experiments: 64 tokens, f32, no embedding and no head, rows fed whatever
the model would say. Before an arm is timed, its rows are compared with a forward pass in f64 on the CPU.
GB/s: bytes of weights that the tokens need, a second. Caches supply most of them for small widths.")]
pub(crate) struct Args {
    /// Device: `auto`, `gpu`, or a number or part of a name that `syn1 doctor` lists
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
    /// Widths: 32, 64, 128, 256, 512
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', default_values_t = WIDTHS)]
    widths: Vec<usize>,
    /// Layers
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', default_values_t = [1, 4])]
    layers: Vec<usize>,
    /// Timed runs of an arm, after 3 to warm up; medians are printed
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Seconds after which an arm gets no further run
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// Kernels without subgroup operations, as in a browser
    #[arg(long)]
    no_subgroups: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    device: String,
    subgroups: bool,
    runs: u16,
    tolerance: f64,
    shapes: Vec<ShapeReport>,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let json = args.json;
    let report = blocking(move || measure(&args)).await?;
    if json {
        return Ok(show::out(&(serde_json::to_string(&report)? + "\n"))?);
    }
    Ok(show::out(&table(&report))?)
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if seconds.is_finite() && seconds >= 0.0 { Ok(seconds) } else { Err(format!("{text} is no length of time")) }
}

fn measure(args: &Args) -> Result<Report> {
    let device = GpuDevice::open(&args.device)?;
    let gpu = Gpu::new(device.device(), device.queue());
    let gpu = if args.no_subgroups { gpu.without_subgroups() } else { gpu };
    let sizes = args.layers.iter().flat_map(|&layers| args.widths.iter().map(move |&width| (width, layers)));
    let shapes = sizes.map(|(width, layers)| Shape::new(width, layers)).collect::<Result<Vec<_>, _>>()?;
    if shapes.is_empty() {
        bail!("no width or no number of layers is left to measure");
    }
    let bar = CountBar::new("arms", shapes.len() * Arm::ALL.len());
    let (runs, seconds_per_arm) = (args.runs.into(), args.seconds);
    let experiment = Experiment { shapes, arms: Arm::ALL.to_vec(), runs, seconds_per_arm };
    let begun = Instant::now();
    let clock = || begun.elapsed().as_secs_f64();
    let mut progress = |at: syn1_fusion::Progress| {
        if at.done > 0 {
            bar.step();
        }
    };
    let shapes = block_on(experiment.run(gpu, &clock, &mut progress))?;
    drop(bar);
    let subgroups = gpu.has_subgroups();
    Ok(Report { device: device.name().to_owned(), subgroups, runs: args.runs, tolerance: TOLERANCE, shapes })
}

fn table(report: &Report) -> String {
    let mut text = format!(
        "{}, subgroups {}\nmedians of up to {} runs of {TOKENS} tokens; rows within {:.0e} of an f64 forward pass\n",
        report.device,
        if report.subgroups { "used" } else { "not used" },
        report.runs,
        report.tolerance,
    );
    for report in &report.shapes {
        let shape = report.shape;
        text += &format!(
            "\nwidth {}, {} layer{}, {} heads: {:.2} MB of weights\n",
            shape.width,
            shape.layers,
            if shape.layers == 1 { "" } else { "s" },
            shape.heads,
            report.weight_bytes as f64 / 1e6,
        );
        text += "arm                                       ms     tok/s     GB/s   of each op   of baseline  dispatches  \
                 submits  runs    error\n";
        for arm in &report.arms {
            text += &line(arm);
        }
    }
    text
}

fn line(report: &ArmReport) -> String {
    let name = report.name;
    let Some(figures) = &report.figures else {
        return format!("{name:34} - {}\n", report.left_out.as_deref().unwrap_or("not measured"));
    };
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.1}x"));
    let sizes = figures.sizes.as_ref().map_or_else(String::new, |sizes| format!("  {sizes}"));
    format!(
        "{name:34} {:9.3} {:9.0} {:8.1} {:>12} {:>13} {:11} {:8} {:5}  {:.1e}{sizes}\n",
        figures.median_ms,
        figures.tokens_per_second,
        figures.weight_bytes_per_second / 1e9,
        ratio(figures.of_per_op),
        ratio(figures.of_recompute),
        figures.dispatches,
        figures.submits,
        figures.runs,
        figures.max_error,
    )
}
