//! Encodes metric families whose values are read on each scrape.

use std::fmt::Error;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Type of a metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Values only increase; the name gets the suffix `_total`.
    Counter,
    /// Values may decrease.
    Gauge,
}

/// Writes the family `name` with a value for each label set; nothing if there are none.
pub(crate) fn write<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    kind: Kind,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (L, f64)>,
) -> Result<(), Error> {
    let mut samples = samples.into_iter().peekable();
    if samples.peek().is_none() {
        return Ok(());
    }
    let metric_type = match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
    };
    let mut family = encoder.encode_descriptor(name, help, None, metric_type)?;
    for (labels, value) in samples {
        let mut metric = family.encode_family(&labels)?;
        match kind {
            Kind::Counter if value.fract() != 0.0 => metric.encode_counter::<NoLabelSet, f64, f64>(&value, None)?,
            Kind::Counter => metric.encode_counter::<NoLabelSet, u64, f64>(&(value as u64), None)?,
            Kind::Gauge if value.fract() == 0.0 => metric.encode_gauge(&(value as i64))?,
            Kind::Gauge => metric.encode_gauge(&value)?,
        }
    }
    Ok(())
}
