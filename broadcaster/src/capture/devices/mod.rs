//! Which cameras, screens and microphones there are, and which one is meant by a name.

use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::path::Path;
use std::ptr;

use ffmpeg_next::ffi;
use serde::Serialize;

use super::input::{self, InputSpec};
use crate::log::FfmpegLogGuard;
use crate::shutdown::ShutdownSignal;

mod platform;
pub mod v4l2;

use platform::HERE;

/// What the machine can capture.
#[derive(Debug, Default, Serialize)]
pub struct Inventory {
    /// Cameras.
    pub cameras: Vec<Camera>,
    /// Screens.
    pub screens: Vec<Screen>,
    /// Microphones and other sources of sound.
    pub microphones: Vec<Microphone>,
}

/// A camera.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Camera {
    /// What `--source webcam:…` takes.
    pub device: String,
    /// What its maker calls it.
    pub name: String,
    /// How it delivers pictures; empty where that can not be asked.
    pub modes: Vec<v4l2::Mode>,
}

/// A screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Screen {
    /// What `--source screen:…` takes.
    pub display: String,
    /// Pixels, if it could be opened.
    pub size: Option<(u32, u32)>,
}

/// A source of sound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Microphone {
    /// What `--audio …` takes.
    pub device: String,
    /// What the system calls it.
    pub name: String,
}

/// Why there is no such device.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is none at all.
    #[error("there is no {0}; `broadcaster devices` lists what there is")]
    None(&'static str),
    /// There is none of this name.
    #[error("there is no {kind} `{wanted}`; `broadcaster devices` lists what there is")]
    Unknown {
        /// What was looked for.
        kind: &'static str,
        /// By what name.
        wanted: String,
    },
    /// A Wayland session without X.
    #[error(
        "this is a Wayland session, whose screen no program may read by itself: let this one read the graphics card (--source screen:kms, as root or with CAP_SYS_ADMIN), log in to an X11 session, or name the display of an XWayland or Xvfb server (--source screen:0)"
    )]
    Wayland,
    /// No session.
    #[error("there is no display: set DISPLAY, or name one with --source screen:0")]
    NoDisplay,
}

/// A camera or screen that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoDevice {
    /// For people.
    pub name: String,
    format: &'static str,
    url: String,
    /// A V4L2 card's name, by which it is found again under another number.
    card: Option<String>,
}

/// A microphone that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioDevice {
    /// For people.
    pub name: String,
    format: &'static str,
    url: String,
}

impl Inventory {
    /// Looks around.
    pub fn take() -> Self {
        let _quiet = FfmpegLogGuard::begin();
        Self { cameras: cameras(true), screens: screens(), microphones: microphones() }
    }
}

/// The camera meant by `wanted`: a path, a number or (part of) a name; the first if nothing is wanted.
pub fn camera(wanted: Option<&str>) -> Result<VideoDevice, Error> {
    let _quiet = FfmpegLogGuard::begin();
    choose_camera(&cameras(false), wanted)
}

fn choose_camera(cameras: &[Camera], wanted: Option<&str>) -> Result<VideoDevice, Error> {
    let found = match wanted {
        None => cameras.first(),
        Some(wanted) => {
            let path = wanted.parse::<u32>().map_or_else(|_| wanted.to_owned(), |number| format!("/dev/video{number}"));
            let named = |camera: &&Camera| camera.name.to_lowercase().contains(&wanted.to_lowercase());
            cameras.iter().find(|camera| camera.device == path).or_else(|| cameras.iter().find(named))
        }
    };
    let device = |url: &str, name: String, card| VideoDevice { name, format: HERE.camera, url: url.to_owned(), card };
    match (found, wanted) {
        (Some(camera), _) => {
            let name = format!("{} ({})", camera.name, camera.device);
            Ok(device(&camera.device, name, Some(camera.name.clone())))
        }
        // Links of udev, such as /dev/v4l/by-id/…, and platforms whose FFmpeg lists nothing.
        (None, Some(path)) if Path::new(path).exists() || HERE.camera != "v4l2" => {
            Ok(device(path, path.to_owned(), None))
        }
        (None, None) if HERE.camera == "avfoundation" => {
            Ok(device(HERE.default_camera, "the default camera".into(), None))
        }
        (None, None) => Err(Error::None("camera")),
        (None, Some(wanted)) => Err(Error::Unknown { kind: "camera", wanted: wanted.into() }),
    }
}

