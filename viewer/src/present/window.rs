//! The window: presents pictures when they are due and plays audio, handles keys, and draws text over the picture.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use parking_lot::Mutex;
use sdl2::event::{Event, WindowEvent};
use sdl2::keyboard::Keycode;
use sdl2::mouse::MouseButton;
use sdl2::pixels::{Color, PixelFormatEnum};
use sdl2::rect::Rect;
use sdl2::render::{BlendMode, Canvas, Texture, TextureCreator};
use sdl2::video::{FullscreenType, Window, WindowContext, WindowPos};
use tracing::{info, warn};

use super::overlay::{self, Panel};
use super::sound::Card;
use crate::decode::DecodedFrame;
use crate::ffmpeg::{Colour, Matrix, Picture};
use crate::playback::sound::SoundQueue;
use crate::player_context::PlayerContext;
use crate::stats::LIVE;

/// How the window starts.
#[derive(Clone, Debug)]
pub struct WindowOptions {
    /// Text of the title bar.
    pub title: String,
    /// Whether it starts in full screen.
    pub fullscreen: bool,
    /// Volume in percent, 0 to 100.
    pub volume: u32,
    /// Whether it starts muted.
    pub muted: bool,
    /// Whether the statistics are shown from the start.
    pub statistics: bool,
}

/// SDL cannot open a window.
#[derive(Debug, thiserror::Error)]
#[error("cannot open a window: {0}. Without a display, use --headless")]
pub struct Error(String);

/// Shows pictures until the user closes the window, the pictures end, or `is_over` returns true.
///
/// # Errors
/// If there is no display, or SDL fails.
pub fn run(
    player: &Arc<PlayerContext>,
    pictures: &Receiver<DecodedFrame>,
    sound: Option<&Arc<Mutex<SoundQueue>>>,
    settings: &WindowOptions,
    is_over: impl Fn() -> bool,
) -> Result<(), Error> {
    // The application handles Ctrl-C: SDL would turn it into a window event.
    sdl2::hint::set("SDL_NO_SIGNAL_HANDLERS", "1");
    let sdl = sdl2::init().map_err(Error)?;
    let video = sdl.video().map_err(Error)?;
    let wanted = DRIVER_VARIABLES.iter().find_map(|variable| std::env::var(variable).ok());
    if shows_nothing(video.current_video_driver(), wanted.as_deref()) {
        return Err(Error(
            "there is no display: DISPLAY and WAYLAND_DISPLAY are not set, or nothing answers there".to_owned(),
        ));
    }
    video.disable_screen_saver();
    let mut builder = video.window(&settings.title, FIRST_SIZE.0, FIRST_SIZE.1);
    builder.position_centered().resizable().allow_highdpi();
    if settings.fullscreen {
        builder.fullscreen_desktop();
    }
    let window = builder.build().map_err(|error| Error(error.to_string()))?;
    let mut canvas = renderer(window)?;
    let textures = canvas.texture_creator();
    let mut card = None;
    if let Some(queue) = sound {
        card = sdl
            .audio()
            .and_then(|audio| Card::open(&audio, player, queue))
            .inspect_err(|error| warn!(error, "cannot open a sound card: playing without audio"))
            .ok();
    }
    if let Some(card) = &mut card {
        card.set_volume(settings.volume);
        card.set_muted(settings.muted);
    }
    let mut pump = sdl.event_pump().map_err(Error)?;
    let mut view = View {
        player,
        card,
        queue: VecDeque::new(),
        shown: None,
        help: false,
        statistics: settings.statistics,
        message: None,
        sized: settings.fullscreen,
        redraw: true,
        panel_at: Duration::ZERO,
        panels: Vec::new(),
    };
    let mut screen = Screen { canvas: &mut canvas, textures: &textures, picture: None, panels: Vec::new() };
    let mut ended = false;
    while !(player.is_stopping() || is_over() || ended && view.queue.is_empty()) {
        for event in pump.poll_iter() {
            if !view.event(&event, screen.canvas.window_mut()) {
                return Ok(());
            }
        }
        ended |= view.wait(pictures);
        view.step(&mut screen)?;
    }
    Ok(())
}

/// Whether SDL chose a driver that shows nothing, as it does where there is no display, and not because the user wants it.
fn shows_nothing(driver: &str, wanted: Option<&str>) -> bool {
    BLIND_DRIVERS.contains(&driver) && !wanted.is_some_and(|names| names.split(',').any(|name| name == driver))
}

