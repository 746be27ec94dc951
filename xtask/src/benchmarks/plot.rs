//! Plots as SVG, readable on light and dark pages: no background, and colours of middle lightness.

use anyhow::{Result, anyhow};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A named line.
pub(super) struct Line {
    pub(super) name: String,
    /// Place on the axis below, and value.
    pub(super) points: Vec<(usize, f64)>,
}

/// Lines over places with labels; values on a logarithmic axis.
pub(super) fn lines(title: &str, below: &str, beside: &str, labels: &[String], lines: &[Line]) -> Result<String> {
    let mut svg = String::new();
    draw_lines(&mut svg, [title, below, beside], labels, lines).map_err(|error| anyhow!("{title}: {error}"))?;
    Ok(svg)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw_lines(svg: &mut String, [title, below, beside]: [&str; 3], labels: &[String], lines: &[Line]) -> Drawn {
    let values = || lines.iter().flat_map(|line| line.points.iter().map(|(_, value)| *value));
    let low = 10f64.powf(values().fold(f64::INFINITY, f64::min).log10().floor());
    let high = 10f64.powf(values().fold(0.0, f64::max).log10().ceil());
    if !(low > 0.0 && low < high && high.is_finite()) {
        return Err("there is no value above 0 to draw".into());
    }
    let root = SVGBackend::with_string(svg, (WIDTH, 460)).into_drawing_area();
    root.draw(&Text::new(title.to_owned(), (12, 12), text(17)))?;
    let (left, right) = root.margin(36, 0, 0, 0).split_horizontally(WIDTH as i32 - 270);
    let last = labels.len().saturating_sub(1) as f64;
    let mut chart = ChartBuilder::on(&left)
        .margin(8)
        .x_label_area_size(46)
        .y_label_area_size(74)
        .build_cartesian_2d(RangedCoordf64::from(-0.2..last + 0.2), (low..high).log_scale())?;
    let label = |at: &f64| {
        let near = at.round();
        if (at - near).abs() < 0.01 { labels.get(near as usize).cloned().unwrap_or_default() } else { String::new() }
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GREY.mix(0.35))
        .light_line_style(GREY.mix(0.12))
        .axis_style(GREY)
        .x_desc(below)
        .y_desc(beside)
        .x_labels(2 * labels.len() + 1)
        .x_label_formatter(&label)
        .y_label_formatter(&|value| number(*value))
        .label_style(text(13))
        .axis_desc_style(text(14))
        .draw()?;
    for (index, line) in lines.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let points: Vec<(f64, f64)> = line.points.iter().map(|&(at, value)| (at as f64, value)).collect();
        chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 4, color.filled())))?;
        let y = 24 + 24 * index as i32;
        right.draw(&PathElement::new([(8, y), (30, y)], color.stroke_width(2)))?;
        right.draw(&Circle::new((19, y), 4, color.filled()))?;
        right.draw(&Text::new(line.name.clone(), (38, y), text(13).pos(Pos::new(HPos::Left, VPos::Center))))?;
    }
    drop(chart);
    root.present()?;
    Ok(())
}

/// A named bar, and whether it is ours.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) ours: bool,
}

/// Bars in groups, each group with its own scale and, where known, the value that cannot be passed.
pub(super) struct Group {
    pub(super) title: String,
    pub(super) limit: Option<f64>,
    pub(super) bars: Vec<Bar>,
}

/// Groups of bars, one below the other.
pub(super) fn bars(title: &str, unit: &str, groups: &[Group]) -> Result<String> {
    let mut svg = String::new();
    draw_bars(&mut svg, title, unit, groups).map_err(|error| anyhow!("{title}: {error}"))?;
    Ok(svg)
}

