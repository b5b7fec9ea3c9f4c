//! What `/metrics` exposes, in the text format of Prometheus 0.0.4.
//!
//! Each server of a process has a registry of its own, which is why this is `prometheus-client` and not the `metrics` facade with its one
//! recorder a process. Nothing is counted twice for it: collectors read, on each scrape, the atomics
//! and snapshots that the rest of the server keeps anyway, so that the fan-out pays nothing. Only delays are observed here, once a
//! second and off the data path ([`Delays`]).

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
    /// Adds a collector, which is asked on each scrape.
    pub fn register(&mut self, collector: impl Collector) {
        self.registry.register_collector(Box::new(collector));
    }

    /// The text of one scrape.
    pub fn render(&self) -> String {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }
}
