//! What a server reports by HTTP: whether it is a Nearcast server, and the state of the stream.

use std::time::Duration;

use reqwest::Client;
use tokio::time::Instant;

use super::target::{Server, shown};
use crate::api::{PlaybackInfo, StreamInfo, StreamList, StreamState, TrackInfo, keyframe_advice};
use crate::doctor::http;
use crate::doctor::probe::{as_millis, millis};
use crate::doctor::report::Check;
use crate::doctor::role::Role;

/// The answers of a server.
#[derive(Debug, Default)]
pub(super) struct ServerInfo {
    /// Whether it is a Nearcast server.
    pub(super) is_nearcast: bool,
    /// How to watch the stream, if the server knows it.
    pub(super) playback: Option<PlaybackInfo>,
    /// The RTMP URL of a stream, if the server states one.
    pub(super) rtmp: Option<String>,
    /// Whether the stream is live.
    pub(super) is_live: bool,
    pub(super) checks: Vec<Check>,
}

/// Queries the list of streams, and how to watch the named one.
pub(super) async fn ask(client: &Client, server: &Server, role: Role) -> ServerInfo {
    let started = Instant::now();
    let all = async {
        let url = server.origin.join("api/v1/streams").ok()?;
        let answer = http::get(client, url).await;
        Some((answer, started.elapsed()))
    };
    let playback = async {
        let url = server.origin.join(&format!("api/v1/streams/{}/watch", server.name.as_ref()?)).ok()?;
        http::get(client, url).await.ok()
    };
    let (Some((all, took)), playback) = tokio::join!(all, playback) else { return ServerInfo::default() };
    let at = shown(&server.origin);
    let streams = match all.map(|answer| (answer.status, answer.json())) {
        Ok((200, Some(StreamList { streams, .. }))) => streams,
        // A server of playlists need not have any other interface.
        _ if server.hls.is_some() => return ServerInfo::default(),
        _ if server.is_guess => return ServerInfo { checks: vec![guessed_wrong(&at, role)], ..ServerInfo::default() },
        Ok((status, _)) => {
            let found = format!("{at} answers ({status}), but is not a Nearcast server");
            let check = Check::fail("HTTP", found, "give the page of a Nearcast stream: http://HOST:8080/NAME");
            return ServerInfo { checks: vec![check], ..ServerInfo::default() };
        }
        Err(trouble) => {
            let port = server.origin.port_or_known_default().unwrap_or(0);
            let fix = trouble.fix("TCP", port, &format!("start the cdn there (cdn --http 0.0.0.0:{port})"));
            return ServerInfo { checks: vec![Check::fail("HTTP", trouble.found(&at), fix)], ..ServerInfo::default() };
        }
    };
    let http = Check::ok("HTTP", format!("{at} answers in {}", millis(took))).with("answer_ms", as_millis(took));
    let rtmp = streams.iter().find_map(|stream| stream.urls.rtmp.clone());
    let mut info = ServerInfo { is_nearcast: true, rtmp, checks: vec![http], ..ServerInfo::default() };
    if server.name.is_none() {
        return info;
    }
    info.playback = playback.filter(|answer| answer.status == 200).and_then(|answer| answer.json());
    let name = info.playback.as_ref().map(|playback| &playback.name);
    match streams.iter().find(|stream| Some(&stream.name) == name) {
        Some(description) => {
            let (check, is_live) = stream(description, role);
            info.checks.push(check);
            info.is_live = is_live;
        }
        None => {
            let fix = "check the spelling (the server's first page lists its streams), or create it on the server: cdn key new NAME";
            info.checks.push(Check::fail("stream", format!("{at} has no stream of this name"), fix));
        }
    }
    info
}

/// The state of the stream as a check, and whether it is live.
pub(super) fn stream(description: &StreamInfo, role: Role) -> (Check, bool) {
    let track = |TrackInfo { codec, width, height, .. }: &TrackInfo| match width.zip(*height) {
        Some((width, height)) => format!("{codec} {width}x{height}"),
        None => codec.clone(),
    };
    let tracks: Vec<String> = description.tracks.iter().take(MAX_TRACKS).map(track).collect();
    let start = match role {
        Role::Publisher => "start the broadcast and run doctor again, to run more checks",
        Role::Subscriber => "start the broadcast (a viewer waits for it) and run doctor again, to run more checks",
    };
    let back = "check that the broadcaster runs and reaches the server: broadcaster doctor URL";
    match description.state {
        StreamState::Live => {
            let live = format!("live: {}", tracks.join(", "));
            let interval = description.window.keyframe_interval.filter(|seconds| (0.0..MAX_INTERVAL).contains(seconds));
            let advice = interval.map(Duration::from_secs_f64).and_then(keyframe_advice);
            (
                advice.map_or_else(
                    || Check::ok("stream", live.clone()),
                    |advice| Check::warn("stream", live.clone(), advice),
                ),
                true,
            )
        }
        StreamState::Disconnected => {
            (Check::warn("stream", "the publisher is disconnected, and may reconnect within seconds", back), false)
        }
        StreamState::Ended | StreamState::Offline => (Check::warn("stream", "not live", start), false),
    }
}

fn guessed_wrong(at: &str, role: Role) -> Check {
    let program = if role == Role::Publisher { "broadcaster" } else { "viewer" };
    let found = format!("no Nearcast server at {at}, which is a guess: an rtmp:// URL has no HTTP address");
    let fix = format!("to run more checks, give the stream's page: {program} doctor http://HOST:PORT/NAME");
    Check::warn("HTTP", found, fix)
}

/// Bounds the interval that a server states, in seconds.
const MAX_INTERVAL: f64 = 86_400.0;
/// Bounds the tracks in a line of output.
const MAX_TRACKS: usize = 6;
