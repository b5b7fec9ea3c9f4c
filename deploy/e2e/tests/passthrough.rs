//! Bit-exact passthrough: each access unit that the viewer gets, by RTMP and by HLS, is the one that left the broadcaster: the same
//! times, the same SHA-256, none missing in between.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Cdn, Lab, Marked, Source, Unit, Viewer, compare, compare_to_the_end};

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
        let counts = compare_to_the_end(&left, &rtmp.units()?).context("by RTMP")?;
        ensure!(counts["v0"] > 350 && counts["a0"] > 500, "too few by RTMP: {counts:?}");
        whole_by_hls(&mut hls, &left)?;
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
        by_hls = whole_by_hls(hls, &left)?;
        ensure!(by_hls.keys().eq(by_rtmp.keys()), "HLS carries {by_hls:?}");
    }
    Ok(format!("{by_rtmp:?} by RTMP, {by_hls:?} by HLS"))
}

/// Demands that a viewer of HLS, which ends by itself at the playlist's end, got everything from the first segment that it joined on.
fn whole_by_hls(hls: &mut Viewer, left: &[Unit]) -> Result<BTreeMap<String, usize>> {
    hls.process.success(SOON)?;
    let came = hls.units()?;
    let counts = compare_to_the_end(left, &came).context("by HLS")?;
    // It joins at the start of a segment, in all tracks alike: what it lacks is older than that. A unit of sound lasts 85 ms at most.
    let first = |track: &String| came.iter().find(|unit| unit.track == *track).map(|unit| unit.dts);
    let starts: Vec<i64> = counts.keys().filter_map(first).collect();
    let joined = starts.iter().copied().min().context("no track")?;
    ensure!(starts.iter().all(|start| start - joined < 100), "the tracks start apart: {starts:?} ms");
    let older = left.iter().filter(|unit| unit.dts < joined).count();
    let total: usize = counts.values().sum();
    let lacking = left.len() - total;
    // Between the starts of two tracks there are a few units of the one that starts later.
    ensure!(lacking <= older + 5, "{lacking} of {} are lacking, and only {older} left before {joined} ms", left.len());
    // The newest segments of a stream that had only a few when the viewer came.
    ensure!(joined < 8_000, "it joined at {joined} ms, long after the first segment");
    Ok(counts)
}

/// A stream stays open for 5 s after its publisher's goodbye.
const SOON: Duration = Duration::from_secs(20);
