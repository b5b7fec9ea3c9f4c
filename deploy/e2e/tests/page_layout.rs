//! What the pages look like and say: addresses, touch, embedding, readable text, valid lists.

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Browser, Cdn, PlayerPage, TIMEOUT, TestEnv, until};

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

#[test]
fn texts_are_readable_and_lists_are_valid() -> Result<()> {
    let env = TestEnv::new()?;
    let (cdn, _broadcaster, page) = watching(&env, "")?;
    until(TIMEOUT, "the statistics", || {
        let shown = page.browser.run("return document.getElementById('stat-latency').textContent.includes('±')")?;
        Ok((shown == true).then_some(()))
    })?;
    for path in ["live", "", "nobody"] {
        if path != "live" {
            page.browser.open(&format!("http://{}/{path}", cdn.http))?;
        }
        let checked = page.browser.run(CHECK_TEXTS)?;
        ensure!(checked["texts"].as_u64().is_some_and(|texts| texts > 2), "no text on /{path}: {checked}");
        ensure!(checked["faint"] == serde_json::json!([]), "contrast below 4.5 on /{path}: {checked}");
        ensure!(checked["lists"] == serde_json::json!([]), "invalid lists on /{path}: {checked}");
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

/// Finds texts whose contrast with the background is below 4.5 (WCAG 2.2 §1.4.3), where the background is one colour, and description
/// lists with other children than groups of terms and descriptions (HTML §4.4.9).
const CHECK_TEXTS: &str = "
    const parse = (colour) => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return { rgb: [r, g, b], a }; };
    const over = (top, below) => top.rgb.map((c, n) => c * top.a + below[n] * (1 - top.a));
    const luminance = (rgb) => rgb.map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
    const background = (element) => {
        if (element === document.documentElement) return parse(getComputedStyle(element).backgroundColor).rgb;
        const { backgroundColor, backgroundImage, position } = getComputedStyle(element), colour = parse(backgroundColor);
        if (colour.a === 1) return colour.rgb;
        if (element !== document.body && (backgroundImage !== 'none' || position === 'absolute')) return null;
        const below = background(element.parentElement);
        return below && over(colour, below);
    };
    let texts = 0;
    const faint = [];
    for (const element of document.body.querySelectorAll('*')) {
        const text = [...element.childNodes].filter((n) => n.nodeType === Node.TEXT_NODE).map((n) => n.data.trim()).join('');
        if (!text || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
        const below = background(element);
        if (!below) continue;
        texts++;
        const [light, dark] = [luminance(over(parse(getComputedStyle(element).color), below)), luminance(below)].sort((a, b) => b - a);
        const contrast = (light + 0.05) / (dark + 0.05);
        if (contrast < 4.5) faint.push([text, contrast]);
    }
    const lists = [...document.querySelectorAll('dl, dl > div')].filter((list) => [...list.children].some((child) =>
        !['DT', 'DD'].includes(child.tagName) && !(list.tagName === 'DL' && child.tagName === 'DIV')));
    return { texts, faint, lists: lists.map((list) => list.outerHTML.slice(0, 80)) };";
