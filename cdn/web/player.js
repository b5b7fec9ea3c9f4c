// The page of one stream: its state by the API, the player, and the controls.

import { ServerClock } from "./clock.js";
import { STATES, bitrate, bound, count, time, track } from "./format.js";
import { COMPONENTS, LatencyBreakdown } from "./latency_breakdown.js";
import { Playback } from "./playback.js";
import { BEHIND } from "./recovery.js";

/** Milliseconds between requests for the stream's state: while the page is visible, and while it is hidden. */
const POLL_INTERVAL = 2_000;
const POLL_INTERVAL_HIDDEN = 15_000;
/** The same while playback waits for the server or the publisher. */
const POLL_INTERVAL_WAITING = 1_000;
/** Milliseconds between two answers from which equal counters say that no media flows. */
const COMPARE_AFTER = 1_500;
/** Milliseconds after which a server that does not answer counts as unreachable. */
const POLL_TIMEOUT = 5_000;
const TICK = 500;
/** Milliseconds without pointer movement after which the controls hide during playback. */
const IDLE = 2_500;
/** Milliseconds of standing still after which the page says why. */
const STANDS_FOR = 3_000;
/** Points of the latency curve: one a tick, a minute in all. */
const CURVE = 120;
/** Glass-to-glass latency cannot be negative: below this many seconds the publisher's clock is wrong. */
const CLOCK_DISAGREES = -0.05;

// The last segment of the path: a proxy may serve the pages below a path of its own.
const name = decodeURIComponent(location.pathname.split("/").at(-1));
const $ = (id) => document.getElementById(id);
const player = $("player"), video = $("video");
const playback = new Playback(video, `./${encodeURIComponent(name)}/index.m3u8`);
const embedded = document.documentElement.classList.contains("embed");
const clock = new ServerClock();
const breakdown = new LatencyBreakdown(name, clock);

let stream = null; // the newest answer of the API
let reachable = true;
let compared = { units: 0, publishers: 0, at: 0 }; // the counters of an earlier answer
let flowing = false; // the server received media since then
let blocked = false; // the browser refused autoplay
let unsupported = "";
let failure = null;
let stoodSince = null; // since when nothing moves that ought to, by performance.now()
let hasPicture = false; // something of this broadcast was shown
const curve = [];

$("name").textContent = name;
document.title = `${name} · Nearcast`;

// ---- the server ----

let pollTimer = 0;
async function poll() {
  clearTimeout(pollTimer);
  try {
    await ask();
    showStream();
    showState();
  } finally {
    clearTimeout(pollTimer); // another answer may have come meanwhile
    const waits = state() === "unreachable" || state() === "disconnected" || (state() === "live" && !flowing);
    // A hidden page that plays is heard.
    pollTimer = setTimeout(poll, document.hidden && video.paused ? POLL_INTERVAL_HIDDEN : waits ? POLL_INTERVAL_WAITING : POLL_INTERVAL);
  }
}

let asked = 0;
async function ask() {
  const before = stream, wasReachable = reachable, number = ++asked;
  let answer = null;
  try {
    const signal = AbortSignal.timeout?.(POLL_TIMEOUT);
    const response = await fetch(`api/v1/streams/${encodeURIComponent(name)}`, { cache: "no-store", signal });
    if (!response.ok && response.status !== 404) throw new Error(response.status);
    answer = response.ok ? await response.json() : { state: "unknown", tracks: [], viewers: { total: 0 } };
  } catch { /* the server cannot be reached, or not in time */ }
  if (number !== asked) return; // it was asked again meanwhile: an older answer would look like a server that was restarted
  reachable = answer !== null;
  if (!reachable) {
    playback.flowing = false;
    return;
  }
  stream = answer;
  onAnswer(before?.state, wasReachable);
}