/// SDL's video drivers without a display.
const BLIND_DRIVERS: [&str; 2] = ["offscreen", "dummy"];
/// The variables by which users choose SDL's video drivers, as a list with commas.
const DRIVER_VARIABLES: [&str; 2] = ["SDL_VIDEODRIVER", "SDL_VIDEO_DRIVER"];

/// Hardware acceleration where there is a GPU; SDL's own software renderer is faster than Mesa's emulation.
fn renderer(window: Window) -> Result<Canvas<Window>, Error> {
    let emulated = cfg!(target_os = "linux") && !std::path::Path::new("/dev/dri").exists();
    let builder = window.into_canvas();
    let builder = if emulated { builder.software() } else { builder.accelerated().present_vsync() };
    let canvas = builder.build().map_err(|error| Error(error.to_string()))?;
    info!(renderer = canvas.info().name, "window opened");
    Ok(canvas)
}

/// What the user sees and can change.
struct View<'a> {
    player: &'a Arc<PlayerContext>,
    card: Option<Card>,
    /// Decoded, not yet due.
    queue: VecDeque<DecodedFrame>,
    shown: Option<DecodedFrame>,
    help: bool,
    statistics: bool,
    /// Shown until then: the new volume and the like.
    message: Option<(String, Duration)>,
    /// Whether the window has the picture's size, or the user's.
    sized: bool,
    redraw: bool,
    panel_at: Duration,
    panels: Vec<(Panel, Corner)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Corner {
    TopLeft,
    Centre,
    Bottom,
}