/// The screen meant by `wanted`, or the session's.
pub fn screen(wanted: Option<&str>) -> Result<VideoDevice, Error> {
    let env = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    choose_screen(wanted, env("DISPLAY"), env("WAYLAND_DISPLAY"))
}

fn choose_screen(wanted: Option<&str>, x11: Option<String>, wayland: Option<String>) -> Result<VideoDevice, Error> {
    let url = match (wanted, x11, wayland) {
        (Some(wanted), ..) if HERE.screen == "x11grab" && (wanted == "kms" || wanted.starts_with("kms:")) => {
            let card = wanted.strip_prefix("kms:").unwrap_or(KMS_CARD);
            return Ok(VideoDevice {
                name: format!("screen of {card}"),
                format: "kmsgrab",
                url: card.into(),
                card: None,
            });
        }
        (Some(wanted), ..) => wanted.to_owned(),
        (None, ..) if HERE.screen != "x11grab" => HERE.default_screen.to_owned(),
        // Through XWayland, X11 clients see each other but not the screen.
        (None, _, Some(_)) => return Err(Error::Wayland),
        (None, Some(display), None) => display,
        (None, None, None) => return Err(Error::NoDisplay),
    };
    Ok(VideoDevice { name: format!("screen {url}"), format: HERE.screen, url, card: None })
}

/// The microphone meant by `wanted`: `FORMAT:DEVICE`, or a name of the default format; the first if nothing is wanted.
pub fn microphone(wanted: Option<&str>) -> Result<AudioDevice, Error> {
    let _quiet = FfmpegLogGuard::begin();
    match wanted {
        Some(wanted) => Ok(named_microphone(wanted)),
        None => microphones().first().map(|first| named_microphone(&first.device)).ok_or(Error::None("microphone")),
    }
}

fn named_microphone(wanted: &str) -> AudioDevice {
    let known =
        HERE.microphones.iter().find_map(|format| Some((*format, wanted.strip_prefix(format)?.strip_prefix(':')?)));
    // What has an ALSA plugin's form is ALSA's.
    let is_alsa = ["hw:", "plughw:", "sysdefault", "dsnoop:"].iter().any(|prefix| wanted.starts_with(prefix));
    let (format, url) = known.unwrap_or(match HERE.microphones {
        [.., last] if is_alsa => (last, wanted),
        [first, ..] => (first, wanted),
        [] => ("alsa", wanted),
    });
    AudioDevice { name: wanted.to_owned(), format, url: url.to_owned() }
}

