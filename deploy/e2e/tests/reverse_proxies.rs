//! The server behind nginx and Caddy with the configurations of `deploy/proxy`: page, list of streams, API, HLS and our viewer below a path.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Broadcaster, Cdn, PlayerPage, ReverseProxy, TIMEOUT, TestEnv, Viewer, get, until};
use serde_json::Value;

#[test]
fn everything_works_below_a_path_of_nginx() -> Result<()> {
    everything_works(ReverseProxy::nginx)
}

#[test]
fn everything_works_below_a_path_of_caddy() -> Result<()> {
    everything_works(ReverseProxy::caddy)
}

fn everything_works(start: impl Fn(&TestEnv, &Cdn) -> Result<ReverseProxy>) -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let mut proxy = start(&env, &cdn)?;
    let mut broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_segment("live")?;

    // A path without its last slash, as people type it.
    let answer = get(proxy.address, "/stream")?;
    let location = answer.header("location").unwrap_or_default();
    ensure!(answer.status == 301 && location.ends_with("/stream/"), "{} to {location:?}", answer.status);

    // The API names the URLs that this client can use.
    let base = proxy.url("live");
    let answer = get(proxy.address, "/stream/api/v1/streams/live")?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    let urls = serde_json::from_slice::<Value>(&answer.body)?["urls"].clone();
    ensure!(urls["page"] == base.as_str(), "{urls}");
    ensure!(urls["hls"] == format!("{base}/index.m3u8").as_str(), "{urls}");
    let direct = cdn.stream("live")?["urls"]["page"].clone();
    ensure!(direct == cdn.page_url("live").as_str(), "without the proxy: {direct}");

    // HLS: the playlists refer to each other and to their segments by relative URLs.
    let playlist = get(proxy.address, "/stream/live/media.m3u8")?;
    ensure!(playlist.status == 200, "{}", playlist.status);
    let segment =
        playlist.text().lines().rfind(|line| line.ends_with(".m4s") && !line.starts_with('#')).map(str::to_owned);
    let segment = segment.unwrap_or_default();
    let answer = get(proxy.address, &format!("/stream/live/{segment}"))?;
    ensure!(answer.status == 200 && answer.body.len() > 1000, "{segment}: {}", answer.status);

    // The viewer takes its transports from the API behind the proxy.
    for transport in ["auto", "ll-hls", "hls"] {
        let mut viewer = Viewer::start(&env, &base, &["--transport", transport])?;
        viewer.wait_pictures(30, TIMEOUT)?;
        viewer.finish()?;
    }

    // The page and its assets, and the list of streams with its links.
    let page = PlayerPage::open_url(&env, &base)?;
    page.wait_at_target(Duration::from_secs(90), "opening it behind a proxy")?;
    page.browser.open(&proxy.url(""))?;
    until(TIMEOUT, "the list to link to the stream", || {
        let link = page.browser.run("return document.querySelector('a.stream')?.href ?? ''")?;
        Ok((link == base.as_str()).then_some(()))
    })?;
    ensure!(proxy.running()?, "the proxy ended");
    broadcaster.stop()
}
