//! Bit-exact passthrough: each access unit that the viewer gets, by RTMP and by HLS, is the one that left the broadcaster: the same
//! times, the same SHA-256, none missing in between.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Cdn, Lab, Marked, Source, Viewer, compare};

/// One kind of stream: what goes in, and which protocols carry it.
struct Case {
    name: &'static str,
    file: &'static str,
    encoders: &'static [&'static str],
    hls: bool,
}

const CASES: &[Case] = &[
    Case {
        name: "H.264 with B-frames and AAC",
        file: "h264.mp4",
        encoders: &[
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
            "-bf",
            "3",
            "-b_strategy",
            "0",
            "-g",
            "50",
            "-c:a",
            "aac",
        ],
        hls: true,
    },
    Case {
        name: "HEVC with B-frames and AAC",
        file: "hevc.mp4",
        encoders: &[
            "-c:v",
            "libx265",
            "-preset",
            "ultrafast",
            "-x265-params",
            "bframes=2:keyint=50:log-level=error",
            "-tag:v",
            "hvc1",
            "-c:a",
            "aac",
        ],
        hls: true,
    },
    Case {
        name: "AV1 and Opus",
        file: "av1.mp4",
        encoders: &["-c:v", "libsvtav1", "-preset", "12", "-g", "50", "-c:a", "libopus"],
        hls: true,
    },
    Case {
        name: "VP9 and FLAC",
        file: "vp9.mkv",
        encoders: &["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "50", "-c:a", "flac"],
        hls: true,
    },
    Case {
        name: "H.264 alone",
        file: "video.mp4",
        encoders: &["-c:v", "libx264", "-preset", "ultrafast", "-g", "50", "-an"],
        hls: true,
    },
    Case { name: "AAC alone", file: "audio.mp4", encoders: &["-vn", "-c:a", "aac", "-t", "12"], hls: true },
];

#[test]
fn a_live_encoder_without_and_with_b_frames() -> Result<()> {
    for bframes in ["0", "2"] {
        let lab = Lab::new()?;
        let key = Cdn::key(&lab, "live")?;
        let cdn = Cdn::start(&lab, &[])?;
        let mut options = Broadcaster::SMALL.to_vec();
        options.extend(["--bframes", bframes, "--seconds", "14"]);
        let mut rtmp = Viewer::start(&lab, &cdn.rtmp_url("live"), &[])?;
        let mut broadcaster = Broadcaster::start(&lab, &cdn.publish_url(&key), &options)?;
        cdn.wait_segment("live")?;
        let mut hls = Viewer::start(&lab, &cdn.hls_url("live"), &[])?;
        broadcaster.process.success(Duration::from_secs(40))?;
        let left = broadcaster.units()?;
        let reordered = left.iter().filter(|unit| unit.track == "v0" && unit.pts != unit.dts).count();
        ensure!(
            (reordered > 0) == (bframes != "0"),
            "{reordered} access units are shown later than decoded with {bframes} B-frames"
        );
        rtmp.wait_end(SOON)?;
        rtmp.finish()?;
        let counts = compare(&left, &rtmp.units()?).context("by RTMP")?;
        ensure!(counts["v0"] > 350 && counts["a0"] > 500, "too few by RTMP: {counts:?}");
        hls.finish()?;
        let counts = compare(&left, &hls.units()?).context("by HLS")?;
        ensure!(counts["v0"] > 120 && counts["a0"] > 180, "too few by HLS: {counts:?}");
    }
    Ok(())
}

#[test]
fn files_of_every_codec_pass_untouched() -> Result<()> {
    let mut faults = Vec::new();
    for case in CASES {
        let checked = file_passes(case);
        eprintln!("{}: {}", case.name, checked.as_deref().unwrap_or("FAILED"));
        faults.extend(checked.err().map(|fault| format!("{}: {fault:#}", case.name)));
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn file_passes(case: &Case) -> Result<String> {
    let lab = Lab::new()?;
    let key = Cdn::key(&lab, "live")?;
    let sound = !case.encoders.contains(&"-an");
    let source = Source { width: 320, height: 180, count: 300, encoders: case.encoders, sound, ..Source::default() };
    let file = Marked::encode(&lab, case.file, source)?;
    let cdn = Cdn::start(&lab, &[])?;
    let mut rtmp = Viewer::start(&lab, &cdn.rtmp_url("live"), &[])?;
    let path = format!("file:{}", file.path.display());
    let mut broadcaster = Broadcaster::start(&lab, &cdn.publish_url(&key), &["--source", &path, "--encoder", "copy"])?;
    let mut hls = None;
    if case.hls {
        cdn.wait_segment("live")?;
        hls = Some(Viewer::start(&lab, &cdn.hls_url("live"), &[])?);
    }
    broadcaster.process.success(Duration::from_secs(40))?;
    let left = broadcaster.units()?;
    rtmp.wait_end(SOON)?;
    rtmp.finish()?;
    let by_rtmp = compare(&left, &rtmp.units()?).context("by RTMP")?;
    let total: usize = by_rtmp.values().sum();
    ensure!(total == left.len(), "{total} of {} access units came by RTMP", left.len());
    let mut by_hls = Default::default();
    if let Some(hls) = &mut hls {
        hls.finish()?;
        by_hls = compare(&left, &hls.units()?).context("by HLS")?;
        ensure!(by_hls.keys().eq(by_rtmp.keys()), "HLS carries {by_hls:?}");
    }
    Ok(format!("{by_rtmp:?} by RTMP, {by_hls:?} by HLS"))
}

/// A stream stays open for 5 s after its publisher's goodbye.
const SOON: Duration = Duration::from_secs(20);
