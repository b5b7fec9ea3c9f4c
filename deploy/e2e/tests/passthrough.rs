//! Bit-exact passthrough: each access unit that a viewer receives by RTMP and HLS is the one that the broadcaster sent, with the same timestamps and
//! SHA-256, and none is missing in between.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Cdn, ClipSpec, NumberedClip, TIMEOUT, TestEnv, Unit, Viewer, compare_to_the_end};

/// One kind of stream.
struct Case {
    name: &'static str,
    file: &'static str,
    encoders: &'static [&'static str],
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
    },
    Case {
        name: "AV1 and Opus",
        file: "av1.mp4",
        encoders: &["-c:v", "libsvtav1", "-preset", "12", "-g", "50", "-c:a", "libopus"],
    },
    Case {
        name: "VP9 and FLAC",
        file: "vp9.mkv",
        encoders: &["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "50", "-c:a", "flac"],
    },
    Case {
        name: "H.264 alone",
        file: "video.mp4",
        encoders: &["-c:v", "libx264", "-preset", "ultrafast", "-g", "50", "-an"],
    },
    Case { name: "AAC alone", file: "audio.mp4", encoders: &["-vn", "-c:a", "aac", "-t", "12"] },
];

/// One of several concurrent streams, watched by both protocols.
struct StreamRun {
    broadcaster: Broadcaster,
    rtmp: Viewer,
    hls: Option<HlsRun>,
}

/// A viewer by HLS.
struct HlsRun {
    viewer: Viewer,
    /// Milliseconds of media that the playlist listed once the viewer had read it: the viewer joined no later.
    listed: i64,
}

impl StreamRun {
    /// Starts a viewer by RTMP, and then a broadcaster with `options`.
    fn start(env: &TestEnv, cdn: &Cdn, name: &str, key: &str, options: &[&str]) -> Result<Self> {
        let rtmp = Viewer::start(env, &cdn.rtmp_url(name), &[])?;
        Ok(Self { rtmp, broadcaster: Broadcaster::start(env, &cdn.publish_url(key), options)?, hls: None })
    }

