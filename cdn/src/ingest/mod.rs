//! Ingest: makes the units of an admitted publisher part of its stream in the hub.
//!
//! The publisher's protocol has a folder of its own ([`rtmp`]): it reads messages and feeds the track assembler, which knows no protocol
//! and returns units with their catalog, epoch and predecessor.

mod epochs;
mod pending;
pub mod rtmp;
#[cfg(test)]
mod tests;
mod track_assembler;

use media::{Epoch, HighWaterMarks, Timestamp};

use crate::hub::{PublishGuard, PushOutcome};
pub use pending::PendingLimits;
use track_assembler::Assembled;

/// The stream's last epoch, and its newest DTS over all tracks.
pub(crate) fn last_epoch(high_water: &HighWaterMarks) -> Option<(Epoch, Timestamp)> {
    let (epoch, tracks) = high_water.last()?;
    tracks.iter().map(|(_, dts)| *dts).max().map(|dts| (epoch, dts))
}

/// Pushes `units`. Returns false if the publisher was revoked.
pub(crate) fn push(publish: &PublishGuard, units: Vec<Assembled>) -> bool {
    units.into_iter().all(|Assembled { catalog, unit, predecessor_dts }| {
        tracing::trace!(track = %unit.track, dts = %unit.dts, bytes = unit.payload.len(), "unit");
        publish.push(&catalog, unit, predecessor_dts) != PushOutcome::Revoked
    })
}
