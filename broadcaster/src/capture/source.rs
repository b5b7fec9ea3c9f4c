//! Sources as the command line names them. Pure.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The video source, as `--source` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A webcam if the machine has one, or else the test pattern.
    Auto,
    /// A camera: the first, or the one with this path, number or name.
    Webcam(Option<String>),
    /// A screen: the session's, the X display with this name, or with `kms[:CARD]` the graphics card's output.
    Screen(Option<String>),
    /// A media file, played in real time.
    File(PathBuf),
    /// A moving test pattern.
    Test,
}

/// The audio source, as `--audio` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audio {
    /// By source: the file's own audio, a tone with the test pattern, or else a microphone if the machine has one.
    Auto,
    /// A device as `broadcaster devices` lists it: `alsa:hw:1,0`, `pulse:NAME`, or a bare name.
    Device(String),
    /// A tone that beeps once a second.
    Tone,
    /// No audio track.
    None,
}

/// Why a name denotes no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Unknown kind of source.
    #[error("`{0}` is not a source: auto, webcam[:DEVICE], screen[:DISPLAY], screen:kms[:CARD], file:PATH, test")]
    Unknown(String),
    /// Nothing after the colon.
    #[error("`{0}` has nothing after its colon")]
    Empty(String),
}

impl FromStr for Source {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (kind, which) = match text.split_once(':') {
            Some((_, "")) => return Err(ParseError::Empty(text.into())),
            Some((kind, which)) => (kind, Some(which.to_owned())),
            None => (text, None),
        };
        Ok(match (kind, which) {
            ("auto", None) => Self::Auto,
            ("test", None) => Self::Test,
            ("webcam" | "camera", which) => Self::Webcam(which),
            // `screen::0` and `screen:0` both mean the display `:0`.
            ("screen", which) => Self::Screen(which.map(|w| match w.contains(':') || w == "kms" {
                true => w,
                false => format!(":{w}"),
            })),
            ("file", Some(path)) => Self::File(path.into()),
            _ => return Err(ParseError::Unknown(text.into())),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Webcam(None) => f.write_str("webcam"),
            Self::Webcam(Some(device)) => write!(f, "webcam:{device}"),
            Self::Screen(None) => f.write_str("screen"),
            Self::Screen(Some(display)) => write!(f, "screen:{display}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Test => f.write_str("test"),
        }
    }
}

impl FromStr for Audio {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Ok(match text {
            "" => return Err(ParseError::Empty(text.into())),
            "auto" => Self::Auto,
            "tone" => Self::Tone,
            "none" => Self::None,
            device => Self::Device(device.strip_prefix("device:").unwrap_or(device).to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn video_sources_are_parsed() {
        let unknown = |text: &str| Err(ParseError::Unknown(text.into()));
        for (text, expected) in [
            ("auto", Ok(Source::Auto)),
            ("test", Ok(Source::Test)),
            ("webcam", Ok(Source::Webcam(None))),
            ("webcam:/dev/video2", Ok(Source::Webcam(Some("/dev/video2".into())))),
            ("webcam:USB Camera: front", Ok(Source::Webcam(Some("USB Camera: front".into())))),
            ("screen", Ok(Source::Screen(None))),
            ("screen:0", Ok(Source::Screen(Some(":0".into())))),
            ("screen:kms", Ok(Source::Screen(Some("kms".into())))),
            ("screen:kms:/dev/dri/card1", Ok(Source::Screen(Some("kms:/dev/dri/card1".into())))),
            ("screen::99.0+10,20", Ok(Source::Screen(Some(":99.0+10,20".into())))),
            ("file:a:b.mp4", Ok(Source::File("a:b.mp4".into()))),
            ("file:", Err(ParseError::Empty("file:".into()))),
            ("file", unknown("file")),
            ("test:1", unknown("test:1")),
            ("movie.mp4", unknown("movie.mp4")),
            ("", unknown("")),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn audio_sources_are_parsed() {
        for (text, expected) in [
            ("auto", Audio::Auto),
            ("none", Audio::None),
            ("tone", Audio::Tone),
            ("alsa:hw:1,0", Audio::Device("alsa:hw:1,0".into())),
            ("device:default", Audio::Device("default".into())),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        assert!("".parse::<Audio>().is_err());
    }
}
