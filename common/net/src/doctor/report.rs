//! The result of `doctor`: checks rendered as columns of text or as JSON. Pure.

use serde_json::{Map, Value, json};

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// The check passed.
    Ok,
    /// It works, with restrictions.
    Warn,
    /// It does not work.
    Fail,
}

/// One check: its name, its result, what was found, and how to fix it.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    name: &'static str,
    status: Status,
    found: String,
    fix: Option<String>,
    values: Vec<(&'static str, f64)>,
}

/// All checks, in the order in which they are shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    checks: Vec<Check>,
}

impl Check {
    /// A check that passed; `found` says what was seen.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, found.into(), None)
    }

    /// A check that passed with restrictions; `fix` says what to do.
    pub fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(name, Status::Warn, found.into(), Some(fix.into()))
    }

    /// A check that failed; `fix` says what to do.
    pub fn fail(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(name, Status::Fail, found.into(), Some(fix.into()))
    }

    /// Adds a number for JSON, with its unit in its name: `round_trip_ms`.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: f64) -> Self {
        self.values.push((name, value));
        self
    }

    /// The name of the check.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The result of the check.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Raises the status to `status` if there is something to fix.
    #[must_use]
    pub fn at_least(mut self, status: Status) -> Self {
        if self.fix.is_some() {
            self.status = self.status.max(status);
        }
        self
    }

    fn new(name: &'static str, status: Status, found: String, fix: Option<String>) -> Self {
        Self { name, status, found: plain(&found), fix: fix.map(|fix| plain(&fix)), values: Vec::new() }
    }
}

impl Report {
    /// A report of `checks`.
    pub fn new(checks: Vec<Check>) -> Self {
        Self { checks }
    }

    /// Whether any check failed.
    pub fn has_failed(&self) -> bool {
        self.checks.iter().any(|check| check.status == Status::Fail)
    }

    /// The report as text: a line for each check, in columns, followed by an indented line with the fix. Lines are broken at `width` characters
    /// if it is given, on a terminal.
    pub fn text(&self, width: Option<usize>) -> String {
        let names = self.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
        let indent = STATUS + names + GAP;
        let mut text = String::new();
        for check in &self.checks {
            let head = format!("{:<STATUS$}{:<names$}{:GAP$}", word(check.status), check.name, "");
            fold(&mut text, &head, &check.found, indent, width);
            if let Some(fix) = &check.fix {
                fold(&mut text, &format!("{:indent$}fix: ", ""), fix, indent + 5, width);
            }
        }
        text
    }

    /// One JSON object: `ok`, and `checks` with `check`, `status` (`ok`, `warn`, `fail`), `found`, `fix` and `values` if any.
    pub fn json(&self) -> String {
        let checks: Vec<Value> = self.checks.iter().map(object).collect();
        format!("{:#}\n", json!({ "ok": !self.has_failed(), "checks": checks }))
    }

    /// The report for standard output: JSON, or text as wide as the terminal.
    pub fn render(&self, json: bool) -> String {
        let width = || terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
        if json { self.json() } else { self.text(Some(width().unwrap_or(NO_TERMINAL))) }
    }
}

fn object(check: &Check) -> Value {
    let mut object = Map::new();
    object.insert("check".into(), check.name.into());
    object.insert("status".into(), word(check.status).to_ascii_lowercase().into());
    object.insert("found".into(), check.found.as_str().into());
    if let Some(fix) = &check.fix {
        object.insert("fix".into(), fix.as_str().into());
    }
    if !check.values.is_empty() {
        let values: Map<String, Value> =
            check.values.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        object.insert("values".into(), values.into());
    }
    object.into()
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    }
}

/// Appends `head` and `text`, and wraps the text at its own indentation.
fn fold(out: &mut String, head: &str, text: &str, indent: usize, width: Option<usize>) {
    // A terminal too narrow for columns breaks lines itself.
    let room = width.and_then(|width| width.checked_sub(indent)).filter(|room| *room >= LEAST_ROOM);
    out.push_str(head);
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && room.is_some_and(|room| used + 1 + length > room) {
            *out += &format!("\n{:indent$}", "");
            used = 0;
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out.push('\n');
}

/// Text as one line without control characters: a server must not control the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect()
}

/// Columns where the output is no terminal.
const NO_TERMINAL: usize = 80;
/// Columns of the status: the longest word and two spaces.
const STATUS: usize = 6;
/// Columns between the name and the finding.
const GAP: usize = 2;
/// Columns below which breaking lines makes them harder to read.
const LEAST_ROOM: usize = 30;
/// Bounds a server's text on the screen, in characters.
const MAX_TEXT: usize = 400;

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
