// Plays one HLS URL in a <video>: by hls.js where Media Source Extensions exist, else by the browser's own HLS (Safari on iPhones).
// A failure is always followed by a new attempt.

/** Settings of hls.js that differ from its defaults. */
const SETTINGS = {
  enableWorker: false, // fMP4 is passed through: there is nothing to transmux, and the content policy needs no blob: scripts
  lowLatencyMode: true,
  maxLiveSyncPlaybackRate: 1.05, // catch up by at most 5%
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
};
/** Target durations behind the live edge from which playback skips instead of catching up. */
const SKIP_BEHIND = 10;
/** Milliseconds between attempts: doubling, with jitter, so that a server that returns is not met by all players at once. */
const RETRY_FIRST = 500;
const RETRY_MAX = 8_000;
/** Seconds that playback may stall while the stream is live before the position is nudged, and before playback is restarted. */
const NUDGE_AFTER = 4;
const RESTART_AFTER = 12;

export class Playback extends EventTarget {
  #video; #url; #hls = null; #retry = RETRY_FIRST; #timer = 0; #running = false;
  #mediaErrors = 0; #lastTime = -1; #lastMove = 0;

  constructor(video, url) {
    super();
    this.#video = video;
    this.#url = url;
    video.addEventListener("error", () => this.#running && !this.#hls && this.#retryLater(video.error?.message || "the browser gave up"));
  }

  get running() { return this.#running; }

  start() {
    this.stop();
    this.#running = true;
    this.#lastMove = performance.now();
    if (globalThis.Hls?.isSupported()) this.#startHls();
    else if (this.#video.canPlayType("application/vnd.apple.mpegurl")) {
      this.#video.src = this.#url;
      this.#play();
    } else this.#emit("unsupported", "This browser plays neither Media Source Extensions nor HLS.");
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
    return this.#hls?.liveSyncPosition ?? (seekable.length ? seekable.end(seekable.length - 1) - 3 : null);
  }

  toLive() {
    const edge = this.liveEdge;
    if (edge !== null) this.#video.currentTime = edge;
    this.#play();
  }

  /** To be called about once a second while the stream is live: recovers stalled playback. */
  watch() {
    const now = performance.now();
    const { currentTime, paused, buffered } = this.#video;
    if (!this.#running || paused || currentTime !== this.#lastTime) {
      this.#lastTime = currentTime;
      this.#lastMove = now;
      return;
    }
    const still = (now - this.#lastMove) / 1000;
    if (still > RESTART_AFTER) {
      this.start();
    } else if (still > NUDGE_AFTER) {
      for (let n = 0; n < buffered.length; n++) {
        if (buffered.start(n) > currentTime) { this.#video.currentTime = buffered.start(n) + 0.05; break; }
      }
    }
  }

  #startHls() {
    const { Hls } = globalThis;
    const hls = new Hls(SETTINGS);
    // The constructor takes it only together with a hold-back, which would override the playlist's own.
    hls.config.liveMaxLatencyDurationCount = SKIP_BEHIND;
    this.#hls = hls;
    hls.on(Hls.Events.MANIFEST_PARSED, () => this.#play());
    hls.on(Hls.Events.FRAG_BUFFERED, () => { this.#retry = RETRY_FIRST; this.#mediaErrors = 0; this.#emit("progress"); });
    // A part, or a segment that was fetched whole: the times of request and receipt by performance.now(), and the capture times of its content.
    hls.on(Hls.Events.FRAG_LOADED, (_, { frag, part }) => {
      const { loading } = (part ?? frag).stats, from = frag.programDateTime + 1000 * (part ? part.start - frag.start : 0);
      if (frag.type === "main" && Number.isFinite(from)) this.#emit("load", { from, to: from + 1000 * (part ?? frag).duration, requested: loading.start, received: loading.end });
    });
    hls.on(Hls.Events.ERROR, (_, data) => {
      if (!data.fatal || hls !== this.#hls) return;
      if (data.type === Hls.ErrorTypes.MEDIA_ERROR && data.details !== Hls.ErrorDetails.MANIFEST_INCOMPATIBLE_CODECS_ERROR && this.#mediaErrors++ < 2) hls.recoverMediaError();
      else this.#retryLater(data.details, data.response?.code);
    });
    hls.loadSource(this.#url);
    hls.attachMedia(this.#video);
  }

  #retryLater(reason, status) {
    this.#hls?.destroy();
    this.#hls = null;
    this.#emit("failure", { reason, status });
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.start(), this.#retry * (0.75 + Math.random() / 2));
    this.#retry = Math.min(this.#retry * 2, RETRY_MAX);
  }

  #play() {
    this.#video.play().catch((error) => error.name === "NotAllowedError" && this.#emit("blocked"));
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
