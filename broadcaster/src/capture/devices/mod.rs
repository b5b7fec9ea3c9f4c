//! Lists cameras, screens and microphones, and selects one by name.

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
#[cfg(unix)]
mod x11_display;

use platform::HERE;

/// The capture devices of this machine; serialised, the output of `broadcaster devices --json`.
#[derive(Debug, Default, Serialize)]
pub struct Inventory {
    /// Cameras, by device number.
    pub cameras: Vec<Camera>,
    /// X displays; elsewhere the platform's default screen.
    pub screens: Vec<Screen>,
    /// Microphones and other audio sources, the default first.
    pub microphones: Vec<Microphone>,
}

/// A camera that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Camera {
    /// The device name for `--source webcam:…`.
    pub device: String,
    /// The name that its driver reports.
    pub name: String,
    /// Its capture modes; empty where they cannot be queried.
    pub modes: Vec<v4l2::Mode>,
}

/// A screen that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Screen {
    /// The display name for `--source screen:…`.
    pub display: String,
    /// Width and height in pixels; `None` if it cannot be opened.
    pub size: Option<(u32, u32)>,
}

/// An audio source that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Microphone {
    /// The device name for `--audio …`.
    pub device: String,
    /// The name that the system reports.
    pub name: String,
}

/// Why no device was selected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine has no device of this kind.
    #[error("no {0} found; see `broadcaster devices`")]
    None(&'static str),
    /// No device has this name.
    #[error("no {kind} `{wanted}` found; see `broadcaster devices`")]
    Unknown {
        /// The kind of device.
        kind: &'static str,
        /// The name, path or number that was asked for.
        wanted: String,
    },
    /// A Wayland session without X.
    #[error(
        "Wayland does not let programs capture the screen by themselves: capture through the graphics card (--source screen:kms, as root or with CAP_SYS_ADMIN), log in to an X11 session, or name the display of an XWayland or Xvfb server (--source screen:0)"
    )]
    Wayland,
    /// There is no X display.
    #[error(
        "this session has no display to capture: run it in the desktop session, or name a display, as in --source screen:0"
    )]
    NoDisplay,
    /// The X display does not answer.
    #[error("there is no display `{display}` here ({reason}); `broadcaster devices` lists the displays")]
    DisplayNotFound {
        /// The name of the display.
        display: String,
        /// The system's reason.
        reason: String,
    },
}

/// A camera or screen that was selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoDevice {
    /// Name for logs and messages.
    pub name: String,
    format: &'static str,
    url: String,
    /// A V4L2 card's name, by which the camera is found again under another device number.
    card: Option<String>,
}

/// A microphone that was selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioDevice {
    /// Name for logs and messages.
    pub name: String,
    format: &'static str,
    url: String,
}

impl Inventory {
    /// Lists all devices. Opens each X display briefly to learn its size.
    pub fn take() -> Self {
        let _quiet = FfmpegLogGuard::begin();
        Self { cameras: cameras(true), screens: screens(), microphones: microphones() }
    }
}

/// Selects a camera by path, number or (part of) its name; without `wanted`, the first one.
///
/// # Errors
/// [`Error::None`] or [`Error::Unknown`].
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
        // udev's links, such as /dev/v4l/by-id/…, and platforms where FFmpeg lists nothing.
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

/// Selects a screen by display name, or by `kms[:CARD]`; without `wanted`, the session's.
///
/// # Errors
/// [`Error::Wayland`], [`Error::NoDisplay`] or [`Error::DisplayNotFound`].
pub fn screen(wanted: Option<&str>) -> Result<VideoDevice, Error> {
    let env = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let screen = choose_screen(wanted, env("DISPLAY"), env("WAYLAND_DISPLAY"))?;
    #[cfg(unix)]
    if screen.format == "x11grab" {
        x11_display::connect(&screen.url)
            .map_err(|error| Error::DisplayNotFound { display: screen.url.clone(), reason: error.to_string() })?;
    }
    Ok(screen)
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
        // XWayland shows X11 clients each other, but not the screen.
        (None, _, Some(_)) => return Err(Error::Wayland),
        (None, Some(display), None) => display,
        (None, None, None) => return Err(Error::NoDisplay),
    };
    Ok(VideoDevice { name: format!("screen {url}"), format: HERE.screen, url, card: None })
}

