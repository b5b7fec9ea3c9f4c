//! What a peer can make a receiver hold, measured as allocated memory against the stated bound.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use media::live_window::{Bounds, LiveWindow};
use media::path_merge::{PathId, PathMerger, Predecessor};
use media::{AccessUnit, Catalog, Epoch, Timestamp, TrackId};
use net::relay::reassembly::{GroupInput, Reassembly};
use net::relay::wire::{GroupHeader, ReceivedUnit};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// A unit of `size` bytes that own their allocation, as one that was received.
fn unit(track: TrackId, dts: i64, size: usize) -> AccessUnit {
    let dts = Timestamp::from_millis(dts);
    let payload = Bytes::from(vec![0; size]);
    AccessUnit { epoch: Epoch(1), track, dts, pts: dts, random_access: true, payload }
}

/// Runs `flood`, and asserts that it never adds more than `bound` bytes.
fn assert_bounded(what: &str, bound: usize, flood: impl FnOnce()) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    flood();
    let peak = MEMORY.peak_usage().saturating_sub(before);
    assert!(peak <= bound, "{what}: {peak} bytes, and {bound} are allowed");
    assert!(peak >= bound / 20, "{what}: {peak} bytes: the flood does not reach the bound of {bound}");
}

/// One test, because other tests of the process would allocate at the same time.
#[test]
fn floods_of_tiny_units_stay_within_the_bounds() {
    let catalog = Arc::new(Catalog::new(Epoch(1)));

    let bytes = 8 << 20;
    assert_bounded("live window", bytes + (4 << 20), || {
        let mut window = LiveWindow::new(Bounds { duration: Duration::from_secs(30), bytes });
        for n in 0..200_000 {
            window.push(Arc::clone(&catalog), unit(TrackId::AUDIO, n / 100_000, 1), None);
        }
    });

    assert_bounded("groups out of order", 10 << 20, || {
        let mut reassembly = Reassembly::default();
        reassembly.start(1);
        for n in 0..400_000u64 {
            let group = GroupHeader { generation: 1, track: TrackId::VIDEO, sequence: 1 + n % 100_000 * 1_000_000 };
            let input = match n % 2 {
                0 => GroupInput::Reset,
                _ => GroupInput::Unit(ReceivedUnit {
                    catalog: Arc::clone(&catalog),
                    unit: unit(TrackId::VIDEO, n as i64, 0),
                    predecessor_dts: None,
                }),
            };
            reassembly.push(group, input);
            while reassembly.pop().is_some() {}
        }
    });

    assert_bounded("units that wait for another path", 24 << 20, || {
        let (mut merger, mut merged) = (PathMerger::new(), Vec::new());
        merger.open(PathId(1));
        merger.open(PathId(2));
        merger.push(PathId(1), &catalog, unit(TrackId::AUDIO, 0, 1), Predecessor::Unknown, &mut merged);
        for n in 0..80_000 {
            // Each says that another unit precedes it, which never arrives.
            let predecessor = Predecessor::Dts(Timestamp::from_millis(n * 2 + 9));
            merger.push(PathId(2), &catalog, unit(TrackId::AUDIO, n * 2 + 10, 1), predecessor, &mut merged);
            merged.clear();
        }
    });
}
