//! The plots: ratios beside their targets, distributions, and the parts of a stall.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::ranged1d::AsRangedCoord;
use plotters::prelude::*;

use super::number;
use crate::findings::{Parts, Run, Series};
use crate::targets::{Bound, Source, TARGETS};

const WIDTH: u32 = 900;
const HEIGHT: u32 = 480;
/// Height of a bar with its gap.
const ROW: u32 = 34;
/// Height of a plot's title, and of a row of its legend.
const HEAD: u32 = 46;
const LEGEND_ROW: u32 = 22;
const COLOURS: [RGBColor; 9] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(255, 127, 14),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(127, 127, 127),
    RGBColor(23, 190, 207),
    RGBColor(188, 189, 34),
];

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// Draws what the run has; gives the names of the files.
pub fn draw(run: &Run, dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let ratios = ratios(run);
    if !ratios.is_empty() {
        names.push("ratios.svg".to_string());
        let path = dir.join("ratios.svg");
        draw_ratios(&path, &ratios).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    }
    for (plot, series) in series(run) {
        names.push(format!("{plot}.svg"));
        let path = dir.join(format!("{plot}.svg"));
        draw_series(&path, plot, &series).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    }
    let parts: Vec<&Parts> = run.measurements.values().flat_map(|m| &m.findings.parts).collect();
    if !parts.is_empty() {
        names.push("parts.svg".to_string());
        let path = dir.join("parts.svg");
        draw_parts(&path, &parts).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    }
    Ok(names)
}

/// A ratio, its interval, and its target.
struct Ratio {
    what: String,
    median: f64,
    low: f64,
    high: f64,
    target: Option<Bound>,
}

fn ratios(run: &Run) -> Vec<Ratio> {
    let target = |wanted: &str| {
        let criteria = TARGETS.iter().flat_map(|target| target.criteria);
        criteria.into_iter().find_map(|c| match c.source {
            Source::Ratio(id) if id == wanted => Some(c.bound),
            _ => None,
        })
    };
    let comparisons = run.measurements.values().flat_map(|m| &m.findings.comparisons);
    comparisons
        .map(|c| Ratio {
            what: format!("{} / {}: {}", c.ours_name, c.theirs_name, c.what),
            median: c.ratio.median,
            low: c.ratio.low,
            high: c.ratio.high,
            target: target(&c.id),
        })
        .collect()
}