/// Selects a microphone by `FORMAT:DEVICE`, or by a name in the default format; without `wanted`, the first one.
///
/// # Errors
/// [`Error::None`].
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
    // Names in the syntax of an ALSA plugin are ALSA's.
    let is_alsa = ["hw:", "plughw:", "sysdefault", "dsnoop:"].iter().any(|prefix| wanted.starts_with(prefix));
    let (format, url) = known.unwrap_or(match HERE.microphones {
        [.., last] if is_alsa => (last, wanted),
        [first, ..] => (first, wanted),
        [] => ("alsa", wanted),
    });
    AudioDevice { name: wanted.to_owned(), format, url: url.to_owned() }
}

impl VideoDevice {
    /// How to open it in the mode nearest to `size` and `fps`.
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
            // AVFoundation and DirectShow reject what is not a mode: request no more than the user did.
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
    /// Ways to open it, preferred first: not every sound card supports every rate and channel count.
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
        // Querying PulseAudio where it does not run would start it or block.
        if *format == "pulse" && !pulse_is_there() {
            continue;
        }
        if *format == "alsa" {
            found.extend(alsa_captures());
            continue;
        }
        let devices = listed(format, ffi::AVMediaType::AVMEDIA_TYPE_AUDIO).into_iter();
        // Monitors of outputs are sources too, but no microphones: they come last.
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

/// ALSA capture devices, from the kernel's list: `01-00: Loopback PCM : Loopback PCM : playback 8 : capture 8`.
fn alsa_captures() -> Vec<Microphone> {
    parse_alsa(&std::fs::read_to_string("/proc/asound/pcm").unwrap_or_default())
}

fn parse_alsa(list: &str) -> Vec<Microphone> {
    let microphone = |line: &str| {
        let mut fields = line.split(": ");
        let (card, device) = fields.next()?.split_once('-')?;
        let (card, device) = (card.trim().parse::<u32>().ok()?, device.trim().parse::<u32>().ok()?);
        let name = fields.next()?.trim().to_owned();
        // `plughw` converts to formats that the card does not support.
        line.contains("capture").then(|| Microphone { device: format!("alsa:plughw:{card},{device}"), name })
    };
    list.lines().filter_map(microphone).take(MAX_LISTED).collect()
}

/// Names and descriptions of the devices that FFmpeg lists for an input format.
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

/// Renders the inventory as text.
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
            line("      its driver reports no modes".into());
        }
    }
    if inventory.cameras.is_empty() {
        line("  none".into());
    }
    line("\nScreens (--source screen:DISPLAY):".into());
    for screen in &inventory.screens {
        let size = screen.size.map_or("cannot be opened".into(), |(width, height)| format!("{width}x{height}"));
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

/// The camera mode requested by default: a larger one costs every viewer bandwidth and is rarely needed.
const DEFAULT_SIZE: (u32, u32) = (1280, 720);
const DEFAULT_FPS: f64 = 30.0;
/// Bytes: 20 ms of 48 kHz stereo. FFmpeg's default is some seconds.
const PULSE_FRAGMENT: u32 = 3840;
/// Bounds the X displays that are opened to list them.
const MAX_SCREENS: usize = 16;
/// Bounds each list that the system returns.
const MAX_LISTED: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn cameras_are_selected_by_path_number_and_name() {
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
    fn the_screen_of_the_session_is_selected() {
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
    fn microphones_are_selected_by_name() {
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
    fn an_empty_inventory_lists_none() {
        assert_eq!(describe(&Inventory::default()).matches("  none\n").count(), 3);
    }
}
