//! `lab bound`: the lower bounds on latency in a topology, as a table or JSON.

use std::fmt::Write;

use anyhow::{Result, ensure};
use serde_json::json;

use super::cli;
use crate::latency_bound::{Framing, LatencyBounds};
use crate::topology::Topology;

/// The table or JSON. Fails when a host does not exist or cannot be reached.
pub(super) fn table(topology: &Topology, args: &cli::BoundArgs) -> Result<String> {
    ensure!(args.from != args.to, "--from and --to are the same host");
    let framing = Framing { payload: args.payload, headers: args.headers };
    let (up, down) = (topology.hops(&args.from, &args.relay)?, topology.hops(&args.relay, &args.to)?);
    let bounds = LatencyBounds::new(framing, &up, &down, &topology.hops(&args.from, &args.to)?);
    let millis = |path: &crate::latency_bound::PathModel, bytes| path.idle_latency(bytes).as_secs_f64() * 1e3;
    if args.json {
        let of = |path| args.units.iter().map(|bytes| millis(path, *bytes)).collect::<Vec<f64>>();
        let paths: serde_json::Map<_, _> =
            bounds.named().iter().map(|(name, path)| ((*name).to_owned(), json!(of(path)))).collect();
        let framing = json!({ "payload": args.payload, "headers": args.headers });
        return Ok(format!("{:#}\n", json!({ "unit_bytes": args.units, "framing": framing, "bound_ms": paths })));
    }
    let mut text = format!(
        "From the first bit sent by {} to the last bit at {}, in milliseconds; {} bytes of payload and {} of headers per packet.\n\n",
        args.from, args.to, args.payload, args.headers
    );
    let _ = write!(text, "{:<28}", "");
    text.extend(args.units.iter().map(|bytes| format!("{:>12}", format!("{bytes} B"))));
    text.push('\n');
    for (name, path) in bounds.named() {
        let name = name.replace("CDN", &args.relay);
        let _ = write!(text, "{name:<28}");
        text.extend(args.units.iter().map(|bytes| format!("{:>12.1}", millis(path, *bytes))));
        text.push('\n');
    }
    Ok(text)
}