    fn watch_by_hls(&mut self, env: &TestEnv, cdn: &Cdn, name: &str) -> Result<()> {
        let first = cdn.wait_segment(name)?;
        let mut viewer = Viewer::start(env, &cdn.hls_url(name), &[])?;
        viewer.process.line(TIMEOUT, "that it has a playlist", |line| line.contains(r#""message":"connected""#))?;
        let now = cdn.get(&format!("/{name}/media.m3u8"))?.text();
        let begins =
            |text: &str| text.lines().find(|line| line.starts_with("#EXT-X-MEDIA-SEQUENCE")).map(str::to_owned);
        ensure!(begins(&first) == begins(&now), "segments have left the playlist: {now}");
        self.hls = Some(HlsRun { viewer, listed: listed(&now)? });
        Ok(())
    }

    /// Waits for the end; returns the units sent, and the number received by RTMP for each track.
    fn finish(&mut self) -> Result<(Vec<Unit>, BTreeMap<String, usize>)> {
        self.broadcaster.process.success(TIMEOUT)?;
        let left = self.broadcaster.units()?;
        self.rtmp.wait_end(TIMEOUT)?;
        self.rtmp.finish()?;
        let by_rtmp = compare_to_the_end(&left, &self.rtmp.units()?).context("by RTMP")?;
        Ok((left, by_rtmp))
    }
}

#[test]
fn a_live_encoder_without_and_with_b_frames() -> Result<()> {
    let env = TestEnv::new()?;
    let names = ["0", "2"];
    let keys = names.iter().map(|name| Cdn::key(&env, name)).collect::<Result<Vec<_>>>()?;
    let cdn = Cdn::start(&env, &[])?;
    let mut runs = Vec::new();
    for (bframes, key) in names.iter().zip(&keys) {
        let options = [&Broadcaster::SMALL[..], &["--bframes", bframes, "--duration", "14"]].concat();
        runs.push(StreamRun::start(&env, &cdn, bframes, key, &options)?);
    }
    for (name, run) in names.iter().zip(&mut runs) {
        run.watch_by_hls(&env, &cdn, name)?;
    }
    for (bframes, run) in names.iter().zip(&mut runs) {
        let (left, counts) = run.finish()?;
        let reordered = left.iter().filter(|unit| unit.track == "v0" && unit.pts != unit.dts).count();
        ensure!((reordered > 0) == (*bframes != "0"), "{reordered} access units with PTS != DTS at {bframes} B-frames");
        ensure!(counts["v0"] > 350 && counts["a0"] > 500, "too few by RTMP: {counts:?}");
        whole_by_hls(run.hls.as_mut().context("a viewer by HLS")?, &left)?;
    }
    Ok(())
}

#[test]
fn files_of_every_codec_pass_untouched() -> Result<()> {
    let env = TestEnv::new()?;
    let mut sources = Vec::new();
    for case in CASES {
        let sound = !case.encoders.contains(&"-an");
        let source =
            ClipSpec { width: 320, height: 180, count: 300, encoders: case.encoders, sound, ..ClipSpec::default() };
        let file = NumberedClip::encode(&env, case.file, source)?;
        sources.push((Cdn::key(&env, case.stream())?, format!("file:{}", file.path.display())));
    }
    let cdn = Cdn::start(&env, &[])?;
    let mut runs = Vec::new();
    for (case, (key, path)) in CASES.iter().zip(&sources) {
        runs.push(StreamRun::start(&env, &cdn, case.stream(), key, &["--source", path, "--encoder", "copy"])?);
    }
    let mut faults = Vec::new();
    for (case, run) in CASES.iter().zip(&mut runs) {
        faults.extend(run.watch_by_hls(&env, &cdn, case.stream()).err().map(|fault| case.fault(&fault)));
    }
    for (case, mut run) in CASES.iter().zip(runs) {
        match case.passes(&mut run) {
            Ok(counts) => eprintln!("{}: {counts}", case.name),
            Err(fault) => faults.push(case.fault(&fault)),
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

impl Case {
    /// The stream name.
    fn stream(&self) -> &str {
        self.file.split_once('.').map_or(self.file, |(stem, _)| stem)
    }

    fn fault(&self, fault: &anyhow::Error) -> String {
        format!("{}: {fault:#}", self.name)
    }

    fn passes(&self, run: &mut StreamRun) -> Result<String> {
        let (left, by_rtmp) = run.finish()?;
        let total: usize = by_rtmp.values().sum();
        ensure!(total == left.len(), "{total} of {} access units were received by RTMP", left.len());
        let by_hls = whole_by_hls(run.hls.as_mut().context("it could not be watched by HLS")?, &left)?;
        ensure!(by_hls.keys().eq(by_rtmp.keys()), "HLS carries {by_hls:?}");
        Ok(format!("{by_rtmp:?} by RTMP, {by_hls:?} by HLS"))
    }
}

/// Fails unless an HLS viewer, which ends with the playlist, received everything from its first segment on. Returns the number of units by track.
fn whole_by_hls(hls: &mut HlsRun, left: &[Unit]) -> Result<BTreeMap<String, usize>> {
    hls.viewer.process.success(TIMEOUT)?;
    let came = hls.viewer.units()?;
    let counts = compare_to_the_end(left, &came).context("by HLS")?;
    // It joins at the start of a segment with all tracks: only older units are missing. An audio unit lasts 85 ms at most.
    let first = |track: &String| came.iter().find(|unit| unit.track == *track).map(|unit| unit.dts);
    let starts: Vec<i64> = counts.keys().filter_map(first).collect();
    let joined = starts.iter().copied().min().context("no track")?;
    ensure!(starts.iter().all(|start| start - joined < 100), "the tracks start at different times: {starts:?} ms");
    let older = left.iter().filter(|unit| unit.dts < joined).count();
    let total: usize = counts.values().sum();
    let lacking = left.len() - total;
    // The track that starts later lacks a few units between the two starts.
    ensure!(
        lacking <= older + 5,
        "{lacking} of {} units are missing, and only {older} were sent before {joined} ms",
        left.len()
    );
    let begun = left.iter().map(|unit| unit.dts).min().context("nothing was sent")?;
    ensure!(
        joined - begun < hls.listed,
        "it joined {} ms after the start, and {} were listed",
        joined - begun,
        hls.listed
    );
    Ok(counts)
}

/// The duration of all that a media playlist lists, in milliseconds: its segments, and the parts of the one in progress.
fn listed(playlist: &str) -> Result<i64> {
    let (mut segments, mut parts) = (0.0, 0.0);
    for line in playlist.lines() {
        if let Some(segment) = line.strip_prefix("#EXTINF:") {
            segments += segment.trim_end_matches(',').parse::<f64>()?;
            parts = 0.0;
        } else if let Some(part) = line.strip_prefix("#EXT-X-PART:") {
            let duration = part.split(',').find_map(|attribute| attribute.strip_prefix("DURATION="));
            parts += duration.context("a part without a duration")?.parse::<f64>()?;
        }
    }
    Ok(((segments + parts) * 1000.0) as i64)
}
