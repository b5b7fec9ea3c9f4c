//! Commands to a running network, one per line: `lab up` reads them from standard input, `lab set` and `lab send` send them.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};

use super::build::BuiltTopology;
use super::shape_syntax;
use crate::link::{Direction, Emulator, FrameCounts};

impl BuiltTopology {
    /// Executes one line and returns its output. Fails, without any change, when the line is invalid.
    pub fn command(&self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => Ok(String::new()),
            ["help"] => Ok(HELP.to_owned()),
            ["show"] => Ok(self.describe()),
            ["stats"] => Ok(self.statistics()),
            ["cut", link] => self.link(link)?.cut().map(|()| format!("{link}: cut\n")),
            ["blackhole", link] => self.link(link)?.blackhole().map(|()| format!("{link}: black hole\n")),
            ["heal", link] => self.link(link)?.heal().map(|()| format!("{link}: healed\n")),
            ["isolate", link] => self.isolate(link, true).map(|()| format!("{link}: isolated\n")),
            ["join", link] => self.isolate(link, false).map(|()| format!("{link}: not isolated\n")),
            ["set", link, ref settings @ ..] => self.set(link, settings),
            [other, ..] => bail!("unknown command or missing argument: {other:?}; `help` lists the commands"),
        }
    }

    /// `LINK[:a-to-b|:b-to-a] KEY=VALUE…`: applies all settings or none.
    fn set(&self, link: &str, settings: &[&str]) -> Result<String> {
        let (name, directions) = match link.split_once(':') {
            None => (link, &Direction::BOTH[..]),
            Some((name, "a-to-b")) => (name, &[Direction::AToB][..]),
            Some((name, "b-to-a")) => (name, &[Direction::BToA][..]),
            Some((_, other)) => bail!("{other:?} is not a direction: a-to-b or b-to-a"),
        };
        ensure!(!settings.is_empty(), "set {link}: no setting; for example: set {link} delay=30ms loss=1%");
        let link = self.link(name)?;
        let mut wanted = Vec::new();
        for direction in directions {
            let mut shape = link.shape(*direction);
            for setting in settings {
                let (key, value) = setting.split_once('=').with_context(|| format!("{setting:?} is not KEY=VALUE"))?;
                // A command line has no quotes: `jitter=normal:5ms`.
                shape_syntax::apply(&mut shape, key, &value.replace(':', " "))?;
            }
            shape.validate()?;
            wanted.push((*direction, shape));
        }
        let mut said = String::new();
        for (direction, shape) in wanted {
            link.set(direction, shape)?;
            let way = if direction == Direction::AToB { "a-to-b" } else { "b-to-a" };
            let _ = writeln!(said, "{name}:{way} {}", shape_syntax::describe(&shape));
        }
        Ok(said)
    }

    fn statistics(&self) -> String {
        let mut text = String::new();
        for (name, link) in &self.links {
            let stats = link.stats();
            for (way, counts) in [("a-to-b", stats.a_to_b), ("b-to-a", stats.b_to_a)] {
                let FrameCounts { sent, sent_bytes, lost, queue_drops, duplicated, link_down_drops, .. } = counts;
                let _ = write!(text, "{name}:{way} {sent} frames, {sent_bytes} bytes; ");
                let _ = match link.emulator() {
                    Emulator::Netem => {
                        writeln!(text, "{lost} lost or dropped at the full queue, {link_down_drops} while cut")
                    }
                    _ => writeln!(
                        text,
                        "{lost} lost, {queue_drops} dropped at the full queue, {duplicated} duplicated, {link_down_drops} while cut"
                    ),
                };
            }
        }
        let _ = writeln!(text, "emulator: {}", self.network.lateness());
        if let Err(invalid) = self.network.ensure_valid() {
            let _ = writeln!(text, "{invalid:#}");
        }
        text
    }
}

/// The commands of a running network.
pub const HELP: &str = "\
set LINK[:a-to-b|:b-to-a] KEY=VALUE ...   change a link: rate=4M delay=30ms jitter=5ms (or jitter=normal:5ms) reorder=true
                                          loss=1% burst=TO-BAD/TO-GOOD/LOSS-GOOD/LOSS-BAD duplicate=1% queue=128KiB
cut LINK | blackhole LINK | heal LINK     disconnect the cable, drop all packets, undo either
isolate LINK | join LINK                  turn client isolation on or off: isolated links do not reach each other
show | stats | help | quit
";
