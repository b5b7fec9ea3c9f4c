//! The viewer's window on an X11 screen: it shows the broadcast frames, and its keys work.

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Cdn, Screen, Screenshot, TIMEOUT, TestEnv, Viewer, until};
use serde_json::Value;

#[test]
fn the_window_shows_pictures_and_handles_keys() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let screen = Screen::start(&env, 1024, 768)?;
    let _manager = screen.manage(&env)?;
    let _broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    let mut viewer = Viewer::start_on(&env, &screen, &cdn.rtmp_url("live"), &["--overlay"])?;
    viewer.wait_pictures(30, TIMEOUT)?;
    let window = screen.window("Nearcast")?;
    let shot = |name: &str, what: &str, wanted: &dyn Fn(&Screenshot) -> bool| {
        until(TIMEOUT, what, || Ok(screen.shot(&env, &window, name)?.filter(wanted)))
    };

    // The statistics overlay hides the frame number, which is visible without it.
    let covered = shot("overlay", "a window as large as the picture", &|s| (s.width, s.height) == (640, 360))?;
    ensure!(covered.frame_number().is_none(), "the overlay does not cover the frame number");
    screen.press("i")?;
    let first = shot("picture", "the mark on the screen", &|s| s.frame_number().is_some())?;
    let later = shot("later", "another picture on the screen", &|s| {
        s.frame_number().is_some_and(|m| Some(m) > first.frame_number())
    })?;
    ensure!((later.width, later.height) == (640, 360), "the window changed its size");

    // The help is light text on a dark panel in the middle.
    screen.press("question")?;
    let middle = |s: &Screenshot| s.extremes(0.4..0.6, 0.4..0.6);
    shot("help", "the help", &|s| (middle(s) - middle(&first)).abs() > 0.2)?;
    screen.press("question")?;
    shot("no-help", "the help to go", &|s| (middle(s) - middle(&first)).abs() < 0.1)?;

    screen.press("f")?;
    shot("full", "full screen", &|s| (s.width, s.height) == (1024, 768))?;
    screen.press("f")?;
    shot("window", "the window again", &|s| s.width == 640 && s.frame_number().is_some())?;

    screen.press("q")?;
    let summary = viewer.summary(TIMEOUT)?;
    ensure!(summary.0["marker"]["repeats"] == 0, "frames were presented twice: {}", summary.0);
    ensure!(summary.0["audio_frames"].as_u64() > Some(50), "no audio was played: {}", summary.0);
    Ok(())
}

#[test]
fn a_viewer_with_a_duration_ends_by_itself() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let screen = Screen::start(&env, 1024, 768)?;
    let _broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    let options = ["--no-skip", "--overlay", "--duration", "5"];
    let mut viewer = Viewer::start_on(&env, &screen, &cdn.page_url("live"), &options)?;
    let summary = viewer.summary(TIMEOUT)?;
    let said = &summary.0;
    let count = |said: &Value, name: &str| said[name].as_u64().with_context(|| format!("no {name}: {said}"));
    let [first, last, gaps, repeats] = ["first", "last", "gaps", "repeats"].map(|name| count(&said["marker"], name));
    let (first, last, gaps) = (first?, last?, gaps?);
    let passed = last - first + 1;
    // On a loaded machine the window drops late frames and counts them.
    let left_out = count(said, "frames_late")? + count(said, "frames_skipped")?;
    ensure!(repeats? == 0 && gaps <= left_out, "frames are missing or repeated: {said}");
    ensure!(passed == summary.pictures() + gaps, "{first} to {last} is not the number of frames: {said}");
    // Five seconds, unless the picture froze.
    ensure!(passed >= 145 || passed >= 50 && count(said, "stalls")? > 0, "{passed} frames in five seconds: {said}");
    Ok(())
}