impl VideoDevice {
    /// How to open it so that what it delivers is nearest to what is wanted.
    pub(super) fn input_spec(&self, size: Option<(u32, u32)>, fps: Option<f64>) -> InputSpec {
        let mut options: Vec<(&'static str, String)> = Vec::new();
        let mut url = self.url.clone();
        match self.format {
            "v4l2" => {
                if let (false, Some(card)) = (Path::new(&url).exists(), &self.card) {
                    url = cameras(false)
                        .into_iter()
                        .find(|camera| camera.name == *card)
                        .map_or(url, |camera| camera.device);
                }
                let modes = v4l2::modes(&url);
                if let Some((mode, rate)) =
                    v4l2::nearest(&modes, size.unwrap_or(DEFAULT_SIZE), fps.unwrap_or(DEFAULT_FPS))
                {
                    options.push(("input_format", mode.format.to_owned()));
                    options.push(("video_size", format!("{}x{}", mode.width, mode.height)));
                    options.extend(rate.map(|rate| ("framerate", format!("{rate:.3}"))));
                }
            }
            "x11grab" | "gdigrab" => options.push(("framerate", fps.unwrap_or(DEFAULT_FPS).to_string())),
            "kmsgrab" => {
                options.push(("device", std::mem::replace(&mut url, "-".into())));
                options.push(("framerate", fps.unwrap_or(DEFAULT_FPS).to_string()));
            }
            // AVFoundation and DirectShow refuse what is not a mode: ask for no more than was asked of us.
            _ => {
                let fps = fps.or((self.format == "avfoundation").then_some(DEFAULT_FPS));
                options.extend(fps.map(|fps| ("framerate", fps.to_string())));
                options.extend(size.map(|(width, height)| ("video_size", format!("{width}x{height}"))));
                url = if url.contains('=') { url } else { format!("{}{url}", HERE.camera_prefix) };
            }
        }
        InputSpec { format: Some(self.format), url, options }
    }
}

impl AudioDevice {
    /// How to open it, what is best first: not every sound card delivers every rate and number of channels.
    pub(super) fn input_specs(&self) -> Vec<InputSpec> {
        let url = format!("{}{}", HERE.microphone_prefix, self.url);
        let spec = |url: &str, options| InputSpec { format: Some(self.format), url: url.to_owned(), options };
        if self.format != "alsa" {
            let options =
                if self.format == "pulse" { vec![("fragment_size", PULSE_FRAGMENT.to_string())] } else { Vec::new() };
            return vec![spec(&url, options)];
        }
        let options =
            |rate: u32, channels: u32| vec![("sample_rate", rate.to_string()), ("channels", channels.to_string())];
        [(48_000, 2), (48_000, 1), (44_100, 2), (44_100, 1), (8000, 1)]
            .into_iter()
            .map(|(rate, channels)| spec(&url, options(rate, channels)))
            .collect()
    }
}

fn cameras(with_modes: bool) -> Vec<Camera> {
    if HERE.camera == "v4l2" {
        let camera = |(device, name): (String, String)| {
            let modes = if with_modes { v4l2::modes(&device) } else { Vec::new() };
            Camera { device, name, modes }
        };
        return v4l2::cameras().into_iter().map(camera).collect();
    }
    let camera = |(device, name): (String, String)| Camera { device, name, modes: Vec::new() };
    listed(HERE.camera, ffi::AVMediaType::AVMEDIA_TYPE_VIDEO).into_iter().map(camera).collect()
}

fn screens() -> Vec<Screen> {
    if HERE.screen != "x11grab" {
        return vec![Screen { display: HERE.default_screen.into(), size: None }];
    }
    let mut displays: Vec<String> = std::fs::read_dir("/tmp/.X11-unix")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some(format!(":{}", entry.file_name().to_str()?.strip_prefix('X')?)))
        .collect();
    if let Some(session) = std::env::var("DISPLAY").ok().filter(|d| !d.is_empty() && !displays.contains(d)) {
        displays.push(session);
    }
    displays.sort();
    displays.truncate(MAX_SCREENS);
    let screen = |display: String| {
        let spec = InputSpec { format: Some(HERE.screen), url: display.clone(), options: Vec::new() };
        let opened = input::open(&spec, &ShutdownSignal::default()).ok();
        let size = opened.and_then(|input| {
            let (_, parameters, _) = input::best(&input, ffmpeg_next::media::Type::Video)?;
            let decoder = input::video_decoder(parameters).ok()?;
            Some((decoder.width(), decoder.height()))
        });
        Screen { display, size }
    };
    displays.into_iter().map(screen).collect()
}

