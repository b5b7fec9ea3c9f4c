//! The cost of segmenting: bytes per second through [`Segmenter`], as a ratio to copying the same bytes in the same run, and allocations per
//! access unit. `cargo bench -p nearcast-media --bench segmenter`.
#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::cmaf::{Segmenter, SegmenterConfig};
use media::codec::{Codec, CodecConfig, Format};
use media::live_window::{Bounds, Entry, LiveWindow};
use media::{AccessUnit, Catalog, Epoch, Timestamp, Track, TrackId, TrackOrder, WallClock};

/// Counts allocations and delegates to the system's allocator.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `alloc` took the memory from the system.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let entries = broadcast();
    let bytes: usize = entries.iter().map(|entry| entry.unit.payload.len()).sum();

    let mut target = vec![0u8; 1 << 20];
    let copying = fastest(|| {
        for entry in &entries {
            let payload = &entry.unit.payload;
            target[..payload.len()].copy_from_slice(payload);
            black_box(&mut target);
        }
    });
    let allocations = AtomicU64::new(0);
    let segmenting = fastest(|| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let mut segmenter = Segmenter::new(SegmenterConfig::default());
        for entry in &entries {
            segmenter.push(entry, WallClock::from_micros(0));
        }
        black_box(segmenter.window());
        allocations.store(ALLOCATIONS.load(Ordering::Relaxed) - before, Ordering::Relaxed);
    });

    let rate = |took: Duration| bytes as f64 / took.as_secs_f64() / 1e9;
    let per_unit = segmenting.as_nanos() as f64 / entries.len() as f64;
    let allocations = allocations.into_inner() as f64 / entries.len() as f64;
    println!(
        "{} access units, {:.1} MB: {MINUTES} min of {RATE} pictures a second at 6 Mbit/s, and sound",
        entries.len(),
        bytes as f64 / 1e6
    );
    println!("copying    {:6.1} GB/s", rate(copying));
    println!("segmenting  {:6.1} GB/s, {per_unit:.0} ns and {allocations:.2} allocations a unit", rate(segmenting));
    println!("ratio      {:6.2} of a copy", segmenting.as_secs_f64() / copying.as_secs_f64());
    let share = segmenting.as_secs_f64() / (MINUTES * 60) as f64;
    println!("one stream takes {:.4}% of a core", share * 100.0);
}

/// The fastest of several runs, which is least affected by other load.
fn fastest(mut run: impl FnMut()) -> Duration {
    let time = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..RUNS).map(|_| time(&mut run)).min().expect("there is at least one run")
}

/// 1080p30 at 6 Mbit/s with a 2 s GOP, and AAC at 160 kbit/s.
fn broadcast() -> Vec<Entry> {
    let mut catalog = Catalog::new(Epoch(1));
    catalog.clock = Some(WallClock::from_micros(0));
    let config =
        |codec, record: &'static [u8], format| CodecConfig { codec, record: Bytes::from_static(record), format };
    let video = config(Codec::H264, &[1, 0x64, 0, 0x28, 0xff, 0xe0, 0], Format::Video { width: 1920, height: 1080 });
    let sound = config(Codec::Aac, &[0x11, 0x90], Format::Audio { sample_rate: 48_000, channels: 2 });
    catalog.set_track(Track { id: TrackId::VIDEO, config: video });
    catalog.set_track(Track { id: TrackId::AUDIO, config: sound });
    let catalog = Arc::new(catalog);

    let mut units = Vec::new();
    let mut unit = |track, dts: u64, random_access, size: usize| {
        let dts = Timestamp::from_millis(dts as i64);
        let payload = Bytes::from(vec![dts.as_millis() as u8; size]);
        units.push(AccessUnit { epoch: Epoch(1), track, dts, pts: dts, random_access, payload });
    };
    for n in 0..MINUTES * 60 * RATE {
        let is_idr = n % (2 * RATE) == 0;
        unit(TrackId::VIDEO, n * 1000 / RATE, is_idr, if is_idr { 150_000 } else { 22_900 });
    }
    for n in 0..MINUTES * 60 * 48_000 / 1024 {
        unit(TrackId::AUDIO, n * 1024 / 48, true, 427);
    }
    units.sort_by_key(|unit| unit.dts);
    let mut window = LiveWindow::new(Bounds { duration: Duration::MAX, bytes: usize::MAX });
    let mut order = TrackOrder::default();
    let mut push = |unit| {
        let predecessor = order.follow(&unit);
        window.push(Arc::clone(&catalog), unit, predecessor).clone()
    };
    units.into_iter().map(&mut push).collect()
}

const RUNS: usize = 15;
const MINUTES: u64 = 2;
const RATE: u64 = 30;
