//! The report of a run: Markdown, with the main table, and plots beside it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::findings::{Comparison, Findings, Measurement, Outcome, Run};
use crate::measure;
use crate::targets::{Bound, Criterion, Measured, TARGETS, Target};

mod plots;

/// Name of the report in a run's directory.
pub const FILE: &str = "report.md";

/// Writes the report and its plots into a directory.
///
/// # Errors
/// If a file cannot be written.
pub fn write(run: &Run, dir: &Path) -> Result<()> {
    let plots = plots::draw(run, dir)?;
    let path = dir.join(FILE);
    fs::write(&path, markdown(run, &plots)).with_context(|| format!("write {}", path.display()))
}

/// The whole report; `plots` are the names of the plots beside it.
fn markdown(run: &Run, plots: &[String]) -> String {
    let mut out = String::from("# Measured\n\n");
    let machines: BTreeSet<String> = run.measurements.values().map(|m| m.machine.line()).collect();
    for line in machines {
        let _ = writeln!(out, "{line}\n");
    }
    out += "Ratios are medians of interleaved pairs with their 95 % confidence intervals, of one run \
            on one machine.\n\n";
    out += &table(run);
    for plot in plots {
        let _ = writeln!(out, "\n![{}]({plot})", plot.trim_end_matches(".svg"));
    }
    for (name, measurement) in &run.measurements {
        section(&mut out, name, measurement);
    }
    out
}

/// The main table: what is promised, what was measured, whether it was kept.
pub fn table(run: &Run) -> String {
    let mut out = String::from(
        "| measured | against | target | result | verdict |\n| --- | --- | --- | --- | --- |\n",
    );
    for target in TARGETS {
        let wanted = join(target, |c, _| format!("{} {}", bound(c.bound), c.unit), run);
        let found = join(target, |c, m| m.map_or("-".into(), |m| measured(m, c.unit)), run);
        let _ = writeln!(
            out,
            "| {} | {} | {wanted} | {found} | {} |",
            target.what,
            target.against,
            verdict(target, run)
        );
    }
    for (name, measurement) in &run.measurements {
        let is_row = TARGETS.iter().any(|target| target.measurement == name);
        if let (false, Outcome::Skipped(why)) = (is_row, &measurement.outcome) {
            let _ = writeln!(out, "| {name} | | | - | not measured: {} |", one_line(why));
        }
    }
    out
}

/// The criteria of a target in one cell.
fn join(
    target: &Target,
    cell: impl Fn(&Criterion, Option<Measured>) -> String,
    run: &Run,
) -> String {
    let cells = target.criteria.iter().map(|c| {
        let text = cell(c, c.source.find(run));
        format!("{} {}", c.label, text.trim()).trim().to_string()
    });
    cells.collect::<Vec<_>>().join("; ")
}

fn verdict(target: &Target, run: &Run) -> String {
    let values: Vec<_> = target.criteria.iter().map(|c| (c, c.source.find(run))).collect();
    let measurement = run.measurements.get(target.measurement);
    if values.iter().any(|(_, found)| found.is_none()) {
        return match measurement.map(|m| &m.outcome) {
            None if !measure::ALL.iter().any(|m| m.name == target.measurement) => {
                "not measured: the harness has no measurement of it yet".into()
            }
            None => "not measured in this run".into(),
            Some(Outcome::Skipped(why)) => format!("not measured: {}", one_line(why)),
            Some(Outcome::Failed(why)) => format!("failed: {}", one_line(why)),
            Some(Outcome::Done) => "not measured in this run".into(),
        };
    }
    let is_met = values.iter().all(|(c, m)| m.is_some_and(|m| c.bound.holds(m.value)));
    let short = if measurement.is_some_and(|m| m.quick) { " (quick run)" } else { "" };
    match (is_met, run.reason(target.id)) {
        (true, _) => format!("met{short}"),
        (false, Some(why)) => format!("**missed**{short}: {}", one_line(why)),
        (false, None) => format!("**missed**{short}: no reason is known"),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/")
}

fn bound(bound: Bound) -> String {
    match bound {
        Bound::AtMost(limit) => format!("<= {}", number(limit)),
        Bound::AtLeast(limit) => format!(">= {}", number(limit)),
        Bound::Below(limit) => format!("< {}", number(limit)),
    }
}

fn measured(found: Measured, unit: &str) -> String {
    let range = found
        .range
        .map_or(String::new(), |(low, high)| format!(" ({} .. {})", number(low), number(high)));
    format!("{} {unit}{range}", number(found.value))
}

/// Three digits that say something.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == v.trunc() => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn section(out: &mut String, name: &str, measurement: &Measurement) {
    let _ = writeln!(out, "\n## {name}\n\n{}\n", measurement.about);
    match &measurement.outcome {
        Outcome::Done => {}
        Outcome::Skipped(why) => *out += &format!("Not measured: {why}\n\n"),
        Outcome::Failed(why) => *out += &format!("Failed: {why}\n\n"),
    }
    let length = if measurement.quick { "cut short (`--quick`), " } else { "" };
    let _ = writeln!(out, "{length}{:.0} s\n", measurement.took_s);
    let findings = &measurement.findings;
    comparisons(out, findings);
    figures(out, findings);
    distributions(out, findings);
    for note in &findings.notes {
        let _ = writeln!(out, "- {note}");
    }
}

