//! The hub's cost per subscriber: from publishing a video frame and its audio until every cursor has read them.

use std::time::{Duration, Instant};

use cdn::hub::{Hub, HubSettings, PublisherInfo};
use media::live_window::Bounds;
use media::{Catalog, Cursor, Epoch};

use crate::load;

pub(crate) fn run() {
    println!("{:<18} {:>11} {:>14} {:>17}", "hub", "subscribers", "ns/subscriber", "ns/unit published");
    for subscribers in [0, 1, 100, 500, 2000] {
        let window = Bounds { duration: Duration::from_secs(30), bytes: 64 << 20 };
        let hub = Hub::new(HubSettings { window, grace: Duration::ZERO, grace_after_unpublish: Duration::ZERO });
        let stream = hub.open("live");
        let publishing = stream.publish(PublisherInfo::default());
        let mut catalog = Catalog::new(Epoch(1));
        catalog.set_track(load::video_track());
        catalog.set_track(load::audio_track());
        let catalog = catalog.into();
        let mut cursors = vec![Cursor::at(0); subscribers];
        let (mut publish, mut read, mut units) = (Duration::ZERO, Duration::ZERO, 0u32);
        for n in 0..TICKS {
            let at = Duration::from_millis(u64::from(n) * 33);
            let (picture, sound) = (load::picture(at, n % 60 == 0), load::sound(at));
            let start = Instant::now();
            publishing.push(&catalog, picture, None);
            publishing.push(&catalog, sound, None);
            publish += start.elapsed();
            units += 2;
            let start = Instant::now();
            for cursor in &mut cursors {
                assert_eq!(stream.read(cursor, usize::MAX).entries.len(), 2);
            }
            read += start.elapsed();
        }
        let each = read.as_nanos() as f64 / f64::from(TICKS) / subscribers.max(1) as f64;
        let unit = publish.as_nanos() as f64 / f64::from(units);
        println!("{:<18} {subscribers:>11} {each:>14.0} {unit:>17.0}", "publish to cursor");
    }
}

/// Number of video frames, each with an audio unit.
const TICKS: u32 = 1000;