/** Plays a stream that is live. One that waited for the publisher continues by itself; at first, or after an end, playback starts. */
function onAnswer(stateBefore, wasReachable) {
  const { units = 0, publishers = 0 } = stream.counters ?? {}, at = performance.now();
  // Counters start anew with the server, and its playlists too.
  const anew = units < compared.units || publishers < compared.publishers;
  if (units !== compared.units || at - compared.at > COMPARE_AFTER) {
    flowing = units !== compared.units;
    compared = { units, publishers, at };
  }
  if (stream.state === "live") {
    const continues = playback.running && ["live", "disconnected"].includes(stateBefore);
    if (!continues || anew) begin();
    else if (!wasReachable) playback.reconnect();
  }
  playback.flowing = stream.state === "live" && flowing;
}

function begin() {
  curve.length = 0;
  playback.start();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  playback.hurry();
  poll();
});
addEventListener("online", () => {
  reachable = false; // as it was, whether or not a poll noticed: the next answer reconnects
  poll();
});

playback.addEventListener("progress", () => { failure = null; });
playback.addEventListener("load", ({ detail: { from, to, requested, received } }) => {
  const now = clock.read(), here = performance.now();
  if (now) breakdown.onLoad({ from, to, requested: now.now - (here - requested), received: now.now - (here - received) });
});
playback.addEventListener("failure", ({ detail }) => { failure = detail; showState(); });
playback.addEventListener("blocked", () => { blocked = true; showState(); });
playback.addEventListener("unsupported", ({ detail }) => { unsupported = detail; showState(); });

// ---- what is shown ----

function state() {
  if (!reachable) return "unreachable";
  if (!stream) return "connecting";
  return stream.state;
}

const PILL = { ...STATES, connecting: "Connecting", unknown: "Unknown", unreachable: "No answer" };

function showState() {
  const now = state();
  $("state").textContent = PILL[now] ?? now;
  $("state").dataset.state = now;
  const flows = !video.paused && !video.seeking && video.readyState >= HTMLMediaElement.HAVE_FUTURE_DATA;
  const soundOnly = now === "live" && flows && video.videoWidth === 0;
  stoodSince = now === "live" && playback.running && !flows && !video.paused ? stoodSince ?? performance.now() : null;
  const words = veil(now, flows);
  $("veil").hidden = !words && !soundOnly;
  $("veil").classList.toggle("clear", !words?.text && !soundOnly && hasPicture);
  $("spinner").hidden = !words?.busy;
  $("waves").hidden = !(words?.waves || soundOnly);
  $("veil-title").textContent = soundOnly && !words ? "Sound only" : words?.title ?? "";
  const missing = soundOnly && stream.tracks.some((t) => t.kind === "video") ? "No pictures arrive at present. They are shown as soon as they do." : "";
  $("veil-text").textContent = words?.text ?? missing;
  $("veil-play").hidden = !words?.play;
  $("unmute").hidden = !(video.muted && flows && now === "live");
}

/** Whether nothing has moved for so long that the page says why. */
function stands() { return stoodSince !== null && performance.now() - stoodSince >= STANDS_FOR; }

/** The overlay: title and text, or null while the video is visible. */
function veil(now, flows) {
  const elsewhere = embedded ? "" : "The addresses below work in VLC, mpv or ffplay.";
  if (unsupported) return { title: "This browser cannot play the stream", text: `${unsupported} ${elsewhere}` };
  if (flows && hasPicture) return null;
  const title = name;
  switch (now) {
    case "connecting": return { title: "Connecting", busy: true };
    case "unreachable": if (navigator.onLine === false) return { title: "This device is offline", text: "This page resumes when the network is back.", waves: true };
      return { title: "The server does not answer", text: "Trying again. This page resumes by itself.", busy: true };
    case "unknown": return { title: `There is no stream “${title}” here`, text: "Check the address. If the stream starts, this page plays it." };
    case "offline": case "ended": return { title: `“${title}” is offline`, text: "This page plays it when it goes live.", waves: true };
    case "disconnected": return { title: "The publisher is disconnected", text: "This page resumes when the stream returns.", waves: true };
  }
  if (blocked) return { title: "Ready", text: "This browser does not allow autoplay.", play: true };
  if (failure?.reason === "manifestIncompatibleCodecsError") return { title: "This browser cannot decode the stream", text: `It carries ${stream.tracks.map((t) => t.codec).join(" and ")}. ${elsewhere}` };
  if (failure && failure.status !== 404 && failure.status !== 503) return { title: "Interrupted", text: `${failure.reason}; trying again.`, busy: true };
  if (video.paused && hasPicture) return null;
  if (!hasPicture) return { title: "Starting", busy: true };
  if (!stands()) return { title: "", busy: true };
  const both = flowing && ["video", "audio"].every((kind) => stream.tracks.some((t) => t.kind === kind));
  const why = both ? "Its pictures, its sound or both are late, and a browser plays them only together." : "Nothing new of it has arrived.";
  return { title: "Waiting for the stream", text: `${why} This page resumes by itself.`, busy: true };
}

