//! Puts groups back in order: each arrives on a stream of its own, in parallel with others. Pure.
//!
//! Within a track, all units of a group precede those of the next group; tracks do not wait for each other. A group that was reset, or whose
//! rest the server skipped, ends after its last received unit: the next unit states a predecessor that did not arrive.

use std::collections::{BTreeMap, VecDeque};

use media::{Epoch, Timestamp, TrackId};

use super::wire::{GroupHeader, ReceivedUnit};

/// Input from one group's stream.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupInput {
    /// Its next unit.
    Unit(ReceivedUnit),
    /// The stream ended: the group has no more units.
    Complete,
    /// The stream was reset: the rest of the group is lost.
    Reset,
}

/// Output in order.
#[derive(Clone, Debug, PartialEq)]
pub enum ReorderOutput {
    /// The next unit of its track.
    Unit(ReceivedUnit),
    /// Units of this track are missing before its next unit.
    Gap(TrackId),
}

/// The groups of one start.
#[derive(Debug, Default)]
pub struct Reassembly {
    generation: u32,
    tracks: BTreeMap<TrackId, Groups>,
    out: VecDeque<ReorderOutput>,
    /// What is queued behind an earlier group costs, in bytes.
    cost: usize,
}

#[derive(Debug, Default)]
struct Groups {
    /// The sequence of the group that is being output.
    current: u64,
    /// The last unit output, unless a gap was reported since.
    last: Option<(Epoch, Timestamp)>,
    waiting: BTreeMap<u64, VecDeque<GroupInput>>,
}

impl Reassembly {
    /// Drops everything and accepts groups of `generation` from now on.
    pub fn start(&mut self, generation: u32) {
        *self = Self { generation, ..Self::default() };
    }

    /// Takes input. Input of another generation, or of a group that has ended, is dropped.
    pub fn push(&mut self, group: GroupHeader, item: GroupInput) {
        let is_known = self.tracks.contains_key(&group.track) || self.tracks.len() < media::catalog::MAX_TRACKS;
        if group.generation != self.generation || !is_known {
            return;
        }
        let groups = self.tracks.entry(group.track).or_default();
        if group.sequence < groups.current {
            return;
        }
        self.cost += cost(&item);
        groups.waiting.entry(group.sequence).or_default().push_back(item);
        self.release(group.track);
        while self.cost > MAX_WAITING {
            // Give up on the groups that block others.
            let behind = self.tracks.iter().find(|(_, groups)| !groups.waiting.is_empty()).map(|(track, _)| *track);
            let Some(track) = behind else { break };
            self.skip(track);
        }
    }

    /// Gives up on the group that is being output, and on those after it of which nothing has arrived.
    fn skip(&mut self, track: TrackId) {
        let Some(groups) = self.tracks.get_mut(&track) else { return };
        match groups.waiting.first_key_value().map(|(sequence, _)| *sequence) {
            Some(next) if next > groups.current => {
                groups.current = next;
                groups.last = None;
                self.out.push_back(ReorderOutput::Gap(track));
            }
            _ => {
                self.cost += cost(&GroupInput::Reset);
                groups.waiting.entry(groups.current).or_default().push_back(GroupInput::Reset);
            }
        }
        self.release(track);
    }

    /// The next output.
    pub fn pop(&mut self) -> Option<ReorderOutput> {
        self.out.pop_front()
    }

    fn release(&mut self, track: TrackId) {
        let Some(groups) = self.tracks.get_mut(&track) else { return };
        while let Some(waiting) = groups.waiting.get_mut(&groups.current) {
            let mut is_over = false;
            while let Some(item) = waiting.pop_front() {
                self.cost -= cost(&item);
                match item {
                    GroupInput::Unit(unit) => {
                        // The server skipped units to keep up.
                        let is_gap =
                            |(epoch, last)| epoch == unit.unit.epoch && unit.predecessor_dts.is_some_and(|a| a > last);
                        if groups.last.replace((unit.unit.epoch, unit.unit.dts)).is_some_and(is_gap) {
                            self.out.push_back(ReorderOutput::Gap(track));
                        }
                        self.out.push_back(ReorderOutput::Unit(unit));
                    }
                    GroupInput::Complete => is_over = true,
                    GroupInput::Reset => {
                        is_over = true;
                        groups.last = None;
                        self.out.push_back(ReorderOutput::Gap(track));
                    }
                }
                if is_over {
                    break;
                }
            }
            if !is_over {
                return;
            }
            if let Some(rest) = groups.waiting.remove(&groups.current) {
                self.cost -= rest.iter().map(cost).sum::<usize>();
            }
            groups.current += 1;
        }
    }
}