fn series(run: &Run) -> BTreeMap<&str, Vec<&Series>> {
    let mut plots: BTreeMap<&str, Vec<&Series>> = BTreeMap::new();
    for series in run.measurements.values().flat_map(|m| &m.findings.distributions) {
        plots.entry(&series.plot).or_default().push(series);
    }
    plots
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn draw_ratios(path: &Path, ratios: &[Ratio]) -> Outcome {
    let height = 90 + ROW * 2 * ratios.len() as u32;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let limit = |r: &Ratio| match r.target {
        Some(Bound::AtMost(v) | Bound::AtLeast(v) | Bound::Below(v)) => v,
        None => 0.0,
    };
    let most = ratios.iter().map(|r| r.high.max(limit(r))).fold(1.0, f64::max) * 1.1;
    let rows = ratios.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption("Ours over theirs; thick line: the target", ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(30)
        .build_cartesian_2d(0.0..most, rows..0.0)?;
    chart
        .configure_mesh()
        .disable_y_axis()
        .disable_y_mesh()
        .x_desc("ratio (1: as the other; bar: median, thin line: 95 % interval)")
        .draw()?;
    for (row, ratio) in ratios.iter().enumerate() {
        let top = row as f64;
        let met = ratio.target.is_none_or(|bound| bound.holds(ratio.median));
        let fill = if met { colour(0) } else { colour(1) };
        let bar = Rectangle::new([(0.0, top + 0.5), (ratio.median, top + 0.85)], fill.filled());
        chart.draw_series([bar])?;
        let interval = [(ratio.low, top + 0.675), (ratio.high, top + 0.675)];
        chart.draw_series([PathElement::new(interval, BLACK.stroke_width(2))])?;
        if ratio.target.is_some() {
            let line = [(limit(ratio), top + 0.42), (limit(ratio), top + 0.93)];
            chart.draw_series([PathElement::new(line, BLACK.stroke_width(3))])?;
        }
        let text = format!("{} = {:.2}", ratio.what, ratio.median);
        chart.draw_series([Text::new(text, (0.0, top + 0.12), ("sans-serif", 14))])?;
    }
    Ok(area.present()?)
}

/// What a plot of distributions is called, and what its times are.
fn titles(plot: &str) -> (String, &'static str) {
    match plot {
        "stall" => (
            "How long clients wait when something fails".into(),
            "longest time without a reply on a connection, in milliseconds (logarithmic)",
        ),
        "latency" => (
            "Reply latency".into(),
            "from the moment a request was due to its reply, in milliseconds (logarithmic)",
        ),
        other => (format!("Times: {other}"), "milliseconds (logarithmic)"),
    }
}

fn draw_series(path: &Path, plot: &str, series: &[&Series]) -> Outcome {
    // The legend is above the lines, a row for each: it must cover none of them.
    let legend_height = LEGEND_ROW * series.len() as u32;
    let area = SVGBackend::new(path, (WIDTH, HEIGHT + legend_height)).into_drawing_area();
    area.fill(&WHITE)?;
    let (title, x_words) = titles(plot);
    let (head, below) = area.split_vertically(HEAD + legend_height);
    head.draw_text(&title, &("sans-serif", 22).into_text_style(&head), (60, 12))?;
    for (index, series) in series.iter().enumerate() {
        let y = (HEAD + LEGEND_ROW * index as u32) as i32;
        let patch = [(62, y - 1), (86, y + 9)];
        head.draw(&Rectangle::new(patch, colour(index).filled()))?;
        let t = &series.times;
        let text = format!(
            "{}: median {} ms, 99 % within {} ms (n = {})",
            series.what,
            number(t.p50_ms),
            number(t.p99_ms),
            t.count
        );
        head.draw_text(&text, &("sans-serif", 15).into_text_style(&head), (94, y))?;
    }
    let all = || series.iter().flat_map(|s| s.times.curve.iter().map(|(_, ms)| *ms));
    let least = all().fold(f64::INFINITY, f64::min).max(0.001);
    let most = all().fold(0.001, f64::max);
    let (from, to) = (least / 1.2, most.max(least * 1.5) * 1.2);
    let mut chart = ChartBuilder::on(&below)
        .margin(14)
        .x_label_area_size(48)
        .y_label_area_size(58)
        .build_cartesian_2d((from..to).log_scale().with_key_points(ticks(from, to)), 0.0..100.0)?;
    chart
        .configure_mesh()
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(221, 221, 221))
        .x_label_formatter(&|ms| number(*ms))
        .y_label_formatter(&|share| number(*share))
        .x_desc(x_words)
        .y_desc("share of samples not above, in %")
        .draw()?;
    for (index, series) in series.iter().enumerate() {
        let points = series.times.curve.iter().map(|&(share, ms)| (ms.max(from), share));
        chart.draw_series(LineSeries::new(points, colour(index).stroke_width(3)))?;
    }
    Ok(area.present()?)
}

/// 1, 2 and 5 of every decade between two values.
fn ticks(from: f64, to: f64) -> Vec<f64> {
    let decades = from.log10().floor() as i32..=to.log10().ceil() as i32;
    let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade)));
    all.filter(|tick| (from..=to).contains(tick)).collect()
}

fn draw_parts(path: &Path, all: &[&Parts]) -> Outcome {
    let height = 130 + ROW * 2 * all.len() as u32;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let sum = |parts: &Parts| parts.parts_ms.iter().map(|(_, ms)| ms).sum::<f64>();
    let most = all.iter().map(|parts| sum(parts)).fold(0.1, f64::max) * 1.35;
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in all.iter().flat_map(|parts| &parts.parts_ms) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut chart = ChartBuilder::on(&area)
        .caption("What a stall is made of (medians)", ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(40)
        .build_cartesian_2d(0.0..most, all.len() as f64..0.0)?;
    chart.configure_mesh().disable_y_axis().disable_y_mesh().x_desc("milliseconds").draw()?;
    for (index, name) in names.iter().enumerate() {
        let bars = all.iter().enumerate().filter_map(|(row, parts)| {
            let at = parts.parts_ms.iter().position(|(n, _)| n == name)?;
            let from: f64 = parts.parts_ms[..at].iter().map(|(_, ms)| ms).sum();
            let (top, to) = (row as f64, from + parts.parts_ms[at].1);
            Some(Rectangle::new([(from, top + 0.4), (to, top + 0.85)], colour(index).filled()))
        });
        legend(chart.draw_series(bars)?.label(*name), index);
    }
    for (row, parts) in all.iter().enumerate() {
        let text = format!("{}: {:.1} ms", parts.what, sum(parts));
        chart.draw_series([Text::new(text, (0.0, row as f64 + 0.08), ("sans-serif", 14))])?;
    }
    labels(&mut chart)?;
    Ok(area.present()?)
}

fn legend<'a, DB: DrawingBackend + 'a>(
    series: &mut plotters::chart::SeriesAnno<'a, DB>,
    index: usize,
) {
    series.legend(move |(x, y)| {
        Rectangle::new([(x, y - 4), (x + 14, y + 4)], colour(index).filled())
    });
}

fn labels<'a, DB: DrawingBackend + 'a, X, Y>(
    chart: &mut ChartContext<'a, DB, Cartesian2d<X, Y>>,
) -> Result<(), Box<dyn std::error::Error>>
where
    X: Ranged + AsRangedCoord,
    Y: Ranged + AsRangedCoord,
    DB::ErrorType: 'static,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()
        .map_err(|error| error.to_string().into())
}