function showStream() {
  if (!stream) return;
  const tracks = ["live", "disconnected"].includes(stream.state) ? stream.tracks : [];
  const order = [...tracks].sort((a, b) => (b.kind === "video") - (a.kind === "video"));
  $("badges").replaceChildren(...order.map((t) => Object.assign(document.createElement("span"), { className: "badge", textContent: track(t), title: t.rfc6381 ?? "" })));
  $("watching").hidden = state() === "unknown";
  // The server learns of this one with its first requests.
  $("viewers").textContent = count(Math.max(stream.viewers.total, playback.running && !video.paused ? 1 : 0), "viewer", "viewers");
  stat("bitrate", stream.state === "live" ? bitrate(stream.bitrate) : "–", stream.state === "live" ? "from the publisher" : "");
  $("advice").textContent = (stream.state === "live" && stream.advice?.join(" ")) || "";
  $("advice").hidden = !$("advice").textContent;
  showUrls();
}

function showUrls() {
  const urls = [
    ["Page", location.origin + location.pathname],
    ["HLS", new URL(`./${encodeURIComponent(name)}/index.m3u8`, location.href).href],
    ...(stream.urls?.rtmp ? [["RTMP", stream.urls.rtmp]] : []),
  ];
  const text = JSON.stringify(urls);
  if ($("urls").dataset.urls === text) return;
  $("urls").dataset.urls = text;
  $("urls").replaceChildren(...urls.map(([label, url]) => {
    const row = document.createElement("div");
    row.className = "url";
    const span = Object.assign(document.createElement("span"), { textContent: label });
    const code = Object.assign(document.createElement("code"), { textContent: url, tabIndex: 0 });
    const button = Object.assign(document.createElement("button"), { className: "copy", textContent: "Copy", ariaLabel: `Copy the ${label} address` });
    button.addEventListener("click", () => copy(url, code, button));
    row.append(span, code, button);
    return row;
  }));
}

/** navigator.clipboard exists only in secure contexts; on a plain LAN address, execCommand copies. */
async function copy(text, node, button) {
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    getSelection().selectAllChildren(node);
    done = document.execCommand("copy");
  }
  button.textContent = done ? "Copied" : "Press Ctrl+C";
  button.classList.toggle("done", done);
  setTimeout(() => { button.textContent = "Copy"; button.classList.remove("done"); }, 1_600);
}

function stat(id, value, detail) {
  const node = $(`stat-${id}`);
  if (node.firstChild.nodeValue !== value) node.firstChild.nodeValue = value;
  if (node.lastChild.textContent !== detail) node.lastChild.textContent = detail;
}

function tick() {
  showState();
  showLatency();
  const { name: mode, detail } = playback.mode;
  player.classList.toggle("off", !playback.running);
  // What is left of a broadcast that is over is not told.
  const on = playback.running && !["offline", "ended", "unknown"].includes(state()), shown = on && video.videoWidth > 0;
  stat("mode", on ? mode : "–", on ? detail : "");
  stat("buffer", on ? time(playback.buffered) : "–", video.playbackRate === 1 ? "" : `playing at ${Math.round(video.playbackRate * 100)}%`);
  stat("picture", shown ? `${video.videoWidth}x${video.videoHeight}` : "–", shown ? `shown at ${video.clientWidth}x${video.clientHeight}` : "");
  const quality = video.getVideoPlaybackQuality?.();
  stat("dropped", quality?.totalVideoFrames ? String(quality.droppedVideoFrames) : "–", quality?.totalVideoFrames ? `of ${count(quality.totalVideoFrames, "picture", "pictures")}` : "");
  $("golive").hidden = !(state() === "live" && playback.running && hasPicture && playback.lag > BEHIND);
}

