//! The metrics that `/metrics` exposes, in the Prometheus text format 0.0.4.
//!
//! Each server of a process has its own registry; therefore `prometheus-client` is used, and not the `metrics` facade with one recorder per
//! process. On each scrape, collectors read counters and snapshots that the server keeps anyway, so the fan-out has no additional cost. Only
//! delays are observed here, once a second and off the data path ([`Delays`]).

mod delays;
mod listeners;
mod process;
mod rtmp;
mod samples;
mod streams;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::Registry;

pub use delays::Delays;
pub use listeners::Listeners;
pub use process::Process;
pub use rtmp::Rtmp;
pub(crate) use samples::{Kind, write};
pub use streams::Streams;

/// The metrics of one server.
#[derive(Debug, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Adds a collector, which is called on each scrape.
    pub fn register(&mut self, collector: impl Collector) {
        self.registry.register_collector(Box::new(collector));
    }

    /// Renders all metrics as the text of one scrape.
    pub fn render(&self) -> String {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }
}
