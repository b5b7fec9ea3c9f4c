//! The names of a recording's files, and its log. Whole recordings are tested in `tests/real_media.rs`.

use bytes::Bytes;
use media::Timestamp;
use media::codec::{Codec, CodecConfig};

use super::*;
use crate::captured_log::captured_log;

#[test]
fn the_next_file_has_a_number() {
    for (path, number, wanted) in
        [("talk.mp4", 1, "talk.mp4"), ("a/talk.mp4", 2, "a/talk-2.mp4"), ("x.y.mkv", 3, "x.y-3.mkv")]
    {
        assert_eq!(numbered(Path::new(path), number), Path::new(wanted));
    }
}

#[test]
fn a_broadcast_after_the_other_does_not_fill_the_log() {
    crate::ffmpeg::init().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.mkv");
    let (units, inbox) = sync_channel(1000);
    let config = CodecConfig::from_record(Codec::Aac, Bytes::from_static(&[0x12, 0x10])).unwrap();
    for epoch in 1..=200 {
        let mut catalog = Catalog::new(Epoch(epoch));
        catalog.set_track(Track { id: TrackId::AUDIO, config: config.clone() });
        let catalog = Arc::new(catalog);
        // The third unit of each is not after the second.
        for millis in [0, 20, 20] {
            let dts = Timestamp::from_millis(millis);
            let (track, payload) = (TrackId::AUDIO, Bytes::from_static(&[0x21, 0x10, 4, 0x60, 0x8c, 0x1c]));
            let unit = AccessUnit { epoch: Epoch(epoch), track, dts, pts: dts, random_access: true, payload };
            units.send((catalog.clone(), unit)).unwrap();
        }
    }
    drop(units);
    let first = FirstFile::open(&path).unwrap();
    let writer = Writer::new(Target::File(path, Container::Matroska), Some(first));
    let lines = captured_log(|| writer.run(&inbox).unwrap());
    let of = |text: &str| lines.iter().filter(|line| line.contains(text)).map(String::as_str).collect::<Vec<_>>();
    let (broadcasts, skipped) = (of("the recording continues"), of("skipped a unit"));
    assert!(broadcasts.len() == 2 && broadcasts[1].contains("broadcasts=198"), "{broadcasts:?}");
    assert!(skipped.len() == 2 && skipped[1].contains("skipped=199"), "{skipped:?}");
    assert!(lines.len() < 10, "{lines:?}");
}
