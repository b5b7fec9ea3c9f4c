//! Metrics of the listeners' connections.

use std::fmt::Error;
use std::sync::Arc;

use net::connection_limit::ConnectionLimiter;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::samples::{Kind, write};

/// Collects the connection counts of all listeners.
#[derive(Debug, Default)]
pub struct Listeners {
    limiters: Vec<(&'static str, Arc<ConnectionLimiter>)>,
}

impl Listeners {
    /// Adds the listener called `name`.
    #[must_use]
    pub fn with(mut self, name: &'static str, limiter: Arc<ConnectionLimiter>) -> Self {
        self.limiters.push((name, limiter));
        self
    }
}

impl Collector for Listeners {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        for (listener, limiter) in &self.limiters {
            let open = [(NONE, limiter.count() as f64)];
            let name = format!("nearcast_{listener}_connections_open");
            write(&mut encoder, Kind::Gauge, &name, "Open connections.", open)?;
            let accepted = [(NONE, limiter.accepted() as f64)];
            let name = format!("nearcast_{listener}_connections_accepted");
            write(&mut encoder, Kind::Counter, &name, "Connections accepted.", accepted)?;
        }
        let rejected = self.limiters.iter().map(|(name, limiter)| ([("listener", *name)], limiter.rejected() as f64));
        let (name, help) = ("nearcast_connections_rejected", "Connections closed at once because of a limit.");
        write(&mut encoder, Kind::Counter, name, help, rejected)
    }
}

const NONE: [(&str, &str); 0] = [];
