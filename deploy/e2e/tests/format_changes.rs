//! Streams that change while they are on air: another picture size, and with it other parameter sets, on one connection.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Cdn, Lab, Marked, Source, Viewer, until};

#[test]
fn the_picture_size_changes_and_every_picture_of_both_is_decoded() -> Result<()> {
    let lab = Lab::new()?;
    let key = Cdn::key(&lab, "live")?;
    let large = Source { count: HALF, encoders: &["-c:v", "libx264", "-bf", "2", "-g", "50"], ..Source::default() };
    let small = Source {
        width: 320,
        height: 180,
        first: HALF,
        // After the other, with a picture's time between them.
        encoders: &["-c:v", "libx264", "-bf", "0", "-g", "50", "-output_ts_offset", "8.04"],
        ..large.clone()
    };
    let (large, small) = (Marked::encode(&lab, "large.flv", large)?, Marked::encode(&lab, "small.flv", small)?);
    // One file behind the other: the second begins with its own sequence headers, as an encoder's would that was set anew.
    let mut both = std::fs::read(&large.path)?;
    both.extend(std::fs::read(&small.path)?.get(FLV_HEADER..).context("no FLV")?);
    let joined = lab.path("both.flv");
    std::fs::write(&joined, both)?;

    let cdn = Cdn::start(&lab, &[])?;
    let mut rtmp = Viewer::start(&lab, &cdn.rtmp_url("live"), &[])?;
    let input = joined.to_str().context("a path")?;
    let url = cdn.publish_url(&key);
    let copy = ["-nostdin", "-loglevel", "warning", "-re", "-i", input, "-c", "copy", "-f", "flv", &url];
    let mut publisher = lab.run("publisher", "ffmpeg", copy)?;
    cdn.wait_segment("live")?;
    let mut hls = Viewer::start(&lab, &cdn.hls_url("live"), &[])?;
    until(PATIENCE, "the other size", || {
        let stream = cdn.stream("live")?;
        Ok(stream["tracks"].to_string().contains("180").then_some(()))
    })?;
    publisher.success(PATIENCE)?;
    let playlist = cdn.wait_segment("live")?;
    let count = |text: &str| playlist.matches(text).count();
    ensure!(
        count("#EXT-X-DISCONTINUITY\n") == 1 && count("#EXT-X-MAP:") == 2,
        "not one change of the decoder's configuration in the playlist: {playlist}"
    );

    rtmp.wait_end(PATIENCE)?;
    let summary = rtmp.finish()?;
    summary.unbroken(u64::from(2 * HALF))?;
    ensure!(summary.0["marker"]["first"] == 0, "by RTMP, it does not begin with the first: {}", summary.0);

    let summary = hls.summary(PATIENCE)?;
    summary.unbroken(u64::from(2 * HALF) - 100)?;
    ensure!(summary.0["marker"]["last"] == 2 * HALF - 1, "by HLS, it does not end with the last: {}", summary.0);
    ensure!(summary.0["codecs"].to_string().contains("320x180"), "the new size is not told: {}", summary.0);
    Ok(())
}

/// Pictures of each size: eight seconds, four segments.
const HALF: u32 = 200;
/// The header of an FLV file, and the size of the tag before the first (Adobe FLV 10.1 §E.2, §E.3).
const FLV_HEADER: usize = 13;
const PATIENCE: Duration = Duration::from_secs(40);
