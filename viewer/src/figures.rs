//! The text of figures in the status line, the overlay and the summary. The player page has the same rules: cdn/web/format.js.

use media::codec::{CodecConfig, Format};
use media::latency::LatencyComponent;

/// A time in milliseconds: `95 ms`, `2.31 s`, `12.3 s`, `120 s`.
pub(crate) fn time(ms: f64) -> String {
    let whole = ms.round();
    if whole.abs() < 1000.0 {
        // As an integer, since there is no negative zero.
        return format!("{} ms", whole as i64);
    }
    let seconds = ms / 1000.0;
    let (digits, scale) = match seconds.abs() {
        ..9.995 => (2, 100.0),
        ..99.95 => (1, 10.0),
        _ => (0, 1.0),
    };
    format!("{:.digits$} s", (seconds * scale).round() / scale)
}

/// An error bound in milliseconds, rounded up: rounded down it would not hold.
pub(crate) fn bound(ms: f64) -> String {
    let whole = ms.ceil();
    if whole < 1000.0 { time(whole) } else { time((ms / 100.0).ceil() * 100.0) }
}

/// A component of the latency, in milliseconds: `last mile 12 ms`.
pub(crate) fn component(part: LatencyComponent, ms: f64) -> String {
    format!("{} {}", part.name().replace('_', " "), time(ms))
}

/// `H.264 1280x720`, `AAC 48 kHz stereo`.
pub(crate) fn track(config: &CodecConfig) -> String {
    let codec = config.codec.name();
    match config.format {
        Format::Video { width: 0, .. } => codec.to_owned(),
        Format::Video { width, height } => format!("{codec} {width}x{height}"),
        Format::Audio { sample_rate, channels } => {
            let channels = match channels {
                1 => "mono".to_owned(),
                2 => "stereo".to_owned(),
                more => format!("{more} channels"),
            };
            format!("{codec} {} kHz {channels}", f64::from(sample_rate) / 1000.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use media::codec::Codec;
    use serde_json::Value;

    use super::*;

    #[test]
    fn figures_are_written_as_on_the_player_page() {
        // An end-to-end test compares the page's with the same file.
        let cases: Value = serde_json::from_str(include_str!("../../deploy/e2e/tests/figures.json")).unwrap();
        let check = |rule: &str, text: &dyn Fn(&Value) -> String| {
            for case in cases[rule].as_array().unwrap() {
                assert_eq!(text(&case[0]), case[1].as_str().unwrap(), "{rule} of {}", case[0]);
            }
        };
        check("time", &|seconds| time(seconds.as_f64().unwrap() * 1000.0));
        check("bound", &|seconds| bound(seconds.as_f64().unwrap() * 1000.0));
        check("track", &|info| {
            let number = |name: &str| info[name].as_u64().unwrap_or(0) as u32;
            let format = match info["kind"] == "video" {
                true => Format::Video { width: number("width"), height: number("height") },
                false => Format::Audio { sample_rate: number("sample_rate"), channels: number("channels") as u16 },
            };
            let codecs = [Codec::H264, Codec::Av1, Codec::Aac, Codec::Mp3, Codec::Opus];
            let codec = codecs.into_iter().find(|codec| info["codec"] == codec.name()).unwrap();
            track(&CodecConfig { codec, record: Bytes::new(), format })
        });
    }
}