impl View<'_> {
    /// Waits for the next picture or the next due time, whichever is first; `true` once there will be no more pictures.
    fn wait(&mut self, pictures: &Receiver<DecodedFrame>) -> bool {
        let now = self.player.clock.now();
        let due = self.queue.front().and_then(|ready| self.due(ready));
        let wait = due.map_or(TICK, |due| due.saturating_sub(now).min(TICK));
        if self.queue.len() >= MAX_DECODED {
            std::thread::sleep(wait);
            return false;
        }
        match pictures.recv_timeout(wait) {
            Ok(ready) => {
                self.queue.push_back(ready);
                while self.queue.len() < MAX_DECODED {
                    match pictures.try_recv() {
                        Ok(ready) => self.queue.push_back(ready),
                        Err(_) => break,
                    }
                }
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(wait);
                true
            }
        }
    }

    fn due(&self, ready: &DecodedFrame) -> Option<Duration> {
        self.player.playback.lock().due(ready.timeline, ready.picture.pts)
    }

    /// Shows the newest picture that is due; those before it are late.
    fn step(&mut self, screen: &mut Screen<'_>) -> Result<(), Error> {
        let now = self.player.clock.now();
        self.player.playback.lock().adjust(now);
        let is_paused = self.player.playback.lock().is_paused();
        let is_due = |view: &Self, ready: &DecodedFrame| match view.due(ready) {
            Some(due) => due <= now,
            // The timeline is over; or playback is paused.
            None => !is_paused,
        };
        let mut fresh = None;
        while self.queue.front().is_some_and(|ready| is_due(self, ready)) {
            let late: Option<DecodedFrame> = std::mem::replace(&mut fresh, self.queue.pop_front());
            let left_behind =
                |r: &DecodedFrame| self.player.playback.lock().is_skipped_over(now, r.timeline, r.picture.pts);
            // A picture that was skipped over, as when joining, was not meant to be shown.
            if late.is_some_and(|ready| !left_behind(&ready)) {
                self.player.stats.lock().late += 1;
            }
        }
        if let Some(ready) = &fresh {
            self.fit(screen.canvas.window_mut(), &ready.picture);
            screen.load(&ready.picture)?;
        }
        self.refresh_panels(now, screen)?;
        if fresh.is_some() || self.redraw {
            screen.draw(&self.panels)?;
            self.redraw = false;
        }
        if let Some(mut ready) = fresh {
            super::presented(self.player, &mut ready);
            self.shown = Some(ready);
        }
        Ok(())
    }

    /// The first picture sets the size of the window, unless it covers the screen.
    fn fit(&mut self, window: &mut Window, picture: &Picture) {
        if !std::mem::replace(&mut self.sized, true) {
            resize(window, picture, 1.0);
        }
    }

    fn refresh_panels(&mut self, now: Duration, screen: &mut Screen<'_>) -> Result<(), Error> {
        if now < self.panel_at && !self.redraw {
            return Ok(());
        }
        self.panel_at = now + PANEL_EVERY;
        self.message.take_if(|(_, until)| *until <= now);
        let size = screen.text_size();
        let mut panels = Vec::new();
        let (status, is_paused) = {
            let playback = self.player.playback.lock();
            (playback.status(), playback.is_paused())
        };
        let (line, codecs, switch) = {
            let mut stats = self.player.stats.lock();
            (stats.line(now, status), stats.codecs.clone(), stats.switches.last().cloned())
        };
        if self.statistics {
            panels.push((
                Panel::text(&overlay::statistics(&line, &codecs, &status, switch.as_ref(), &self.sound()), size),
                Corner::TopLeft,
            ));
        }
        if self.help {
            panels.push((Panel::text(&overlay::help(), size), Corner::Centre));
        }
        let message = self.message.as_ref().map(|(text, _)| text.clone());
        let message = message.or_else(|| is_paused.then(|| "paused: press Space to resume".to_owned()));
        let is_live = line.state == LIVE || line.state.is_empty() && self.shown.is_some();
        if let Some(text) = message.or_else(|| (!is_live).then(|| line.state.clone())) {
            panels.push((Panel::text(&[text], size), Corner::Bottom));
        }
        if panels != self.panels {
            screen.load_panels(&panels)?;
            self.panels = panels;
            self.redraw = true;
        }
        Ok(())
    }

    fn sound(&self) -> String {
        match &self.card {
            None => "no sound card".to_owned(),
            Some(card) if card.is_muted() => "muted".to_owned(),
            Some(card) => format!("volume {}%", card.volume()),
        }
    }

    /// `false` to quit.
    fn event(&mut self, event: &Event, window: &mut Window) -> bool {
        match event {
            Event::Quit { .. } => return false,
            Event::KeyDown { keycode: Some(key), repeat, .. } => return self.key(*key, *repeat, window),
            // `?` is on another key of each keyboard layout.
            Event::TextInput { text, .. } if text == "?" => self.toggle_help(),
            Event::MouseButtonDown { mouse_btn: MouseButton::Left, clicks: 2, .. } => toggle_fullscreen(window),
            Event::Window {
                win_event: WindowEvent::Resized(..) | WindowEvent::Exposed | WindowEvent::SizeChanged(..),
                ..
            } => {
                self.redraw = true;
            }
            _ => {}
        }
        true
    }

    fn key(&mut self, key: Keycode, repeat: bool, window: &mut Window) -> bool {
        let now = self.player.clock.now();
        match key {
            Keycode::Up => self.change_volume(now, 5),
            Keycode::Down => self.change_volume(now, -5),
            _ if repeat => {}
            Keycode::Q => return false,
            Keycode::Escape if window.fullscreen_state() != FullscreenType::Off => toggle_fullscreen(window),
            Keycode::Escape => return false,
            Keycode::F | Keycode::F11 => toggle_fullscreen(window),
            Keycode::H | Keycode::F1 => self.toggle_help(),
            Keycode::I => (self.statistics, self.redraw) = (!self.statistics, true),
            Keycode::M => {
                if let Some(card) = &mut self.card {
                    card.set_muted(!card.is_muted());
                }
                self.say(now, self.sound());
            }
            Keycode::Space => {
                let mut playback = self.player.playback.lock();
                let paused = !playback.is_paused();
                playback.pause(now, paused);
                drop(playback);
                self.player.notify();
                self.redraw = true;
            }
            Keycode::L => {
                self.player.playback.lock().jump_to_live_edge(now);
                self.player.notify();
                self.say(now, "jumped to the live edge".to_owned());
            }
            Keycode::NUM_1 | Keycode::NUM_2 => {
                let factor = if key == Keycode::NUM_1 { 1.0 } else { 2.0 };
                if let Some(shown) = &self.shown {
                    resize(window, &shown.picture, factor);
                }
            }
            _ => {}
        }
        true
    }

    fn toggle_help(&mut self) {
        (self.help, self.redraw) = (!self.help, true);
    }

    fn change_volume(&mut self, now: Duration, by: i32) {
        if let Some(card) = &mut self.card {
            card.set_volume(card.volume().saturating_add_signed(by));
            card.set_muted(false);
        }
        self.say(now, self.sound());
    }

    fn say(&mut self, now: Duration, text: String) {
        self.message = Some((text, now + MESSAGE));
        self.redraw = true;
    }
}