fn microphones() -> Vec<Microphone> {
    let mut found = Vec::new();
    for format in HERE.microphones {
        // Asking PulseAudio where there is none would start one, or wait.
        if *format == "pulse" && !pulse_is_there() {
            continue;
        }
        if *format == "alsa" {
            found.extend(alsa_captures());
            continue;
        }
        let devices = listed(format, ffi::AVMediaType::AVMEDIA_TYPE_AUDIO).into_iter();
        // What a loudspeaker plays is a source too, but no microphone: it goes last.
        let (monitors, inputs): (Vec<_>, Vec<_>) = devices.partition(|(device, _)| device.ends_with(".monitor"));
        let microphone = |(device, name): (String, String)| Microphone { device: format!("{format}:{device}"), name };
        found.extend(inputs.into_iter().chain(monitors).map(microphone));
    }
    found
}

fn pulse_is_there() -> bool {
    let runtime = std::env::var("XDG_RUNTIME_DIR").unwrap_or_default();
    std::env::var_os("PULSE_SERVER").is_some()
        || (!runtime.is_empty() && Path::new(&runtime).join("pulse/native").exists())
        || Path::new("/var/run/pulse/native").exists()
}

/// Sound cards that capture, from the kernel's list: `01-00: Loopback PCM : Loopback PCM : playback 8 : capture 8`.
fn alsa_captures() -> Vec<Microphone> {
    parse_alsa(&std::fs::read_to_string("/proc/asound/pcm").unwrap_or_default())
}

fn parse_alsa(list: &str) -> Vec<Microphone> {
    let microphone = |line: &str| {
        let mut fields = line.split(": ");
        let (card, device) = fields.next()?.split_once('-')?;
        let (card, device) = (card.trim().parse::<u32>().ok()?, device.trim().parse::<u32>().ok()?);
        let name = fields.next()?.trim().to_owned();
        // `plughw` converts what the card can not deliver itself.
        line.contains("capture").then(|| Microphone { device: format!("alsa:plughw:{card},{device}"), name })
    };
    list.lines().filter_map(microphone).take(MAX_LISTED).collect()
}

/// What FFmpeg lists for one of its input formats: names and descriptions.
fn listed(format: &str, kind: ffi::AVMediaType) -> Vec<(String, String)> {
    let Ok(format) = CString::new(format) else { return Vec::new() };
    let mut found = Vec::new();
    // SAFETY: the list is FFmpeg's, read within its bounds and freed here; its strings are NUL-terminated.
    unsafe {
        let input = ffi::av_find_input_format(format.as_ptr());
        let mut list = ptr::null_mut();
        if input.is_null()
            || ffi::avdevice_list_input_sources(input.cast_mut(), ptr::null(), ptr::null_mut(), &mut list) < 0
        {
            return found;
        }
        for n in 0..usize::try_from((*list).nb_devices).unwrap_or(0).min(MAX_LISTED) {
            let device = *(*list).devices.add(n);
            let kinds = match (*device).nb_media_types {
                0 => &[][..],
                count => std::slice::from_raw_parts((*device).media_types, count as usize),
            };
            if kinds.is_empty() || kinds.contains(&kind) {
                let text = |text: *const _| CStr::from_ptr(text).to_string_lossy().into_owned();
                found.push((text((*device).device_name), text((*device).device_description)));
            }
        }
        ffi::avdevice_free_list_devices(&mut list);
    }
    found
}

/// The list for people.
pub fn describe(inventory: &Inventory) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        let _ = writeln!(text, "{words}");
    };
    line("Cameras (--source webcam:DEVICE):".into());
    for camera in &inventory.cameras {
        line(format!("  {}  {}", camera.device, camera.name));
        for mode in &camera.modes {
            line(format!("      {mode}"));
        }
        if camera.modes.is_empty() {
            line("      its driver does not tell its modes".into());
        }
    }
    if inventory.cameras.is_empty() {
        line("  none".into());
    }
    line("\nScreens (--source screen:DISPLAY):".into());
    for screen in &inventory.screens {
        let size = screen.size.map_or("can not be opened".into(), |(width, height)| format!("{width}x{height}"));
        line(format!("  {}  {size}", screen.display));
    }
    if inventory.screens.is_empty() {
        line("  none".into());
    }
    line("\nMicrophones (--audio DEVICE):".into());
    for microphone in &inventory.microphones {
        line(format!("  {}  {}", microphone.device, microphone.name));
    }
    if inventory.microphones.is_empty() {
        line("  none".into());
    }
    text
}

