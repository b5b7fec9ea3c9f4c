// Plays one HLS URL in a <video>: by hls.js where Media Source Extensions exist, else by the browser's own HLS (Safari on iPhones).
// A failure is always followed by a new attempt, and playback that falls behind returns to its target. Both end playing, unless the viewer paused.

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
/** Milliseconds between attempts: doubling, with jitter, so that a server that returns is not met by all players at once. */
const RETRY_FIRST = 500;
const RETRY_MAX = 8_000;
/** Seconds behind the target that count as behind, and the smallest number worth a seek: what is less is caught up by playing faster. */
export const BEHIND = 2;
const NEAR = 0.3;
/** Milliseconds of standing still or being behind until playback seeks, and from the seek until it starts anew. */
const SEEK_AFTER = 5_000;
const RESTART_AFTER = 3_000;
/** Milliseconds that a start may take. */
const START_WITHIN = 12_000;
/** Milliseconds after a start or an interruption in which playback seeks without delay. */
const HURRY = 5_000;
/** The rates of catching up, far from the target and near it; the seconds behind the target from which and until which they apply; the seconds of
 *  buffer that they must leave. */
const CATCH_UP_FAST = 1.15;
const CATCH_UP = 1.05;
const CATCH_UP_FAST_FROM = 0.4;
const CATCH_UP_FROM = 0.08;
const CATCH_UP_TO = 0.02;
const CUSHION = 0.3;
/** Seconds that a stall adds to the distance from the live edge, the most that stalls add, and how much of it a second takes away. */
const MARGIN_STEP = 0.2;
const MARGIN_MAX = 1.5;
const MARGIN_DECAY = 0.02;

export class Playback extends EventTarget {
  #video; #url; #hls = null; #retry = RETRY_FIRST; #timer = 0; #running = false;
  #wanted = true; // the viewer has not paused; the browser pauses too, as after a reload of the media
  #following = true; // the viewer has not gone back from the live edge
  #begun = false; // something has played since the last start
  #margin = 0;
  #lastTime = -1; #watchedAt = 0; #wellAt = 0; #soughtAt = 0; #hurryUntil = 0;