fn comparisons(out: &mut String, findings: &Findings) {
    if findings.comparisons.is_empty() {
        return;
    }
    *out += "| what | ours | theirs | ratio (95 %) | pairs | discarded: stolen, gaps |\n\
             | --- | --- | --- | --- | --- | --- |\n";
    for Comparison {
        what,
        unit,
        ours_name,
        theirs_name,
        ours,
        theirs,
        ratio,
        pairs,
        discarded,
        ..
    } in &findings.comparisons
    {
        let _ = writeln!(
            out,
            "| {what} | {ours_name}: {} {unit} ({} .. {}) | {theirs_name}: {} {unit} ({} .. {}) \
             | {} ({} .. {}) | {pairs} | {}, {} |",
            number(ours.median),
            number(ours.min),
            number(ours.max),
            number(theirs.median),
            number(theirs.min),
            number(theirs.max),
            number(ratio.median),
            number(ratio.low),
            number(ratio.high),
            discarded.stolen,
            discarded.gaps
        );
    }
    *out += "\n";
}

fn figures(out: &mut String, findings: &Findings) {
    if findings.figures.is_empty() {
        return;
    }
    *out += "| what | median | least .. most | samples |\n| --- | --- | --- | --- |\n";
    for figure in &findings.figures {
        let v = figure.value;
        let _ = writeln!(
            out,
            "| {} | {} {} | {} .. {} | {} |",
            figure.what,
            number(v.median),
            figure.unit,
            number(v.min),
            number(v.max),
            figure.samples
        );
    }
    *out += "\n";
}

fn distributions(out: &mut String, findings: &Findings) {
    if !findings.distributions.is_empty() {
        *out += "| times, ms | count | least | p50 | p90 | p99 | p99.9 | most |\n\
                 | --- | --- | --- | --- | --- | --- | --- | --- |\n";
        for series in &findings.distributions {
            let t = &series.times;
            let cells = [t.min_ms, t.p50_ms, t.p90_ms, t.p99_ms, t.p999_ms, t.max_ms].map(number);
            let _ = writeln!(out, "| {} | {} | {} |", series.what, t.count, cells.join(" | "));
        }
        *out += "\n";
    }
    if !findings.parts.is_empty() {
        *out += "| medians, ms | parts |\n| --- | --- |\n";
        for parts in &findings.parts {
            let cells = parts.parts_ms.iter().map(|(name, ms)| format!("{name} {}", number(*ms)));
            let _ = writeln!(out, "| {} | {} |", parts.what, cells.collect::<Vec<_>>().join(", "));
        }
        *out += "\n";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Sides;
    use crate::noise::Discarded;
    use crate::paired::{Pair, Pairs};
    use crate::stats::{Distribution, Spread};

    fn example(ratio: f64) -> Run {
        let mut findings = Findings::default();
        let kept = vec![Pair { baseline: 40.0, subject: 40.0 * ratio }; 5];
        let pairs = Pairs { kept, discarded: Discarded { stolen: 1, gaps: 2 } };
        for id in ["capture/unsealed", "capture/sealed"] {
            let sides = Sides { id, what: "w", unit: "cycles", ours: "o", theirs: "t" };
            findings.compare(sides, &pairs);
        }
        findings.explain("capture", "the | reason");
        findings.figure("x", "a figure", "ms", Spread::exact(1.5), 3);
        findings.times("stall", "y", "stalls", Distribution::of_ns([1_000_000, 2_000_000]));
        findings.parts.push(crate::findings::Parts {
            what: "stall".into(),
            parts_ms: vec![("detect".into(), 1.0), ("elect".into(), 2.0)],
        });
        let measurement = Measurement {
            about: "about".into(),
            outcome: Outcome::Done,
            quick: false,
            begun_unix_s: 0,
            took_s: 1.0,
            machine: crate::machine::Machine::default(),
            findings,
        };
        Run { measurements: [("capture".into(), measurement)].into(), ..Run::default() }
    }

    #[test]
    fn a_target_is_met_missed_with_its_reason_or_not_measured() {
        let met = table(&example(2.5));
        assert!(met.contains("| <= 3 x | 2.50 x (2.50 .. 2.50) | met |"), "{met}");
        assert!(met.contains("| not measured in this run |"), "{met}");
        let missed = table(&example(4.0));
        assert!(missed.contains("**missed**: the / reason"), "{missed}");
        assert!(missed.contains("| <= 5 x | 4 x (4 .. 4) | met |"), "{missed}");
    }

    #[test]
    fn a_report_has_its_plots_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        write(&example(2.0), dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        for part in ["## capture", "| a figure | 1.50 ms |", "| stalls | 2 |", "detect 1, elect 2"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        for plot in ["ratios.svg", "stall.svg", "parts.svg"] {
            assert!(text.contains(&format!("]({plot})")), "{plot} is not in {text}");
            assert!(fs::read_to_string(dir.path().join(plot)).unwrap().starts_with("<svg"));
        }
    }
}