/// What an input costs while it waits, in bytes: its payload, its place in the queue, and that of its group, which may have no other input.
fn cost(item: &GroupInput) -> usize {
    let payload = if let GroupInput::Unit(unit) = item { unit.unit.payload.len() } else { 0 };
    payload + INPUT_COST
}

/// What an input costs beside its payload, in bytes: the allocation of a queue for a few inputs, and an entry of the map of groups.
const INPUT_COST: usize = 1024;
/// Bounds the cost of what is queued behind an earlier group, in bytes: two seconds at 32 Mbit/s.
const MAX_WAITING: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use media::{AccessUnit, Catalog};

    use super::*;

    fn unit(track: TrackId, dts: i64, size: usize) -> GroupInput {
        let dts = Timestamp::from_millis(dts);
        let payload = Bytes::from(vec![0; size]);
        let unit = AccessUnit { epoch: Epoch(1), track, dts, pts: dts, random_access: true, payload };
        GroupInput::Unit(ReceivedUnit { catalog: Arc::new(Catalog::new(Epoch(1))), unit, predecessor_dts: None })
    }

    fn group(generation: u32, track: TrackId, sequence: u64) -> GroupHeader {
        GroupHeader { generation, track, sequence }
    }

    fn drain(reassembly: &mut Reassembly) -> Vec<String> {
        std::iter::from_fn(|| reassembly.pop())
            .map(|out| match out {
                ReorderOutput::Unit(unit) => format!("{}@{}", unit.unit.track, unit.unit.dts.as_millis()),
                ReorderOutput::Gap(track) => format!("gap {track}"),
            })
            .collect()
    }

    const V: TrackId = TrackId::VIDEO;
    const A: TrackId = TrackId::AUDIO;

    #[test]
    fn a_group_waits_for_its_predecessor_and_tracks_do_not_wait_for_each_other() {
        let mut r = Reassembly::default();
        r.start(1);
        r.push(group(1, V, 1), unit(V, 50, 1));
        r.push(group(1, A, 0), unit(A, 5, 1));
        r.push(group(1, V, 0), unit(V, 0, 1));
        assert_eq!(drain(&mut r), ["a0@5", "v0@0"]);
        r.push(group(1, V, 1), GroupInput::Complete);
        r.push(group(1, V, 0), unit(V, 10, 1));
        r.push(group(1, V, 0), GroupInput::Complete);
        r.push(group(1, V, 2), unit(V, 60, 1));
        assert_eq!(drain(&mut r), ["v0@10", "v0@50", "v0@60"]);
    }

    #[test]
    fn a_reset_group_is_a_gap_and_its_late_units_are_dropped() {
        let mut r = Reassembly::default();
        r.start(1);
        r.push(group(1, V, 1), unit(V, 50, 1));
        r.push(group(1, V, 0), GroupInput::Reset);
        r.push(group(1, V, 0), unit(V, 10, 1));
        assert_eq!(drain(&mut r), ["gap v0", "v0@50"]);
        r.start(2);
        r.push(group(1, V, 2), unit(V, 70, 1));
        r.push(group(2, V, 0), unit(V, 80, 1));
        assert_eq!(drain(&mut r), ["v0@80"]);
    }

    #[test]
    fn skipped_units_are_a_gap() {
        let mut r = Reassembly::default();
        r.start(1);
        for (sequence, dts, after) in [(0, 10, None), (0, 20, Some(10)), (1, 50, Some(40)), (1, 60, Some(50))] {
            let GroupInput::Unit(mut unit) = unit(V, dts, 1) else { unreachable!() };
            unit.predecessor_dts = after.map(Timestamp::from_millis);
            if sequence == 1 {
                r.push(group(1, V, 0), GroupInput::Complete);
            }
            r.push(group(1, V, sequence), GroupInput::Unit(unit));
        }
        assert_eq!(drain(&mut r), ["v0@10", "v0@20", "gap v0", "v0@50", "v0@60"]);
    }

    #[test]
    fn waiting_units_are_bounded() {
        let mut r = Reassembly::default();
        r.start(1);
        for n in 0..20 {
            r.push(group(1, V, 1), unit(V, n, 1 << 20));
        }
        assert!(r.cost <= MAX_WAITING);
        assert_eq!(drain(&mut r)[..2], ["gap v0", "v0@0"]);
    }

    #[test]
    fn groups_far_ahead_are_reached_at_once_and_bounded() {
        let mut r = Reassembly::default();
        r.start(1);
        for n in 0..100_000 {
            let item = if n % 2 == 0 { GroupInput::Reset } else { unit(V, n, 0) };
            r.push(group(1, V, (1 << 60) + n as u64 * 1000), item);
            assert!(r.cost <= MAX_WAITING);
            r.pop();
        }
        let left: usize = r.tracks.values().flat_map(|groups| groups.waiting.values()).flatten().map(cost).sum();
        assert_eq!(left, r.cost);
    }
}
