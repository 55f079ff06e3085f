//! The picture of a [`Model`].

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table};
use understudy_api::{Verdict, Waits};

use super::model::{Curve, Look, Model};
use crate::text::{bytes, dash, plain, utc_of, yes};

const GOOD: Color = Color::Green;
const BAD: Color = Color::Red;
const TAKEOVERS_SHOWN: usize = 12;

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, model: &Model) {
    let Some(look) = &model.look else {
        let why = model.silence.as_deref().unwrap_or("asking the daemon...");
        frame.render_widget(Paragraph::new(plain(why)), frame.area());
        return;
    };
    let nodes = look.nodes.len() as u16 + 3;
    let [head, rates, group, below, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(8),
        Constraint::Length(nodes),
        Constraint::Min(8),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    verdict(frame, head, model, look);
    let [numbers, released, waits, lag] = Layout::horizontal([
        Constraint::Min(44),
        Constraint::Percentage(21),
        Constraint::Percentage(21),
        Constraint::Percentage(21),
    ])
    .areas(rates);
    frame.render_widget(Paragraph::new(facts(look)).block(titled("now")), numbers);
    curve(frame, released, &model.released, "out", |n| format!("{n}/s"));
    curve(frame, waits, &model.longest_wait_us, "wait", |us| time(us.saturating_mul(1000)));
    curve(frame, lag, &model.lag_bytes, "lag", bytes);
    frame.render_widget(group_table(look), group);
    let [histogram, stalls] =
        Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)]).areas(below);
    let rows = wait_lines(&look.waits, histogram.width.saturating_sub(2));
    frame.render_widget(
        Paragraph::new(rows).block(titled("wait at the gate, last interval")),
        histogram,
    );
    frame.render_widget(
        Paragraph::new(takeover_lines(look)).block(titled("takeovers and stalls")),
        stalls,
    );
    frame.render_widget(
        Paragraph::new("q ends").style(Style::new().add_modifier(Modifier::DIM)),
        foot,
    );
}

fn titled(title: &str) -> Block<'_> {
    Block::new().borders(Borders::TOP).title(Line::from(format!(" {title} ")))
}

/// A curve, with its newest and its highest value.
fn curve(frame: &mut Frame<'_>, area: Rect, curve: &Curve, name: &str, unit: fn(u64) -> String) {
    let newest = curve.back().copied().unwrap_or(0);
    let highest = curve.iter().copied().max().unwrap_or(0);
    let title = format!("{name} {}, max {}", unit(newest), unit(highest));
    let points = newest_of(curve, area);
    let line = Sparkline::default().data(&points).block(titled(&title));
    frame.render_widget(line.style(Style::new().fg(Color::Cyan)), area);
}

fn newest_of(curve: &Curve, area: Rect) -> Vec<u64> {
    let shown = usize::from(area.width).min(curve.len());
    curve.iter().skip(curve.len() - shown).copied().collect()
}

fn verdict(frame: &mut Frame<'_>, area: Rect, model: &Model, look: &Look) {
    let color = if look.verdict == Verdict::Protected { GOOD } else { BAD };
    let bar = Style::new().fg(Color::Black).bg(color).add_modifier(Modifier::BOLD);
    let who = format!("  {}, {}, epoch {}", plain(&look.node), look.role, look.epoch);
    let first = Line::from(vec![Span::styled(format!(" {} ", look.verdict), bar), Span::raw(who)]);
    let second = match &model.silence {
        Some(why) => format!("no answer: {}", plain(why)),
        None => plain(&look.reasons.join("; ")),
    };
    let lines = vec![first, Line::styled(second, Style::new().fg(BAD))];
    frame.render_widget(Paragraph::new(lines), area);
}

fn facts(look: &Look) -> Vec<Line<'static>> {
    let (r, log) = (&look.rates, &look.log);
    let fact = |name: &str, value: String| Line::from(format!("{name:<12} {value}"));
    let share = r.zero_wait_percent.map(|percent| format!("{percent:.1} % at once"));
    vec![
        fact(
            "captured",
            format!("{:.0} frames/s, {}/s", r.captured_frames, bytes(r.captured_bytes as u64)),
        ),
        fact("log", format!("end {}, {}/s", log.end, bytes(r.log_bytes as u64))),
        fact("delivered", format!("{:.0} frames/s", r.delivered_frames)),
        fact("released", format!("{:.0} frames/s, {}", r.released_frames, dash(share))),
        fact("uncommitted", bytes(log.uncommitted_bytes)),
        fact("not applied", bytes(log.not_applied_bytes)),
        fact("sent again", format!("{:.0} PDUs/s", r.retransmitted)),
    ]
}