fn toggle_fullscreen(window: &mut Window) {
    let next = match window.fullscreen_state() {
        FullscreenType::Off => FullscreenType::Desktop,
        _ => FullscreenType::Off,
    };
    if let Err(error) = window.set_fullscreen(next) {
        warn!(error, "cannot change to full screen");
    }
}

fn resize(window: &mut Window, picture: &Picture, factor: f64) {
    let width = f64::from(picture.width()) * picture.sample_aspect() * factor;
    let height = f64::from(picture.height()) * factor;
    let bounds = window.display_index().and_then(|index| window.subsystem().display_bounds(index));
    let screen = bounds.map_or((width, height), |b| (f64::from(b.width()), f64::from(b.height())));
    // Nine tenths of the screen leave room for title bars and panels.
    let shrink = (screen.0 * 0.9 / width).min(screen.1 * 0.9 / height).min(1.0);
    let _ = window.set_size((width * shrink).round() as u32, (height * shrink).round() as u32);
    window.set_position(WindowPos::Centered, WindowPos::Centered);
}

/// The canvas and its textures.
struct Screen<'a> {
    canvas: &'a mut Canvas<Window>,
    textures: &'a TextureCreator<WindowContext>,
    picture: Option<Loaded<'a>>,
    panels: Vec<Texture<'a>>,
}

struct Loaded<'a> {
    texture: Texture<'a>,
    width: u32,
    height: u32,
    colour: Colour,
    /// Width over height of the displayed picture.
    aspect: f64,
}

impl Screen<'_> {
    fn load(&mut self, picture: &Picture) -> Result<(), Error> {
        let (width, height, colour) = (picture.width(), picture.height(), picture.colour);
        let fits = self.picture.as_ref().is_some_and(|l| (l.width, l.height, l.colour) == (width, height, colour));
        if !fits {
            set_conversion(colour);
            let made = self.textures.create_texture_streaming(PixelFormatEnum::IYUV, width, height);
            let texture = made.map_err(|error| Error(error.to_string()))?;
            self.picture = Some(Loaded { texture, width, height, colour, aspect: 1.0 });
        }
        let Some(loaded) = &mut self.picture else { return Ok(()) };
        loaded.aspect = f64::from(width) * picture.sample_aspect() / f64::from(height.max(1));
        let ((y, y_pitch), (u, u_pitch), (v, v_pitch)) = (picture.plane(0), picture.plane(1), picture.plane(2));
        loaded.texture.update_yuv(None, y, y_pitch, u, u_pitch, v, v_pitch).map_err(|error| Error(error.to_string()))
    }

    fn load_panels(&mut self, panels: &[(Panel, Corner)]) -> Result<(), Error> {
        self.panels.clear();
        for (panel, _) in panels {
            let (width, height) = (panel.width as u32, panel.height as u32);
            let made = self.textures.create_texture_static(PixelFormatEnum::RGBA32, width, height);
            let mut texture = made.map_err(|error| Error(error.to_string()))?;
            texture.set_blend_mode(BlendMode::Blend);
            texture.update(None, &panel.pixels, panel.width * 4).map_err(|error| Error(error.to_string()))?;
            self.panels.push(texture);
        }
        Ok(())
    }

    fn draw(&mut self, panels: &[(Panel, Corner)]) -> Result<(), Error> {
        let size = self.canvas.output_size().map_err(Error)?;
        self.canvas.set_draw_color(Color::BLACK);
        self.canvas.clear();
        if let Some(loaded) = &self.picture {
            self.canvas.copy(&loaded.texture, None, letterbox(size, loaded.aspect)).map_err(Error)?;
        }
        for ((panel, corner), texture) in panels.iter().zip(&self.panels) {
            self.canvas.copy(texture, None, place(size, panel, *corner)).map_err(Error)?;
        }
        self.canvas.present();
        Ok(())
    }

    /// Pixels from line to line: about a thirtieth of the window's height.
    fn text_size(&self) -> usize {
        let height = self.canvas.output_size().map_or(FIRST_SIZE.1, |(_, height)| height);
        height as usize / 30
    }
}

