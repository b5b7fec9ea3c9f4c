//! `lab floor`: the floors of a topology as a table, or as JSON.

use std::fmt::Write;

use anyhow::{Result, ensure};
use serde_json::json;

use super::cli;
use crate::latency_bound::{Floors, Framing};
use crate::topology::Plan;

/// The table. Fails when a host is not there or cannot be reached.
pub(super) fn table(plan: &Plan, ask: &cli::Floor) -> Result<String> {
    ensure!(ask.from != ask.to, "--from and --to are the same host");
    let framing = Framing { payload: ask.payload, headers: ask.headers };
    let (up, down) = (plan.hops(&ask.from, &ask.relay)?, plan.hops(&ask.relay, &ask.to)?);
    let floors = Floors::new(framing, &up, &down, &plan.hops(&ask.from, &ask.to)?);
    let millis = |path: &crate::latency_bound::Path, bytes| path.alone(bytes).as_secs_f64() * 1e3;
    if ask.json {
        let of = |path| ask.units.iter().map(|bytes| millis(path, *bytes)).collect::<Vec<f64>>();
        let paths: serde_json::Map<_, _> =
            floors.named().iter().map(|(name, path)| ((*name).to_owned(), json!(of(path)))).collect();
        let framing = json!({ "payload": ask.payload, "headers": ask.headers });
        return Ok(format!("{:#}\n", json!({ "unit_bytes": ask.units, "framing": framing, "floor_ms": paths })));
    }
    let mut text = format!(
        "From the first bit sent by {} to the last bit at {}, in milliseconds; {} bytes of payload and {} of headers a packet.\n\n",
        ask.from, ask.to, ask.payload, ask.headers
    );
    let _ = write!(text, "{:<28}", "");
    text.extend(ask.units.iter().map(|bytes| format!("{:>12}", format!("{bytes} B"))));
    text.push('\n');
    for (name, path) in floors.named() {
        let name = name.replace("CDN", &ask.relay);
        let _ = write!(text, "{name:<28}");
        text.extend(ask.units.iter().map(|bytes| format!("{:>12.1}", millis(path, *bytes))));
        text.push('\n');
    }
    Ok(text)
}