fn group_table(look: &Look) -> Table<'static> {
    let header =
        ["node", "role", "alive", "ready", "position", "lag", "commit", "replica", "second"];
    let rows = look.nodes.iter().map(|n| {
        let ago = |ms: Option<u64>| dash(ms.map(|ms| format!("{ms} ms")));
        let style = if n.alive && n.ready { Style::new() } else { Style::new().fg(BAD) };
        Row::new(vec![
            format!("{}{}", plain(&n.name), if n.this { " *" } else { "" }),
            dash(n.role.map(|role| role.to_string())),
            yes(n.alive).to_owned(),
            yes(n.ready).to_owned(),
            n.position.to_string(),
            bytes(n.lag_bytes),
            dash(n.in_commit_set.map(|is| if is { "in" } else { "out" }.to_owned())),
            ago(n.replica_path_ms),
            ago(n.second_path_ms),
        ])
        .style(style)
    });
    let widths = [14, 11, 6, 6, 14, 11, 7, 9, 9].map(Constraint::Length);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    Table::new(rows, widths).header(Row::new(header).style(bold)).block(titled("group"))
}

fn wait_lines(waits: &Waits, width: u16) -> Vec<Line<'static>> {
    let most = waits.counts.iter().copied().max().unwrap_or(0);
    if most == 0 {
        return vec![Line::from("nothing has left")];
    }
    let room = u64::from(width.saturating_sub(26));
    let line = |(bucket, &count): (usize, &u64)| {
        let bound = waits.bounds_ns.get(bucket).map_or("longer".to_owned(), |ns| time(*ns));
        let bar = "\u{2588}".repeat((count * room).div_ceil(most) as usize);
        (count > 0).then(|| Line::from(format!("{bound:>10} {count:>10}  {bar}")))
    };
    waits.counts.iter().enumerate().filter_map(line).collect()
}

fn takeover_lines(look: &Look) -> Vec<Line<'static>> {
    if look.takeovers.is_empty() {
        return vec![Line::from("none since the daemon started")];
    }
    let newest = look.takeovers.iter().rev().take(TAKEOVERS_SHOWN);
    newest
        .map(|t| {
            let took = t.took_us.map_or("elsewhere".to_owned(), |us| time(us * 1000));
            Line::from(format!(
                "{}  epoch {}  {took:>9}  {}",
                utc_of(t.unix_ns),
                t.epoch,
                plain(&t.cause)
            ))
        })
        .collect()
}

fn time(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{:.0} \u{b5}s", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::picture;
    use understudy_api::{Gate, Peer, Role, Status, Takeover};

    fn status(uptime_ms: u64, counts: [u64; 3]) -> Status {
        let waits = Waits { bounds_ns: vec![1024, 2048], counts: counts.to_vec(), sum_ns: 1 };
        let mut status = Status {
            node: "a".into(),
            role: Role::Primary,
            primary: Some("a".into()),
            ready: true,
            epoch: 4,
            pid: 1,
            uptime_ms,
            gate: Gate { released: counts.iter().sum(), waits, ..Gate::default() },
            peers: vec![Peer { name: "b\u{1b}".into(), ..Peer::default() }],
            ..Status::default()
        };
        status.conclude();
        let cause = "suspected: c, 200 ms silent".into();
        status.takeovers = vec![Takeover { epoch: 4, unix_ns: 0, cause, took_us: Some(4_200) }];
        status
    }

    #[test]
    fn everything_that_matters_is_on_the_screen() {
        let mut model = Model::default();
        model.take(Ok(status(1000, [0, 0, 0])));
        model.take(Ok(status(2000, [30, 15, 1])));
        let picture = picture(&model, 120, 40);
        for words in [
            "exposed",
            "a, primary, epoch 4",
            "46 frames/s",
            "longer",
            "1 \u{b5}s",
            "2 \u{b5}s",
            "4.2 ms",
            "suspected: c",
            "b\\u{1b}",
        ] {
            assert!(picture.contains(words), "{words} is not in\n{picture}");
        }
        assert!(!picture.contains('\u{1b}'));
        model.take(Err("the daemon cannot be reached".into()));
        assert!(crate::top::picture(&model, 120, 40).contains("cannot be reached"));
    }

    #[test]
    fn no_terminal_is_too_small() {
        let mut model = Model::default();
        let _ = picture(&model, 1, 1);
        model.take(Ok(status(1000, [0, 0, 0])));
        for (width, height) in [(1, 1), (10, 3), (300, 2), (20, 100)] {
            let _ = picture(&model, width, height);
        }
    }
}