fn draw_bars(svg: &mut String, title: &str, unit: &str, groups: &[Group]) -> Drawn {
    const ROW: i32 = 24;
    const LEFT: i32 = 290;
    const MOST: i32 = 420;
    let rows: usize = groups.iter().map(|group| group.bars.len() + 2).sum();
    let root = SVGBackend::with_string(svg, (WIDTH, 44 + rows as u32 * ROW as u32)).into_drawing_area();
    root.draw(&Text::new(title.to_owned(), (12, 12), text(17)))?;
    let mut y = 52;
    for group in groups {
        root.draw(&Text::new(group.title.clone(), (12, y), text(15).pos(Pos::new(HPos::Left, VPos::Center))))?;
        let most = group.bars.iter().map(|bar| bar.value).chain(group.limit).fold(0.0, f64::max);
        let scaled = |value: f64| LEFT + (value / most * f64::from(MOST)) as i32;
        let first = y + ROW / 2;
        for bar in &group.bars {
            y += ROW;
            let color = if bar.ours { OURS } else { THEIRS };
            root.draw(&Rectangle::new([(LEFT, y - 8), (scaled(bar.value), y + 8)], color.filled()))?;
            let name = text(13).pos(Pos::new(HPos::Right, VPos::Center));
            root.draw(&Text::new(bar.name.clone(), (LEFT - 8, y), name))?;
            let value = text(13).pos(Pos::new(HPos::Left, VPos::Center));
            root.draw(&Text::new(format!("{} {unit}", number(bar.value)), (scaled(bar.value) + 8, y), value))?;
        }
        if let Some(limit) = group.limit {
            let x = scaled(limit);
            root.draw(&PathElement::new([(x, first), (x, y + ROW / 2)], GREY.stroke_width(2)))?;
            let said = text(13).pos(Pos::new(HPos::Left, VPos::Center));
            root.draw(&Text::new(format!("limit {}", number(limit)), (x + 8, first), said))?;
        }
        y += 2 * ROW;
    }
    root.present()?;
    Ok(())
}

/// A number with separated thousands.
pub(super) fn number(value: f64) -> String {
    if value.abs() < 100.0 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && out != "-" {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&GREY)
}

const WIDTH: u32 = 860;

/// Contrast 4.5 with white and with black.
const GREY: RGBColor = RGBColor(118, 118, 118);

const OURS: RGBColor = RGBColor(32, 144, 96);

const THEIRS: RGBColor = RGBColor(140, 150, 170);

const COLORS: [RGBColor; 9] = [
    RGBColor(214, 84, 72),
    RGBColor(150, 120, 90),
    RGBColor(224, 138, 40),
    RGBColor(86, 150, 220),
    RGBColor(58, 116, 200),
    RGBColor(120, 96, 200),
    RGBColor(128, 134, 140),
    RGBColor(32, 144, 96),
    RGBColor(208, 80, 160),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_separated_thousands() {
        let shown = [0.0, 7.25, 100.0, 1234.4, 1e6].map(number);
        assert_eq!(shown, ["0", "7.2", "100", "1,234", "1,000,000"]);
    }

    #[test]
    fn a_plot_names_every_line_and_every_place() {
        let line = |name: &str| Line { name: name.into(), points: vec![(0, 10.0), (1, 2000.0)] };
        let svg = lines("title", "width", "tok/s", &["32".into(), "64".into()], &[line("one"), line("two")]).unwrap();
        for said in ["title", "width", "tok/s", "32", "64", "one", "two", "10,000"] {
            assert!(svg.contains(&format!("\n{said}\n")), "{said}: {svg}");
        }
        assert!(lines("title", "", "", &[], &[]).is_err());
    }

    #[test]
    fn a_bar_is_as_long_as_its_share_of_the_longest() {
        let bar = |name: &str, value| Bar { name: name.into(), value, ours: false };
        let group = Group { title: "work".into(), limit: Some(200.0), bars: vec![bar("a", 50.0), bar("b", 100.0)] };
        let svg = bars("title", "tok/s", &[group]).unwrap();
        let widths: Vec<&str> = svg.match_indices("<rect").map(|(at, _)| &svg[at..at + 90]).collect();
        assert!(widths[0].contains("width=\"105\"") && widths[1].contains("width=\"210\""), "{widths:?}");
    }
}