/// Sets the YCbCr coefficients of SDL textures that are created from now on.
fn set_conversion(colour: Colour) {
    use sdl2::sys::SDL_YUV_CONVERSION_MODE as Mode;
    let mode = match (colour.full_range, colour.matrix) {
        (true, _) => Mode::SDL_YUV_CONVERSION_JPEG,
        (false, Matrix::Bt601) => Mode::SDL_YUV_CONVERSION_BT601,
        (false, Matrix::Bt709) => Mode::SDL_YUV_CONVERSION_BT709,
    };
    // SAFETY: it sets a plain global of SDL, which is initialised; the window runs on one thread.
    unsafe { sdl2::sys::SDL_SetYUVConversionMode(mode) }
}

/// The largest rectangle of this aspect ratio, centred.
fn letterbox((width, height): (u32, u32), aspect: f64) -> Rect {
    let (w, h) = (f64::from(width), f64::from(height));
    let (pw, ph) = if w > h * aspect { (h * aspect, h) } else { (w, w / aspect.max(f64::MIN_POSITIVE)) };
    Rect::new(((w - pw) / 2.0) as i32, ((h - ph) / 2.0) as i32, pw.round().max(1.0) as u32, ph.round().max(1.0) as u32)
}

/// Where a panel goes: never larger than the window.
fn place((width, height): (u32, u32), panel: &Panel, corner: Corner) -> Rect {
    let (pw, ph) = (panel.width as f64, panel.height as f64);
    let margin = f64::from(height) / 40.0;
    let shrink = ((f64::from(width) - 2.0 * margin) / pw).min((f64::from(height) - 2.0 * margin) / ph).clamp(0.1, 1.0);
    let (pw, ph) = (pw * shrink, ph * shrink);
    let centre = (f64::from(width) - pw) / 2.0;
    let (x, y) = match corner {
        Corner::TopLeft => (margin, margin),
        Corner::Centre => (centre, (f64::from(height) - ph) / 2.0),
        Corner::Bottom => (centre, f64::from(height) - ph - margin),
    };
    Rect::new(x as i32, y as i32, pw.round().max(1.0) as u32, ph.round().max(1.0) as u32)
}

/// Pixels, before the first picture sets the size.
const FIRST_SIZE: (u32, u32) = (960, 540);
/// How often events are handled.
const TICK: Duration = Duration::from_millis(8);
/// How often the text over the picture is updated.
const PANEL_EVERY: Duration = Duration::from_millis(250);
/// How long a message is shown.
const MESSAGE: Duration = Duration::from_millis(1500);
/// Bounds the decoded pictures that wait here, in addition to those in the decoder's channel.
const MAX_DECODED: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_keeps_its_aspect_ratio() {
        for (window, aspect, (x, y, w, h)) in [
            ((1600, 900), 16.0 / 9.0, (0, 0, 1600, 900)),
            ((1600, 1200), 16.0 / 9.0, (0, 150, 1600, 900)),
            ((2000, 900), 16.0 / 9.0, (200, 0, 1600, 900)),
            ((900, 900), 9.0 / 16.0, (196, 0, 506, 900)),
        ] {
            assert_eq!(letterbox(window, aspect), Rect::new(x, y, w, h), "{window:?} {aspect}");
        }
    }

    #[test]
    fn a_driver_without_a_display_is_used_only_where_it_is_wanted() {
        for (driver, wanted, expected) in [
            ("x11", None, false),
            ("wayland", Some("wayland,x11"), false),
            ("offscreen", None, true),
            ("dummy", Some("x11"), true),
            ("dummy", Some("dummy"), false),
            ("offscreen", Some("x11,offscreen"), false),
        ] {
            assert_eq!(shows_nothing(driver, wanted), expected, "{driver} {wanted:?}");
        }
    }

    #[test]
    fn panels_stay_in_the_window() {
        let panel = Panel::text(&["x".repeat(100)], 40);
        for corner in [Corner::TopLeft, Corner::Centre, Corner::Bottom] {
            let rect = place((640, 360), &panel, corner);
            assert!(rect.left() >= 0 && rect.top() >= 0 && rect.right() <= 640 && rect.bottom() <= 360, "{rect:?}");
        }
    }
}
