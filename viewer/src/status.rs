//! Statistics while the viewer runs: a status line on a terminal, or a JSON line a second for programs.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use terminal_size::Width;

use crate::figures;
use crate::player_context::PlayerContext;
use crate::stats::{StatsLine, Summary};

/// Where the statistics go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatsOutput {
    /// Whether to print a JSON line a second, and the summary as JSON.
    pub json: bool,
    /// Whether media is written to standard output: then JSON goes to standard error.
    pub stdout_taken: bool,
    /// Whether to keep a status line up to date on standard error.
    pub status_line: bool,
}

impl StatsOutput {
    /// A status line only if standard error is a terminal and no JSON is wanted.
    pub fn new(json: bool, stdout_taken: bool) -> Self {
        Self { json, stdout_taken, status_line: !json && io::stderr().is_terminal() }
    }

    /// Prints until the viewer stops.
    pub fn run(self, player: &Arc<PlayerContext>) {
        let mut next_json = EVERY_SECOND;
        while !player.is_stopping() {
            std::thread::sleep(TICK);
            let now = player.clock.now();
            let playback = player.playback.lock().status();
            if self.json && now >= next_json {
                next_json += EVERY_SECOND;
                let line = player.stats.lock().line(now, playback);
                self.json(&line);
            }
            if self.status_line {
                let line = player.stats.lock().line(now, playback);
                // Cursor to the start, text, and the rest of the old line erased (ECMA-48 EL).
                let _ = write!(io::stderr(), "\r{}\x1b[K", to_text(&line, width()));
            }
        }
        if self.status_line {
            let _ = writeln!(io::stderr());
        }
    }

    /// Prints the summary; as text, only if anything was presented.
    pub fn summary(self, summary: &Summary) {
        if self.json {
            self.json(summary);
        } else if summary.startup_ms.is_some() {
            let _ = write!(io::stderr(), "{}", summary.to_text());
        }
    }

    fn json(self, value: &impl serde::Serialize) {
        let text = serde_json::to_string(value).expect("plain structures serialise");
        // A closed pipe does not stop playback.
        let _ = if self.stdout_taken { writeln!(io::stderr(), "{text}") } else { writeln!(io::stdout(), "{text}") };
    }
}

/// Columns that a line may take without wrapping.
fn width() -> usize {
    terminal_size::terminal_size_of(io::stderr())
        .map_or(DEFAULT_WIDTH, |(Width(columns), _)| usize::from(columns))
        .saturating_sub(1)
}

/// The state and the figures, and as much of the source's name as fits.
fn to_text(line: &StatsLine, width: usize) -> String {
    let latency = line.latency_ms.total.map_or("unknown".to_owned(), figures::time);
    let buffer = figures::time(line.buffer_ms as f64);
    let text = format!(
        "{} | {:.1} fps | latency {latency} | buffer {buffer} | dropped {} | {}",
        line.state, line.fps, line.frames_dropped, line.source
    );
    text.chars().take(width).collect()
}

/// How often the status line is printed.
const TICK: Duration = Duration::from_millis(200);
const EVERY_SECOND: Duration = Duration::from_secs(1);
/// Columns assumed if the terminal does not report its width.
const DEFAULT_WIDTH: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::playback::PlaybackStatus;
    use crate::stats::Stats;

    #[test]
    fn the_status_line_is_cut_to_the_terminal() {
        let mut stats = Stats::default();
        (stats.source, stats.state) = ("RTMP rtmp://h/x".to_owned(), "waiting".to_owned());
        let text = to_text(&stats.line(Duration::from_secs(1), PlaybackStatus::default()), 79);
        assert_eq!(text, "waiting | 0.0 fps | latency unknown | buffer 0 ms | dropped 0 | RTMP rtmp://h/x");
        assert!(text.chars().count() <= 79);
        stats.source = "x".repeat(500);
        assert_eq!(to_text(&stats.line(Duration::from_secs(1), PlaybackStatus::default()), 79).chars().count(), 79);
    }
}