/** Glass-to-glass latency with its error bound; where the publisher states no clock, latency since ingest. */
function showLatency() {
  const date = playback.date, now = clock.read();
  const known = date !== null && now !== null && hasPicture && state() === "live" && !stands();
  $("latency-chip").hidden = !known;
  if (!known) { stat("latency", "–", ""); showComponents([]); return; }
  if (stream.clock) breakdown.poll(date - Date.parse(stream.clock), playback.mode.name === "LL-HLS");
  // The date is by the broadcaster's clock, the time by the server's.
  const apart = breakdown.offset ?? { ms: 0, error: 0 };
  const value = (now.now + apart.ms - date) / 1000;
  const since = stream.clock ? "glass to glass" : "since ingest; the publisher states no capture time";
  if (value < CLOCK_DISAGREES - now.error / 1000) {
    $("latency-chip").hidden = true;
    stat("latency", "–", "the publisher's clock is ahead of the server's: is it set by NTP?");
    return;
  }
  stat("latency", time(value), `± ${bound((now.error + apart.error) / 1000)}, ${since}`);
  showComponents(breakdown.components(value * 1000, playback.buffered * 1000));
  $("latency-chip").textContent = `${time(value)} ${stream.clock ? "latency" : "since ingest"}`;
  curve.push(value);
  if (curve.length > CURVE) curve.shift();
  const top = Math.max(...curve) * 1.15;
  $("latency-line").setAttribute("points", curve.map((v, n) => `${(100 * (CURVE - curve.length + n)) / (CURVE - 1)},${100 - (90 * Math.max(v, 0)) / top}`).join(" "));
}

/** The latency by component, as one bar. */
function showComponents(parts) {
  $("parts").hidden = parts.length === 0;
  const total = parts.reduce((sum, [, ms]) => sum + ms, 0);
  const words = ([part, ms]) => `${part} ${time(ms / 1000)}`;
  const make = (tag, part, more) => Object.assign(document.createElement(tag), { className: `part-${COMPONENTS.indexOf(part)}`, ...more });
  $("parts-bar").replaceChildren(...parts.map((part) => {
    const piece = make("i", part[0], { title: words(part) });
    piece.style.flexGrow = part[1] / total;
    return piece;
  }));
  $("parts-words").replaceChildren(...parts.map((part) => make("span", part[0], { textContent: words(part) })));
}

// ---- controls ----

function togglePlay() {
  if (!playback.running) return;
  blocked = false;
  if (video.paused) playback.play();
  else playback.pause();
}

function setMuted(muted) {
  video.muted = muted;
  if (!muted && video.volume === 0) video.volume = 0.5;
}

function changeVolume(by) {
  video.volume = Math.min(1, Math.max(0, video.volume + by));
  video.muted = video.volume === 0;
  showMessage(`Volume ${Math.round(video.volume * 100)}%`);
}

function toggleFullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (player.requestFullscreen) player.requestFullscreen().catch(() => {});
  else video.webkitEnterFullscreen?.(); // iPhones: only a video can
}

function togglePip() {
  if (document.pictureInPictureElement) document.exitPictureInPicture();
  else video.requestPictureInPicture?.().catch(() => {});
}

let messageTimer = 0;
function showMessage(text) {
  $("message").textContent = text;
  $("message").hidden = false;
  clearTimeout(messageTimer);
  messageTimer = setTimeout(() => { $("message").hidden = true; }, 900);
}

function seek(by) {
  playback.seek(by);
  showMessage(by < 0 ? `${-by} s back` : `${by} s forward`);
}

const KEYS = {
  " ": togglePlay, k: togglePlay, f: toggleFullscreen, p: togglePip,
  m: () => { setMuted(!video.muted); showMessage(video.muted ? "Muted" : "Sound on"); },
  l: () => playback.toLive(),
  ArrowUp: () => changeVolume(0.1), ArrowDown: () => changeVolume(-0.1),
  ArrowLeft: () => seek(-5), ArrowRight: () => seek(5),
  "?": () => $("help").showModal(),
};

addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  // A focused button has the space bar, a focused slider the arrows.
  if ((target.closest("button, a") && (key === " " || key === "Enter")) || target.closest("input")) return;
  const act = KEYS[key.length === 1 ? key.toLowerCase() : key];
  if (!act) return;
  event.preventDefault();
  act();
  wake();
});

let idle = 0;
function wake() {
  player.classList.remove("idle");
  clearTimeout(idle);
  idle = setTimeout(() => player.classList.toggle("idle", !video.paused && $("veil").hidden && !player.querySelector(".controls:focus-within :focus-visible")), IDLE);
}
// A finger that finds the controls hidden shows them and does nothing else; a finger on the picture never pauses.
let finger = false, onlyShows = false;
player.addEventListener("pointerdown", ({ pointerType }) => {
  finger = pointerType === "touch";
  onlyShows = finger && player.classList.contains("idle");
}, { capture: true });
player.addEventListener("click", (event) => {
  if (onlyShows) event.stopPropagation();
  onlyShows = false;
}, { capture: true });
for (const type of ["pointermove", "pointerdown", "focusin"]) player.addEventListener(type, wake);
player.addEventListener("pointercancel", () => { onlyShows = false; });
player.addEventListener("pointerleave", ({ pointerType }) => { if (pointerType === "mouse") player.classList.toggle("idle", !video.paused && $("veil").hidden); });

video.addEventListener("click", () => { if (!finger) togglePlay(); });
video.addEventListener("dblclick", toggleFullscreen);
video.addEventListener("playing", () => { blocked = false; });
video.addEventListener("timeupdate", () => { if (!hasPicture && video.currentTime > 0) { hasPicture = true; showState(); wake(); } });
for (const type of ["playing", "waiting", "pause", "seeking", "seeked", "stalled"]) video.addEventListener(type, showState);
function showPlay() {
  $("play-shape").setAttribute("d", video.paused ? "M7 4.5v15l12-7.5z" : "M8 5v14M16 5v14");
  $("play").ariaLabel = video.paused ? "Play" : "Pause";
  wake();
}
for (const type of ["play", "pause"]) video.addEventListener(type, showPlay);
function showVolume() {
  const silent = video.muted || video.volume === 0;
  $("mute-shape").setAttribute("d", silent ? "M16 9.5l5 5M21 9.5l-5 5" : "M15.5 9a4 4 0 0 1 0 6M18 6.5a7.5 7.5 0 0 1 0 11");
  $("mute").ariaLabel = silent ? "Unmute" : "Mute";
  $("volume").value = video.muted ? 0 : video.volume;
  if (!video.muted) remember(video.volume);
  showState();
}
video.addEventListener("volumechange", showVolume);
document.addEventListener("fullscreenchange", () => { $("fullscreen").ariaLabel = document.fullscreenElement ? "Leave full screen" : "Full screen"; });

$("play").addEventListener("click", togglePlay);
$("veil-play").addEventListener("click", togglePlay);
$("mute").addEventListener("click", () => setMuted(!video.muted));
$("unmute").addEventListener("click", () => setMuted(false));
$("volume").addEventListener("input", ({ target }) => { video.volume = Number(target.value); video.muted = video.volume === 0; });
$("golive").addEventListener("click", () => playback.toLive());
$("fullscreen").addEventListener("click", toggleFullscreen);
$("help-button").addEventListener("click", () => $("help").showModal());
$("pip").addEventListener("click", togglePip);
$("pip").hidden = !document.pictureInPictureEnabled;
// The keys of keyboards and headsets, and the buttons of the picture in picture.
navigator.mediaSession?.setActionHandler("play", () => playback.play());
navigator.mediaSession?.setActionHandler("pause", () => playback.pause());

function remember(volume) {
  try { localStorage.setItem("volume", volume); } catch { /* storage is switched off: the next visit starts at full volume */ }
}
try { video.volume = Math.min(1, Math.max(0, Number(localStorage.getItem("volume") ?? 1))); } catch { /* the same */ }

video.muted = true;
showPlay();
showVolume();
clock.start();
poll();
setInterval(tick, TICK);
