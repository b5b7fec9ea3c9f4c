//! What the pages look like and say: addresses, touch, embedding, readable text, valid lists.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::{Axe, Broadcaster, Browser, Cdn, PlayerPage, TIMEOUT, TestEnv, until};

#[test]
fn the_list_of_streams_says_where_to_publish() -> Result<()> {
    let env = TestEnv::new()?;
    Cdn::key(&env, "live")?;
    let browser = Browser::start(&env)?;
    let configuration = env.path("cdn.toml");
    std::fs::write(&configuration, "[rtmp]\napp = \"in\"\n")?;
    let configuration = configuration.to_str().context("a path")?;
    for (options, host, app) in [
        (vec![], "127.0.0.1", "live"),
        (vec!["--public-host", "tv.example", "--config", configuration], "tv.example", "in"),
    ] {
        let cdn = Cdn::start(&env, &options)?;
        browser.open(&format!("http://{}/", cdn.http))?;
        let shown = until(TIMEOUT, "the address to publish to", || {
            let text = browser
                .run("const p = document.getElementById('publish'); return p.checkVisibility() ? p.textContent : ''")?;
            Ok(text.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
        })?;
        ensure!(shown == format!("rtmp://{host}:{}/{app}", cdn.rtmp.port()), "the page says {shown}");
    }
    Ok(())
}

#[test]
fn a_tap_shows_the_controls_and_does_not_pause() -> Result<()> {
    let env = TestEnv::new()?;
    let (_cdn, _broadcaster, page) = watching(&env, "")?;
    let run = |script: &str| page.browser.run(script);
    run(RECORD_PAUSES)?;
    let hidden =
        || Ok::<_, anyhow::Error>(run("return document.getElementById('player').classList.contains('idle')")? == true);
    // On the picture, and on a button that is not visible: the controls are shown each time, and hide again.
    for place in ["video", "play"] {
        until(TIMEOUT, "the controls to hide", || Ok(hidden()?.then_some(())))?;
        page.browser.tap(place)?;
        ensure!(!hidden()?, "a tap at {place} does not show the controls");
        ensure!(run("return window.taps")? == 1, "the tap at {place} did not arrive");
        ensure!(run("return window.pauses")? == 0, "a tap at {place} pauses");
        run("window.taps = 0")?;
    }
    // The button is visible now.
    page.browser.tap("play")?;
    until(TIMEOUT, "the button to pause", || Ok((run("return window.pauses")? == 1).then_some(())))
}

#[test]
fn an_embedded_page_is_the_video_alone() -> Result<()> {
    let env = TestEnv::new()?;
    let (_cdn, _broadcaster, page) = watching(&env, "/?embed")?;
    let seen = page.browser.run(SEEN)?;
    ensure!(seen["video"] == seen["window"], "the video does not fill the window: {seen}");
    ensure!(seen["others"] == serde_json::json!([]), "also visible: {seen}");
    ensure!(seen["path"] == "/live?embed", "the slash at the end stayed: {seen}");
    Ok(())
}

/// Contrast, names, roles, lists and the rest of axe-core's rules.
#[test]
fn the_pages_break_no_rule_of_accessibility() -> Result<()> {
    let env = TestEnv::new()?;
    let Some(axe) = Axe::fetch(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("axe"))? else { return Ok(()) };
    let (cdn, _broadcaster, page) = watching(&env, "")?;
    until(TIMEOUT, "the statistics", || {
        let shown = page.browser.run("return document.getElementById('stat-latency').textContent.includes('±')")?;
        Ok((shown == true).then_some(()))
    })?;
    for path in ["live", "", "nobody", "live?embed"] {
        if path != "live" {
            page.browser.open(&format!("http://{}/{path}", cdn.http))?;
        }
        let violations = axe.violations(&page.browser)?;
        ensure!(violations.is_empty(), "/{path}: {violations:#?}");
    }
    Ok(())
}

/// A server, a broadcaster, and a page that plays its stream; `suffix` follows the name in the page's address.
fn watching(env: &TestEnv, suffix: &str) -> Result<(Cdn, Broadcaster, PlayerPage)> {
    let key = Cdn::key(env, "live")?;
    let cdn = Cdn::start(env, &[])?;
    let broadcaster = Broadcaster::start(env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_live("live")?;
    let page = PlayerPage::open(env, &cdn, &format!("live{suffix}"))?;
    page.wait_at_target(TIMEOUT, "the start")?;
    Ok((cdn, broadcaster, page))
}

/// Counts the taps that arrive and the pauses.
const RECORD_PAUSES: &str = "
    window.pauses = window.taps = 0;
    document.querySelector('video').addEventListener('pause', () => window.pauses++);
    addEventListener('click', () => window.taps++, true);";

/// The sizes of the video and the window, and what else is visible.
const SEEN: &str = "
    const box = document.querySelector('video').getBoundingClientRect();
    const others = [...document.querySelectorAll('header, footer, h1, dl, section.panel')].filter((e) => e.checkVisibility());
    return { video: [box.x, box.y, box.width, box.height], window: [0, 0, innerWidth, innerHeight],
             others: others.map((e) => e.className || e.localName), path: location.pathname + location.search };";
