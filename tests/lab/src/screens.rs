//! What people look at: a terminal (tmux) and a browser (Chromium), without a person.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::cmd;

/// A browser takes a while to start on a busy machine.
const BROWSER_TIMEOUT: Duration = Duration::from_secs(40);

/// Size of every terminal.
pub const COLUMNS: u16 = 120;
/// Size of every terminal.
pub const ROWS: u16 = 34;

/// Runs Chromium once, in a namespace and with a new, empty profile; gives what it printed.
pub fn chromium(netns: &Path, profile: &Path, arguments: &[&str]) -> Result<String> {
    let _ = std::fs::remove_dir_all(profile);
    let mut command = cmd::inside(netns, "chromium");
    command
        .args("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run".split(' '))
        .args("--disable-background-networking --disable-component-update".split(' '))
        .args(["--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(arguments);
    let said = cmd::output(command, "", BROWSER_TIMEOUT)?;
    if said.code != 0 {
        bail!("chromium: exit {}: {}", said.code, said.stderr.trim());
    }
    Ok(said.stdout)
}

/// A terminal in which one command runs.
pub struct Terminal {
    server: String,
}

impl Terminal {
    /// Starts a shell's command line; `name` must be nobody else's.
    pub fn start(name: &str, line: &str) -> Result<Terminal> {
        let terminal = Terminal { server: name.to_owned() };
        let (columns, rows) = (COLUMNS.to_string(), ROWS.to_string());
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &rows,
            line,
        ])?;
        Ok(terminal)
    }

    fn tmux(&self, words: &[&str]) -> Result<String> {
        cmd::run(&[&["tmux", "-L", &self.server], words].concat())
    }

    /// What is on the screen.
    pub fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The same with its colors, as escape sequences.
    pub fn screen_in_colors(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-e", "-p"])
    }

    /// Presses keys.
    pub fn press(&self, keys: &str) -> Result<()> {
        self.tmux(&["send-keys", keys]).map(|_| ())
    }

    /// Whether the command has ended.
    pub fn has_ended(&self) -> bool {
        self.tmux(&["has-session"]).is_err()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It is gone already if the command has ended.
        let _ = self.tmux(&["kill-server"]);
    }
}

/// A screen with colors as a page for a browser.
pub fn as_html(screen: &str) -> String {
    let mut body = String::new();
    let mut style = Style::default();
    for line in screen.lines() {
        for (i, part) in line.split('\u{1b}').enumerate() {
            let text = match (i, part.strip_prefix('[').and_then(|rest| rest.split_once('m'))) {
                (0, _) => part,
                (_, Some((codes, text))) => {
                    style.change(codes);
                    text
                }
                (_, None) => "",
            };
            let plain = text.replace('&', "&amp;").replace('<', "&lt;");
            if !plain.is_empty() {
                body.push_str(&format!("<span style=\"{}\">{plain}</span>", style.css()));
            }
        }
        body.push('\n');
    }
    format!(
        "<!doctype html><meta charset=utf-8><style>body{{background:#101418;color:#d8dee4;margin:12px}}\
         pre{{font:15px/17px 'DejaVu Sans Mono',monospace;margin:0}}</style><pre>{body}</pre>"
    )
}

/// What the escape sequences have said so far.
#[derive(Default)]
struct Style {
    color: Option<usize>,
    background: Option<usize>,
    is_bold: bool,
    is_dim: bool,
}

impl Style {
    const COLORS: [&str; 8] =
        ["#101418", "#f0625d", "#57c46f", "#d9b44a", "#5b9dd9", "#b685d6", "#4cc3c7", "#d8dee4"];

    fn change(&mut self, codes: &str) {
        let mut codes = codes.split(';').map(|code| code.parse().unwrap_or(0));
        while let Some(code) = codes.next() {
            match code {
                0 => *self = Style::default(),
                1 => self.is_bold = true,
                2 => self.is_dim = true,
                22 => (self.is_bold, self.is_dim) = (false, false),
                n @ 30..=37 => self.color = Some(n - 30),
                39 => self.color = None,
                n @ 40..=47 => self.background = Some(n - 40),
                49 => self.background = None,
                // One of 256: 5 and its number; the first eight are those above.
                38 | 48 => {
                    let number = codes.nth(1).filter(|n| *n < Self::COLORS.len());
                    let of = if code == 38 { &mut self.color } else { &mut self.background };
                    *of = number;
                }
                _ => {}
            }
        }
    }

    fn css(&self) -> String {
        let mut css = String::new();
        let color = |n: usize| Self::COLORS[n];
        if let Some(n) = self.color {
            css.push_str(&format!("color:{};", color(n)));
        }
        if let Some(n) = self.background {
            css.push_str(&format!("background:{};", color(n)));
        }
        if self.is_bold {
            css.push_str("font-weight:bold;");
        }
        if self.is_dim {
            css.push_str("opacity:.6;");
        }
        css
    }
}

#[cfg(test)]
mod tests {
    use super::as_html;

    #[test]
    fn colors_become_styles_and_markup_stays_text() {
        let page = as_html("a<b \u{1b}[1;38;5;0;42m ok \u{1b}[0m&\n\u{1b}[39mx");
        assert!(page.contains("a&lt;b "), "{page}");
        let styled =
            "<span style=\"color:#101418;background:#57c46f;font-weight:bold;\"> ok </span>";
        assert!(page.contains(styled), "{page}");
        assert!(
            page.contains("<span style=\"\">&amp;</span>\n<span style=\"\">x</span>"),
            "{page}"
        );
    }
}
