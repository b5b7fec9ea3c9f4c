//! Streams whose format changes while they are live: another resolution, and with it other parameter sets, on one connection.

use anyhow::{Context, Result, ensure};
use e2e::{Cdn, ClipSpec, NumberedClip, TIMEOUT, TestEnv, Viewer, until};

#[test]
fn every_picture_is_decoded_across_a_resolution_change() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let large = ClipSpec { count: HALF, encoders: &["-c:v", "libx264", "-bf", "2", "-g", "50"], ..ClipSpec::default() };
    let small = ClipSpec {
        width: 320,
        height: 180,
        first: HALF,
        // After the other clip, with one frame interval between them.
        encoders: &["-c:v", "libx264", "-bf", "0", "-g", "50", "-output_ts_offset", "8.04"],
        ..large.clone()
    };
    let (large, small) =
        (NumberedClip::encode(&env, "large.flv", large)?, NumberedClip::encode(&env, "small.flv", small)?);
    // Concatenated files: the second begins with its own sequence headers, like a reconfigured encoder.
    let mut both = std::fs::read(&large.path)?;
    both.extend(std::fs::read(&small.path)?.get(FLV_HEADER..).context("no FLV")?);
    let joined = env.path("both.flv");
    std::fs::write(&joined, both)?;

    let cdn = Cdn::start(&env, &[])?;
    let mut rtmp = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
    let input = joined.to_str().context("a path")?;
    let url = cdn.publish_url(&key);
    let copy = ["-nostdin", "-loglevel", "warning", "-re", "-i", input, "-c", "copy", "-f", "flv", &url];
    let mut publisher = env.run("publisher", "ffmpeg", copy)?;
    cdn.wait_segment("live")?;
    let mut hls = Viewer::start(&env, &cdn.hls_url("live"), &[])?;
    until(TIMEOUT, "the other size", || {
        let stream = cdn.stream("live")?;
        Ok(stream["tracks"].to_string().contains("180").then_some(()))
    })?;
    publisher.success(TIMEOUT)?;
    let playlist = cdn.wait_segment("live")?;
    let count = |text: &str| playlist.matches(text).count();
    ensure!(
        count("#EXT-X-DISCONTINUITY\n") == 1 && count("#EXT-X-MAP:") == 2,
        "not one change of the decoder's configuration in the playlist: {playlist}"
    );

    rtmp.wait_end(TIMEOUT)?;
    let summary = rtmp.finish()?;
    summary.ensure_unbroken(u64::from(2 * HALF))?;
    ensure!(summary.0["marker"]["first"] == 0, "by RTMP, the first frame is missing: {}", summary.0);

    let summary = hls.summary(TIMEOUT)?;
    summary.ensure_unbroken(u64::from(2 * HALF) - 100)?;
    ensure!(summary.0["marker"]["last"] == 2 * HALF - 1, "by HLS, the last frame is missing: {}", summary.0);
    ensure!(summary.0["codecs"].to_string().contains("320x180"), "the new size is not reported: {}", summary.0);
    Ok(())
}

/// Frames of each size: eight seconds, four segments.
const HALF: u32 = 200;
/// The header of an FLV file, and the size of the tag before the first (Adobe FLV 10.1 §E.2, §E.3).
const FLV_HEADER: usize = 13;
