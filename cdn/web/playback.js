// Plays one HLS URL in a <video>: by hls.js where Media Source Extensions exist, else by the browser's own HLS (Safari on iPhones).
// What recovery.js decides is done here.

import { Recovery } from "./recovery.js";

/** Settings of hls.js that differ from its defaults. */
const SETTINGS = {
  enableWorker: false, // fMP4 is passed through: there is nothing to transmux, and the content policy needs no blob: scripts
  lowLatencyMode: true,
  liveSyncOnStallIncrease: 0, // it would stay for good; the margin here decays
  liveDurationInfinity: true,
  backBufferLength: 30,
  maxBufferLength: 30,
  playlistLoadPolicy: {
    default: {
      // A blocking reload is answered with the next part, or after three target durations without one: at most 30 s.
      maxTimeToFirstByteMs: 35_000,
      maxLoadTimeMs: 40_000,
      // While the publisher is disconnected, the server answers 503 with Retry-After: that is no failure, and the picture stays.
      timeoutRetry: { maxNumRetry: 10, retryDelayMs: 0, maxRetryDelayMs: 0 },
      errorRetry: { maxNumRetry: 10, retryDelayMs: 500, maxRetryDelayMs: 2_000 },
    },
  },
  fragLoadPolicy: {
    default: {
      maxTimeToFirstByteMs: 10_000,
      maxLoadTimeMs: 20_000,
      timeoutRetry: { maxNumRetry: 4, retryDelayMs: 0, maxRetryDelayMs: 0 },
      errorRetry: { maxNumRetry: 6, retryDelayMs: 250, maxRetryDelayMs: 1_000 },
    },
  },
};
/** Target durations behind the live edge from which hls.js skips, even if the viewer has gone back. */
const SKIP_BEHIND = 10;
/** Milliseconds between two looks at what playback does. */
const WATCH_INTERVAL = 250;
/** The rates of playback far behind the target, behind it, and before it, where there is no buffer for the network's jitter; the seconds from which and until
 *  which they apply; the seconds of buffer that catching up must leave. */
const CATCH_UP_FAST = 1.15;
const CATCH_UP = 1.05;
const FALL_BACK = 0.95;
const FAST_FROM = 0.4;
const SLIGHT_FROM = 0.08;
const SLIGHT_TO = 0.02;
const CUSHION = 0.3;
/** Seconds that a stall adds to the distance from the live edge, the most that stalls add, and how much of it a second takes away. */
const MARGIN_STEP = 0.2;
const MARGIN_MAX = 1.5;
const MARGIN_DECAY = 0.02;
/** Milliseconds after which a stall is an outage, which no margin would have spanned. */
const OUTAGE = 1_000;

export class Playback extends EventTarget {
  #video; #url; #hls = null; #recovery = new Recovery(); #flowing = false;
  #margin = 0; #marginAt = 0; #stall = null; // since when playback stands still, and where
  #init = null; #from = null; // the initialization segment that the instance plays, and where its media begins if it was made for that
  #next = null; // the one that the next instance is made for