  constructor(video, url) {
    super();
    this.#video = video;
    this.#url = url;
    video.addEventListener("error", () => this.#running && !this.#hls && this.#retryLater(video.error?.message || "the browser gave up"));
    video.addEventListener("playing", () => { if (!this.#begun) this.hurry(); this.#begun = true; });
    video.addEventListener("timeupdate", () => this.#catchUp());
    video.addEventListener("play", () => { this.#wanted = true; });
    // By the browser's own controls; a hidden page may be paused to save power.
    video.addEventListener("pause", () => { if (!document.hidden && !video.ended && video.readyState > 0) this.#wanted = false; });
  }

  get running() { return this.#running; }

  start() {
    this.#wanted = this.#following = true;
    this.#restart();
  }

  stop() {
    this.#running = false;
    clearTimeout(this.#timer);
    this.#hls?.destroy();
    this.#hls = null;
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
    if (this.#following && this.lag > NEAR) this.toLive();
    else this.#play();
  }

  pause() {
    this.#wanted = false;
    this.#video.pause();
  }

  toLive() {
    this.#following = true;
    if (this.lag > 0) this.#video.currentTime = this.liveEdge;
    this.#play();
  }

  /** Moves by `by` seconds within what can be played. Gone back, playback stays back until it is near the live edge again. */
  seek(by) {
    const { seekable, currentTime } = this.#video;
    if (!seekable.length) return;
    this.#following = false;
    this.#video.currentTime = Math.min(Math.max(currentTime + by, seekable.start(0)), Math.max(this.liveEdge ?? 0, currentTime));
  }

  /** To be called after an interruption, such as a hidden page: for a moment, playback returns to its target without delay. */
  hurry() {
    this.#hurryUntil = performance.now() + HURRY;
  }

  /** To be called when the network or the server is back: what waits to be requested again is requested now. */
  reconnect() {
    if (!this.#running) return;
    this.hurry();
    if (this.#hls) this.#hls.startLoad();
    else this.#restart();
  }

  /** To be called about twice a second; `flowing` says that the server receives media. Brings playback back to its target. */
  watch(flowing) {
    const now = performance.now(), { currentTime, paused, seeking } = this.#video;
    const moves = currentTime !== this.#lastTime && !seeking;
    this.#lastTime = currentTime;
    this.#margin = Math.max(0, this.#margin - MARGIN_DECAY * (now - this.#watchedAt) / 1000);
    this.#watchedAt = now;
    if (this.lag < NEAR) this.#following = true;
    const hurried = now < this.#hurryUntil, behind = this.#following && this.lag > (hurried ? NEAR : BEHIND);
    const idle = !this.#running || !this.#wanted || !flowing || (paused && document.hidden);
    if (idle || (moves && !behind)) {
      this.#wellAt = now;
      this.#soughtAt = 0;
      return;
    }
    if (paused) this.#play();
    if (!this.#begun) {
      if (now - this.#wellAt > START_WITHIN) this.#restart();
    } else if (this.#soughtAt) {
      if (now - this.#soughtAt > RESTART_AFTER) this.#restart();
    } else if (hurried || now - this.#wellAt > SEEK_AFTER) {
      this.#soughtAt = now;
      if (this.lag > NEAR) this.toLive();
    }
  }

  #restart() {
    this.stop();
    this.#running = true;
    this.#begun = false;
    this.#soughtAt = 0;
    this.#wellAt = performance.now();
    if (globalThis.Hls?.isSupported()) this.#startHls();
    else if (this.#video.canPlayType("application/vnd.apple.mpegurl")) {
      this.#video.src = this.#url;
      if (this.#wanted) this.#play();
    } else this.#emit("unsupported", "This browser plays neither Media Source Extensions nor HLS.");
  }

  #startHls() {
    const { Hls } = globalThis;
    const hls = new Hls(SETTINGS);
    // The constructor takes it only together with a hold-back, which would override the playlist's own.
    hls.config.liveMaxLatencyDurationCount = SKIP_BEHIND;
    this.#hls = hls;
    hls.on(Hls.Events.MANIFEST_PARSED, () => this.#wanted && this.#play());
    hls.on(Hls.Events.LEVEL_UPDATED, (_, { details: { partHoldBack, holdBack, targetduration } }) => {
      hls.targetLatency = (partHoldBack || holdBack || 3 * targetduration) + this.#margin;
    });
    hls.on(Hls.Events.FRAG_BUFFERED, () => { this.#retry = RETRY_FIRST; this.#emit("progress"); });
    // A part, or a segment that was fetched whole: the times of request and receipt by performance.now(), and the capture times of its content.
    hls.on(Hls.Events.FRAG_LOADED, (_, { frag, part }) => {
      const { loading } = (part ?? frag).stats, from = frag.programDateTime + 1000 * (part ? part.start - frag.start : 0);
      if (frag.type === "main" && Number.isFinite(from)) this.#emit("load", { from, to: from + 1000 * (part ?? frag).duration, requested: loading.start, received: loading.end });
    });
    hls.on(Hls.Events.ERROR, (_, data) => {
      if (data.details === Hls.ErrorDetails.BUFFER_STALLED_ERROR) this.#margin = Math.min(this.#margin + MARGIN_STEP, MARGIN_MAX);
      // hls.js cannot add or remove a track: a stream with other tracks is a media error, and a new instance plays it.
      if (data.fatal && hls === this.#hls) this.#retryLater(data.details, data.response?.code);
    });
    hls.loadSource(this.#url);
    hls.attachMedia(this.#video);
  }

  #retryLater(reason, status) {
    this.#hls?.destroy();
    this.#hls = null;
    this.#emit("failure", { reason, status });
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#restart(), this.#retry * (0.75 + Math.random() / 2));
    this.#retry = Math.min(this.#retry * 2, RETRY_MAX);
  }

  /** Catches up by playing a little faster. That of hls.js leaves a second of buffer, which is more than the target. */
  #catchUp() {
    const video = this.#video, late = video.playbackRate > 1 ? CATCH_UP_TO : CATCH_UP_FROM;
    const catchesUp = this.#hls && this.#following && this.lag > late && this.buffered > CUSHION;
    const rate = !catchesUp ? 1 : this.lag > CATCH_UP_FAST_FROM ? CATCH_UP_FAST : CATCH_UP;
    if (video.playbackRate !== rate) video.playbackRate = rate;
  }

  #play() {
    this.#wanted = true;
    this.#video.play().catch((error) => {
      if (error.name !== "NotAllowedError") return;
      this.#wanted = false;
      this.#emit("blocked");
    });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
