//! Tables and plots of `syn1 bench fusion`.

use std::collections::BTreeSet;

use anyhow::Result;

use super::plot::{Line, lines, number};
use super::raw::{Fusion, FusionShape, Raw, Report};

/// A section for every raw file, with a plot for every number of layers.
pub(super) fn render(raw: &[Raw], text: &mut String, files: &mut Vec<(String, String)>) -> Result<()> {
    for raw in raw {
        let Report::Fusion(report) = &raw.report else { continue };
        *text += &format!(
            "## Fused kernels: {}\n\n`{}`, {}, subgroups {}, {}.\n\nA run is 64 tokens. GB/s are bytes of weights that the \
             tokens need, a second; caches supply most of them for small widths. Times are medians, with the fastest and \
             the slowest run. Error: the largest difference from an f64 forward pass, relative to its largest value.\n\n",
            raw.machine,
            raw.command,
            report.device,
            if report.subgroups { "used" } else { "not used" },
            raw.date,
        );
        let layers: BTreeSet<usize> = report.shapes.iter().map(|shape| shape.shape.layers).collect();
        for &layers in &layers {
            let name = format!("{}-{layers}.svg", raw.stem);
            let what = format!("{layers} layer{}", if layers == 1 { "" } else { "s" });
            files
                .push((name.clone(), plot(report, layers, &format!("{}: {what}, f32, tokens a second", raw.machine))?));
            *text += &format!("![Tokens a second over the width, {what}]({name})\n\n");
        }
        for shape in &report.shapes {
            *text += &table(shape);
        }
    }
    Ok(())
}

fn plot(report: &Fusion, layers: usize, title: &str) -> Result<String> {
    let shapes: Vec<&FusionShape> = report.shapes.iter().filter(|shape| shape.shape.layers == layers).collect();
    let widths = || shapes.iter().map(|shape| shape.shape.width);
    let (first, last) = (widths().min().unwrap_or(1), widths().max().unwrap_or(1));
    // A place for every doubling, measured or not.
    let labels: Vec<String> = (first.ilog2()..=last.ilog2()).map(|log| (1_usize << log).to_string()).collect();
    let place = |shape: &FusionShape| (shape.shape.width.ilog2() - first.ilog2()) as usize;
    let mut all: Vec<Line> = Vec::new();
    for (at, arm) in shapes.iter().flat_map(|shape| shape.arms.iter().map(move |arm| (place(shape), arm))) {
        if !all.iter().any(|line| line.name == arm.name) {
            all.push(Line { name: arm.name.clone(), points: Vec::new() });
        }
        if let (Some(line), Some(figures)) = (all.iter_mut().find(|line| line.name == arm.name), &arm.figures) {
            line.points.push((at, figures.tokens_per_second));
        }
    }
    lines(title, "width", "tokens a second", &labels, &all)
}

fn table(shape: &FusionShape) -> String {
    let mut text = format!(
        "### Width {}, {} layer{}, {} heads, {:.2} MB of weights\n\n| arm | ms (min, max) | tok/s | GB/s | of each op \
         submitted | of the public baseline | dispatches | submits | runs | error |\n| --- | --- | --- | --- | --- | --- | \
         --- | --- | --- | --- |\n",
        shape.shape.width,
        shape.shape.layers,
        if shape.shape.layers == 1 { "" } else { "s" },
        shape.shape.heads,
        shape.weight_bytes as f64 / 1e6,
    );
    for arm in &shape.arms {
        let Some(figures) = &arm.figures else {
            let why = arm.left_out.as_deref().unwrap_or("not measured").lines().next().unwrap_or_default();
            text += &format!("| {} | left out: {why} | | | | | | | | |\n", arm.name);
            continue;
        };
        let ratio = |ratio: Option<f64>| ratio.map_or_else(String::new, |ratio| format!("{ratio:.1}x"));
        text += &format!(
            "| {}{} | {:.3} ({:.3}, {:.3}) | {} | {:.1} | {} | {} | {} | {} | {} | {:.1e} |\n",
            arm.name,
            figures.sizes.as_ref().map_or_else(String::new, |sizes| format!(" ({sizes})")),
            figures.median_ms,
            figures.min_ms,
            figures.max_ms,
            number(figures.tokens_per_second),
            figures.weight_bytes_per_second / 1e9,
            ratio(figures.of_per_op),
            ratio(figures.of_recompute),
            figures.dispatches,
            figures.submits,
            figures.runs,
            figures.max_error,
        );
    }
    text + "\n"
}
