//! `TIMING` in both directions: when units passed the stages up to the server. Pure. `SPEC.md` §4, §4.1.

use bytes::{BufMut, Bytes, BytesMut};
use media::latency::{ClockOffset, MAX_UNITS, Stage, StageTimes, TimingReport, UnitTiming};
use media::{Epoch, Timestamp, WallClock};

use super::coding::{array, bounded, byte, put_signed, put_varint, signed, timestamp, track, track_byte, varint};
use super::error::Error;

pub(super) fn put_request(out: &mut BytesMut, at: Option<Timestamp>) {
    out.put_u8(u8::from(at.is_some()));
    at.iter().for_each(|at| put_signed(out, at.as_millis()));
}

pub(super) fn request(body: &mut Bytes) -> Result<Option<Timestamp>, Error> {
    (byte(body, "a timing request")? != 0).then(|| timestamp(body)).transpose()
}

pub(super) fn put_response(out: &mut BytesMut, response: &TimingReport) {
    out.put_i64(response.received.as_micros());
    put_signed(out, response.answered.micros_since(response.received));
    out.put_u64(response.epoch.0);
    out.put_u8(u8::from(response.broadcaster.is_some()));
    if let Some(ClockOffset { micros, uncertainty }) = response.broadcaster {
        put_signed(out, micros);
        put_varint(out, uncertainty);
    }
    let units = &response.units[..response.units.len().min(MAX_UNITS)];
    put_varint(out, units.len() as u64);
    for unit in units {
        out.put_u8(track_byte(unit.track));
        put_signed(out, unit.dts.as_millis());
        let known = reported_stages().filter_map(|stage| Some((stage, unit.stamps.at(stage)?)));
        put_varint(out, known.clone().fold(0, |mask, (stage, _)| mask | 1 << stage as u64));
        for (_, at) in known {
            put_signed(out, at.micros_since(response.received));
        }
    }
}

pub(super) fn response(body: &mut Bytes) -> Result<TimingReport, Error> {
    let received = WallClock::from_micros(i64::from_be_bytes(array(body, "a server's clock")?));
    let after = |micros: i64| WallClock::from_micros(received.as_micros().saturating_add(micros));
    let answered = after(signed(body)?);
    let epoch = Epoch(u64::from_be_bytes(array(body, "an epoch")?));
    let broadcaster = match byte(body, "a clock's offset")? {
        0 => None,
        _ => Some(ClockOffset { micros: signed(body)?, uncertainty: varint(body)? }),
    };
    let count = bounded(body, "number of timed units", MAX_UNITS as u64)?;
    let mut units = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let (track, dts) = (track(byte(body, "a track")?), timestamp(body)?);
        let mask = varint(body)?;
        let mut stamps = StageTimes::default();
        for stage in reported_stages().filter(|stage| mask & 1 << *stage as u64 != 0) {
            stamps.stamp(stage, after(signed(body)?));
        }
        units.push(UnitTiming { track, dts, stamps });
    }
    Ok(TimingReport { received, answered, epoch, broadcaster, units })
}

/// The stages up to the server. The index of a stage is its bit in the mask.
fn reported_stages() -> impl Iterator<Item = Stage> + Clone {
    Stage::ALL.into_iter().filter(|stage| *stage < Stage::Requested)
}

#[cfg(test)]
mod tests {
    use media::TrackId;
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_report()(
            received in -4_000_000_000_000_000i64..4_000_000_000_000_000,
            took in 0..1_000_000i64,
            epoch: u64,
            offset in prop::option::of((-4_000_000_000_000i64..4_000_000_000_000, 0..1_000_000u64)),
            units in prop::collection::vec((-1_000_000..1_000_000_000i64, prop::collection::vec((0..7usize, -60_000_000..60_000_000i64), 0..7)), 0..=MAX_UNITS),
        ) -> TimingReport {
            let at = |micros| WallClock::from_micros(received + micros);
            let units = units.into_iter().map(|(dts, stages)| {
                let mut stamps = StageTimes::default();
                stages.into_iter().for_each(|(stage, micros)| stamps.stamp(Stage::ALL[stage], at(micros)));
                UnitTiming { track: TrackId::VIDEO, dts: Timestamp::from_millis(dts), stamps }
            });
            TimingReport {
                received: at(0),
                answered: at(took),
                epoch: Epoch(epoch),
                broadcaster: offset.map(|(micros, uncertainty)| ClockOffset { micros, uncertainty }),
                units: units.collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn a_report_round_trips(response in any_report()) {
            let mut bytes = BytesMut::new();
            put_response(&mut bytes, &response);
            prop_assert!((bytes.len() as u64) < super::super::MAX_MESSAGE - 16);
            let mut body = bytes.freeze();
            prop_assert_eq!(super::response(&mut body).unwrap(), response);
            prop_assert!(body.is_empty());
        }

        #[test]
        fn a_truncated_report_is_an_error_and_arbitrary_bytes_do_not_panic(response in any_report(), cut: usize, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut whole = BytesMut::new();
            put_response(&mut whole, &response);
            let cut = cut % whole.len();
            prop_assert!(super::response(&mut whole.freeze().slice(..cut)).is_err());
            let _ = super::response(&mut Bytes::from(bytes));
        }
    }
}
