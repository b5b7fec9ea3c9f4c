//! The encoders to try, in order, and their options for live use. Pure.

use super::VideoSettings;

/// FFmpeg's names of the encoders that `auto` tries, hardware before software.
pub(super) const AUTO_ORDER: [&str; 8] =
    ["h264_nvenc", "h264_qsv", "h264_vaapi", "h264_videotoolbox", "h264_amf", "h264_v4l2m2m", "libx264", "libopenh264"];

/// Whether an encoder needs hardware. Opening such an encoder proves little until it has produced a frame.
pub(super) fn is_hardware(name: &str) -> bool {
    ["_nvenc", "_qsv", "_vaapi", "_videotoolbox", "_amf", "_v4l2m2m", "_mf", "_omx"].iter().any(|s| name.ends_with(s))
}

/// Whether an encoder produces an IDR on request. The others are given the keyframe interval as a frame count.
pub(super) fn supports_forced_idr(name: &str) -> bool {
    !matches!(name, "libsvtav1" | "librav1e" | "h264_v4l2m2m" | "hevc_v4l2m2m")
}

/// Whether an encoder supports `maxrate` together with the mean bitrate. SVT-AV1 1.4 does not open with both.
pub(super) fn supports_maxrate(name: &str) -> bool {
    name != "libsvtav1"
}

/// Whether FFmpeg can change the bitrate of an open encoder.
pub(super) fn supports_rate_change(name: &str) -> bool {
    matches!(name, "libx264" | "libx264rgb")
}

/// Private options for low delay: no look-ahead, no frames held in the encoder, IDRs on request.
pub(super) fn options(name: &str, settings: &VideoSettings) -> Vec<(&'static str, String)> {
    let mut options: Vec<(&'static str, String)> = Vec::new();
    let mut set = |key, value: &str| options.push((key, value.to_owned()));
    let preset = settings.preset.as_deref();
    match name {
        "libx264" | "libx264rgb" => {
            set("preset", preset.unwrap_or("veryfast"));
            set("tune", "zerolatency");
            set("forced-idr", "1");
            // IDRs are scheduled by time. The frame rate is nominal: x264 must not infer 1000 fps from the time base of 1 ms.
            set("x264-params", "scenecut=0:force-cfr=1");
            if settings.intra_refresh {
                set("intra-refresh", "1");
            }
        }
        "libx265" => {
            set("preset", preset.unwrap_or("veryfast"));
            set("tune", "zerolatency");
            set("forced-idr", "1");
            let refresh = if settings.intra_refresh { ":intra-refresh=1" } else { "" };
            set(
                "x265-params",
                &format!("scenecut=0:repeat-headers=0:bframes={}{refresh}:log-level=warning", settings.bframes),
            );
        }
        _ if name.ends_with("_nvenc") => {
            set("preset", preset.unwrap_or("p3"));
            set("tune", "ull");
            set("zerolatency", "1");
            set("delay", "0");
            set("forced-idr", "1");
            set("rc", "cbr");
            if settings.intra_refresh {
                set("intra-refresh", "1");
            }
        }
        _ if name.ends_with("_qsv") => {
            set("preset", preset.unwrap_or("veryfast"));
            set("async_depth", "1");
            set("forced_idr", "1");
            set("look_ahead", "0");
        }
        _ if name.ends_with("_vaapi") => {
            set("async_depth", "1");
            set("rc_mode", "CBR");
        }
        _ if name.ends_with("_videotoolbox") => {
            set("realtime", "1");
            set("allow_sw", "0");
        }
        _ if name.ends_with("_amf") => {
            set("usage", "ultralowlatency");
            set("rc", "cbr");
        }
        "libsvtav1" => set("preset", preset.unwrap_or("10")),
        "libvpx" | "libvpx-vp9" => {
            set("deadline", "realtime");
            set("cpu-used", preset.unwrap_or("8"));
            set("lag-in-frames", "0");
        }
        _ => {
            if let Some(preset) = preset {
                set("preset", preset);
            }
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::EncoderChoice;
    use super::*;

    fn settings(intra_refresh: bool, preset: Option<&str>) -> VideoSettings {
        VideoSettings {
            encoder: EncoderChoice::Auto,
            size: None,
            fps: None,
            bitrate: None,
            gop: Some(Duration::from_secs(2)),
            bframes: 0,
            intra_refresh,
            preset: preset.map(str::to_owned),
            fixed_bitrate: false,
        }
    }

    #[test]
    fn software_encoders_are_tried_last() {
        let software = AUTO_ORDER.iter().position(|name| !is_hardware(name)).unwrap();
        assert!(AUTO_ORDER[software..].iter().all(|name| !is_hardware(name)));
        assert_eq!(AUTO_ORDER[software], "libx264");
    }

    #[test]
    fn options_request_low_delay() {
        let has =
            |name, s: &VideoSettings, key, value: &str| options(name, s).iter().any(|(k, v)| *k == key && v == value);
        let plain = settings(false, None);
        assert!(has("libx264", &plain, "tune", "zerolatency"));
        assert!(has("libx264", &plain, "preset", "veryfast"));
        assert!(!has("libx264", &plain, "intra-refresh", "1"));
        assert!(has("libx264", &settings(true, Some("slow")), "intra-refresh", "1"));
        assert!(has("libx264", &settings(true, Some("slow")), "preset", "slow"));
        assert!(has("hevc_nvenc", &plain, "zerolatency", "1"));
        assert!(has("h264_qsv", &plain, "async_depth", "1"));
        assert!(options("mpeg4", &plain).is_empty());
    }
}