  constructor(video, url) {
    super();
    this.#video = video;
    this.#url = url;
    video.addEventListener("error", () => !this.#hls && this.#fail(video.error?.message || "the browser gave up"));
    video.addEventListener("timeupdate", () => this.#setRate());
    // By the browser's own controls and keys, or by the browser itself.
    video.addEventListener("play", () => !video.paused && this.#recovery.play());
    video.addEventListener("pause", () => video.paused && !video.ended && this.#recovery.elementPaused(document.hidden));
    setInterval(() => this.#watch(), WATCH_INTERVAL);
  }

  get running() { return this.#recovery.running; }

  /** Whether the server receives media: while it does not, nothing is expected to play. */
  set flowing(flows) {
    this.#flowing = flows;
    this.#watch();
  }

  /** Starts with the newest broadcast, when it flows. If the viewer has paused, it starts when the viewer continues. */
  start() {
    this.#recovery.start();
    this.#watch();
  }

  /** Capture time of the picture on the screen in milliseconds of Unix time, by EXT-X-PROGRAM-DATE-TIME; null if it is not known. */
  get date() {
    if (this.#hls) return this.#hls.playingDate?.getTime() ?? null;
    const start = this.#video.getStartDate?.().getTime();
    return Number.isFinite(start) ? start + this.#video.currentTime * 1000 : null;
  }

  /** `{ name, detail }`: the protocol in use. */
  get mode() {
    if (!this.#hls) return this.#video.src && !globalThis.Hls?.isSupported() ? { name: "HLS", detail: "by the browser itself" } : { name: "–", detail: "" };
    const details = this.#hls.latestLevelDetails;
    const version = `hls.js ${globalThis.Hls.version}`;
    if (details?.partTarget && this.#hls.lowLatencyMode) return { name: "LL-HLS", detail: `${details.partTarget} s parts, ${version}` };
    return { name: "HLS", detail: details ? `${details.targetduration} s segments, ${version}` : version };
  }

  /** Seconds of media ahead of the play head. */
  get buffered() {
    const { buffered, currentTime } = this.#video;
    for (let n = 0; n < buffered.length; n++) {
      if (buffered.start(n) <= currentTime + 0.1 && currentTime < buffered.end(n)) return buffered.end(n) - currentTime;
    }
    return 0;
  }

  /** Seconds behind the live sync position; negative is ahead. */
  get lag() {
    const edge = this.liveEdge;
    return edge === null ? 0 : edge - this.#video.currentTime;
  }

  get liveEdge() {
    const { seekable } = this.#video;
    if (this.#hls) return this.#hls.liveSyncPosition;
    return seekable.length ? seekable.end(seekable.length - 1) - 3 : null;
  }

  play() {
    this.#recovery.play();
    this.#watch();
  }

  pause() {
    this.#recovery.pause();
    this.#video.pause();
  }

  toLive() {
    this.#recovery.goLive();
    this.#watch();
  }

  /** Moves by `by` seconds within what can be played. Gone back, playback stays back until it is near the live edge again. */
  seek(by) {
    const { seekable, currentTime } = this.#video;
    if (!seekable.length) return;
    this.#recovery.goBack();
    this.#video.currentTime = Math.min(Math.max(currentTime + by, seekable.start(0), this.#from ?? 0), Math.max(this.liveEdge ?? 0, currentTime));
  }

  /** To be called after an interruption, such as a hidden page. */
  hurry() {
    this.#recovery.hurry();
    this.#watch();
  }

  /** To be called when the network or the server is back: what waits to be requested again is requested now. */
  reconnect() {
    this.#recovery.reconnect();
    this.#watch();
  }

  /** Brings playback back to its target, and the margin down. */
  #watch() {
    const { currentTime: time, paused, seeking } = this.#video, now = performance.now(), edge = this.liveEdge;
    const lag = edge === null ? null : edge - time;
    this.#margin = Math.max(0, this.#margin - MARGIN_DECAY * (now - this.#marginAt) / 1000);
    this.#marginAt = now;
    if (this.#stall && time !== this.#stall.time) {
      if (now - this.#stall.since < OUTAGE) this.#margin = Math.min(this.#margin + MARGIN_STEP, MARGIN_MAX);
      this.#stall = null;
    }
    this.#setRate();
    this.#act(this.#recovery.observe({ now, flowing: this.#flowing, hidden: document.hidden, time, paused, seeking, lag, fresh: this.#fresh }));
  }

  /** Whether the playlist is as new as it can be. */
  get #fresh() {
    const details = this.#hls?.latestLevelDetails;
    return !details || details.age < 3 * (details.partTarget || details.targetduration);
  }

  #act(action) {
    switch (action) {
      case "play": return this.#play();
      case "seek":
        this.#video.currentTime = this.liveEdge;
        return this.#play();
      case "load":
        // Without the stop, a request that is never answered would be waited for.
        this.#hls?.stopLoad();
        this.#hls?.startLoad();
        if (this.#video.paused) this.#play();
        return;
      case "restart": return this.#restart();
    }
  }

  #restart() {
    this.#hls?.destroy();
    this.#hls = null;
    this.#stall = null; // of what no longer plays
    this.#from = null;
    this.#init = this.#next;
    this.#next = null;
    if (globalThis.Hls?.isSupported()) this.#startHls();
    else if (this.#video.canPlayType("application/vnd.apple.mpegurl")) {
      this.#video.src = this.#url;
      this.#play();
    } else {
      this.#recovery.stop();
      this.#emit("unsupported", "This browser plays neither Media Source Extensions nor HLS.");
    }
  }

  #startHls() {
    const { Hls } = globalThis, playback = this, made = this.#init;
    // What begins with other tracks begins with them: the media before, still listed, would make buffers that do not take what follows.
    const hls = new (class extends Hls {
      get liveSyncPosition() {
        const at = super.liveSyncPosition;
        return at === null || playback.#hls !== this ? at : Math.max(at, playback.#from ?? at);
      }
    })(SETTINGS);
    // The constructor takes it only together with a hold-back, which would override the playlist's own.
    hls.config.liveMaxLatencyDurationCount = SKIP_BEHIND;
    this.#hls = hls;
    hls.on(Hls.Events.MANIFEST_PARSED, () => this.#recovery.state === "starting" && this.#play());
    hls.on(Hls.Events.LEVEL_UPDATED, (_, { details }) => {
      const { partHoldBack, holdBack, targetduration } = details;
      if (hls === this.#hls && made !== null) this.#from = startOf(made, details);
      hls.targetLatency = (partHoldBack || holdBack || 3 * targetduration) + this.#margin;
    });
    hls.on(Hls.Events.FRAG_BUFFERED, (_, { frag }) => {
      if (hls === this.#hls) this.#init = initOf(frag) ?? this.#init;
      this.#emit("progress");
    });
    // A part, or a segment that was fetched whole: the times of request and receipt by performance.now(), and the capture times of its content.
    hls.on(Hls.Events.FRAG_LOADED, (_, { frag, part }) => {
      const { loading } = (part ?? frag).stats, from = frag.programDateTime + 1000 * (part ? part.start - frag.start : 0);
      if (hls === this.#hls) this.#init ??= initOf(frag);
      if (frag.type === "main" && Number.isFinite(from)) this.#emit("load", { from, to: from + 1000 * (part ?? frag).duration, requested: loading.start, received: loading.end });
    });
    hls.on(Hls.Events.ERROR, (_, data) => {
      // One while playback is on its way back says nothing about the network's jitter.
      const stall = data.details === Hls.ErrorDetails.BUFFER_STALLED_ERROR && this.#recovery.state === "playing";
      if (stall) this.#stall ??= { since: performance.now(), time: this.#video.currentTime };
      // hls.js cannot add or remove a track: a stream with other tracks is a media error, and a new instance plays it.
      if (hls !== this.#hls) return;
      const media = data.type === Hls.ErrorTypes.MEDIA_ERROR;
      if (media && (data.fatal || data.details === Hls.ErrorDetails.BUFFER_APPEND_ERROR) && this.#changes(hls)) return this.#replace();
      if (data.fatal) this.#fail(data.details, data.response?.code, media);
    });
    hls.loadSource(this.#url);
    hls.attachMedia(this.#video);
  }

  /** Whether the newest media has another initialization segment than what the instance plays. The next instance is for that. */
  #changes(hls) {
    const details = hls.latestLevelDetails, newest = details && initOf(listed(details).at(-1));
    if (!newest || !this.#init || newest === this.#init) return false;
    this.#next = newest;
    return true;
  }

  /** A new instance follows at once: that the tracks have changed is no failure. */
  #replace() {
    if (!this.#recovery.loads) return;
    this.#hls.stopLoad();
    this.#recovery.start();
    setTimeout(() => this.#watch()); // not while hls.js tells its listeners
  }

  /** The last picture stays until the next instance has one. */
  #fail(reason, status, media = false) {
    if (!this.#recovery.loads) return;
    const atOnce = this.#recovery.fail(media);
    this.#hls?.stopLoad();
    if (atOnce) setTimeout(() => this.#watch()); // not while hls.js tells its listeners
    else this.#emit("failure", { reason, status });
  }

  /** Keeps to the target by playing a little faster or slower. hls.js catches up too, but leaves a second of buffer, which is more than the target. */
  #setRate() {
    const video = this.#video, { lag } = this, from = video.playbackRate === 1 ? SLIGHT_FROM : SLIGHT_TO;
    let rate = 1;
    if (this.#recovery.loads && this.#hls && this.#recovery.following && this.#flowing) {
      if (lag > from && this.buffered > CUSHION) rate = lag > FAST_FROM ? CATCH_UP_FAST : CATCH_UP;
      else if (lag < -from) rate = FALL_BACK;
    }
    if (video.playbackRate !== rate) video.playbackRate = rate;
  }

  #play() {
    this.#video.play().catch((error) => {
      if (error.name !== "NotAllowedError") return;
      this.#recovery.pause();
      this.#emit("blocked");
    });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** The segments of a playlist, with the one in progress. */
function listed({ fragments, fragmentHint }) {
  return fragmentHint ? [...fragments, fragmentHint] : fragments;
}

function initOf(fragment) { return fragment?.initSegment?.url ?? null; }

/** Where the newest media of an initialization segment begins in a playlist, null where it lists none. */
function startOf(init, details) {
  const fragments = listed(details);
  const last = fragments.findLastIndex((fragment) => initOf(fragment) === init);
  const before = fragments.slice(0, last + 1).findLastIndex((fragment) => initOf(fragment) !== init);
  return last < 0 ? null : fragments[before + 1].start;
}