/// The first graphics card.
const KMS_CARD: &str = "/dev/dri/card0";

/// What cameras are asked for unless told otherwise: more is seldom watched, and costs every viewer.
const DEFAULT_SIZE: (u32, u32) = (1280, 720);
const DEFAULT_FPS: f64 = 30.0;
/// Bytes: 20 ms of 48 kHz stereo. FFmpeg's own choice is some seconds.
const PULSE_FRAGMENT: u32 = 3840;
/// Bounds what is opened to list it.
const MAX_SCREENS: usize = 16;
/// Bounds every list that a system gives.
const MAX_LISTED: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn cameras_by_path_number_and_name() {
        let camera = |device: &str, name: &str| Camera { device: device.into(), name: name.into(), modes: Vec::new() };
        let cameras = [camera("/dev/video0", "Integrated Camera"), camera("/dev/video2", "vivid")];
        for (wanted, expected) in [
            (None, Ok("/dev/video0")),
            (Some("/dev/video2"), Ok("/dev/video2")),
            (Some("2"), Ok("/dev/video2")),
            (Some("VIVID"), Ok("/dev/video2")),
            (Some("/dev/null"), Ok("/dev/null")),
            (Some("7"), Err(Error::Unknown { kind: "camera", wanted: "7".into() })),
        ] {
            let chosen = choose_camera(&cameras, wanted).map(|device| device.url);
            assert_eq!(chosen.as_deref().map_err(|e| e.to_string()), expected.map_err(|e| e.to_string()), "{wanted:?}");
        }
        assert_eq!(choose_camera(&[], None), Err(Error::None("camera")));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn screens_of_the_session() {
        let chosen = |wanted, x11: Option<&str>, wayland: Option<&str>| {
            choose_screen(wanted, x11.map(str::to_owned), wayland.map(str::to_owned)).map(|device| device.url)
        };
        assert_eq!(chosen(None, Some(":1"), None), Ok(":1".into()));
        assert_eq!(chosen(Some(":9"), None, Some("wayland-0")), Ok(":9".into()));
        assert_eq!(chosen(None, Some(":0"), Some("wayland-0")), Err(Error::Wayland));
        assert_eq!(chosen(None, None, None), Err(Error::NoDisplay));
        assert_eq!(chosen(Some("kms"), None, Some("wayland-0")), Ok(KMS_CARD.into()));
        assert_eq!(chosen(Some("kms:/dev/dri/card1"), None, None), Ok("/dev/dri/card1".into()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn microphones_by_name() {
        for (wanted, format, url) in [
            ("alsa:plughw:1,0", "alsa", "plughw:1,0"),
            ("plughw:1,0", "alsa", "plughw:1,0"),
            ("pulse:alsa_input.usb", "pulse", "alsa_input.usb"),
            ("default", "pulse", "default"),
        ] {
            let device = named_microphone(wanted);
            assert_eq!((device.format, device.url.as_str()), (format, url), "{wanted}");
        }
        let list = "00-00: HDMI 0 : HDMI 0 : playback 1\n01-00: Loopback PCM : Loopback PCM : playback 8 : capture 8\nnonsense\n";
        assert_eq!(parse_alsa(list), [Microphone { device: "alsa:plughw:1,0".into(), name: "Loopback PCM".into() }]);
    }

    #[test]
    fn an_empty_machine_says_so() {
        assert_eq!(describe(&Inventory::default()).matches("  none\n").count(), 3);
    }
}
