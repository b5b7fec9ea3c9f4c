// Decides what brings playback back to its target. It reads no clock, no element and no network: all that it knows is what it is told. So its
// tests take it through any sequence of faults, in virtual time.
//
//                    ┌─── restart ───┐
//   stopped ─▶ due ─▶ starting ─▶ returning ◀─▶ playing          Nothing is decided while playback is idle: paused by the viewer, waiting for
//               ▲        │            │            │             the publisher or the server, or hidden and paused by the browser. What
//               └─────── failed ──────┴────────────┘             follows is a return to the target without delay.
//
// Deadlines are by a clock that stands while playback is idle, and while the page was kept from running.

/** Seconds behind the target that count as behind, and the smallest number worth a seek: what is less is caught up by playing faster. */
export const BEHIND = 2;
export const NEAR = 0.3;
/** Milliseconds of being behind, and of standing still, until playback returns to its target by a seek. */
const BEHIND_FOR = 4_000;
const STANDS_FOR = 2_500;
/** Milliseconds between two seeks on the way back, which each doubles, and the most; the seconds behind the target that are worth another seek. */
const SEEK_INTERVAL = 2_000;
const SEEK_INTERVAL_MAX = 16_000;
const SEEK_AGAIN = 1;
/** Milliseconds at the target in which what falls behind again is still on its way back. */
const SETTLES_FOR = 5_000;
/** Milliseconds of standing still after which playback that goes on is on its way back, as it is behind by as long. */
const STOOD_FOR = 800;
/** Milliseconds that a start, or a way back that stands still, may take until an instance replaces it. Each restart doubles them: what a slow machine or
 *  link cannot start in time is given longer. */
const PATIENCE_FIRST = 8_000;
const PATIENCE_MAX = 64_000;
/** Milliseconds between attempts after errors: doubling, with jitter, so that a server that returns is not met by all players at once. */
const RETRY_FIRST = 500;
const RETRY_MAX = 8_000;
/** Milliseconds of playing after which earlier errors, and starts that took too long, no longer count, once it is at its target. */
const WELL_FOR = 5_000;
/** Milliseconds of playing in a hidden page that show that the browser lets it play there. */
const HIDDEN_FOR = 10_000;
/** Milliseconds after it was shown in which a pause may still be the browser's. */
const SHOWN_FOR = 1_000;
/** The longest step of the clock in milliseconds: observations are to come more often. */
const STEP_MAX = 1_000;
/** Milliseconds between two observations from which the page was interrupted, such as by sleep. */
const STEP_LOST = 5_000;

/**
 * What playback is at one moment: `now` in milliseconds; whether the server receives media (`flowing`) and the page is `hidden`; of the element, `time`
 * (seconds), `paused` and `seeking`; `lag`, the seconds behind the target, null while it is not known; `fresh`, whether the playlist is up to date.
 * @typedef {{ now: number, flowing: boolean, hidden: boolean, time: number, paused: boolean, seeking: boolean, lag: number | null, fresh: boolean }} Observation
 *
 * What is to be done: `play` the element; `seek` to the target and play; `load` the playlist anew; `restart` with a new instance of the player.
 * @typedef {null | "play" | "seek" | "load" | "restart"} Action
 */

export class Recovery {
  #phase = "stopped"; #idle = null; #wanted = true; #following = true;
  #clock = 0; #now = null; // the clock of the deadlines, and the time of the last observation
  #since = 0; #dueAt = 0; // of the phase
  #lastTime = null; #movedAt = 0; #inTimeAt = 0;
  #stood = 0; // milliseconds between the last two movements
  #seeks = 0; #seekAt = 0; #loaded = false; #loadDue = false; // on this way back
  #hiddenAt = null; #shownAt = 0; #playsHidden = false;
  #patience = PATIENCE_FIRST; #retry = RETRY_FIRST; #begunAt = 0; // when this instance began to play
  #random;

  /** `random` gives numbers from 0 to 1. */
  constructor(random = Math.random) {
    this.#random = random;
  }

  /** `stopped`, `due` (an instance is to be made), `starting`, `returning`, `playing`; or why nothing is expected: `paused`, `waiting`, `hidden`. */
  get state() { return this.#idle ?? this.#phase; }
  get running() { return this.#phase !== "stopped"; }
  /** Whether the viewer has not paused. */
  get wanted() { return this.#wanted; }
  /** Whether there is an instance of the player that has not ended. */
  get loads() { return this.#phase === "starting" || this.#began; }
  /** Whether the viewer has not gone back from the live edge. */
  get following() { return this.#following; }

  // ---- what the viewer does ----

  play() { this.#wanted = true; }

  pause() { this.#wanted = false; }

  goBack() {
    this.#following = false;
    if (this.#phase === "returning") this.#enter("playing");
  }

  goLive() {
    this.#wanted = this.#following = true;
    this.hurry();
  }

  // ---- what happens ----

  /** A broadcast begins: what plays is of an earlier one. */
  start() {
    this.#following = true;
    this.#enter("due");
    this.#dueAt = this.#clock;
  }

  stop() { this.#enter("stopped"); }

  /** The instance has ended with an error: `media`, in what was loaded, as by other tracks, which a new instance plays. After the first of those it
   *  follows at once. Returns whether it does. */
  fail(media = false) {
    const atOnce = media && this.#retry === RETRY_FIRST;
    this.#enter("due");
    this.#dueAt = this.#clock + (atOnce ? 0 : this.#retry * (0.75 + this.#random() / 2));
    this.#retry = Math.min(this.#retry * 2, RETRY_MAX);
    return atOnce;
  }

  /** An interruption is over, such as a hidden page. */
  hurry() {
    if (this.#began) this.#interrupt();
  }

  /** The network or the server is back: what waits for an answer waits in vain. */
  reconnect() {
    if (this.#phase === "due") this.#dueAt = this.#clock;
    else if (this.#phase === "starting") this.start();
    else if (this.#began) {
      this.#interrupt();
      this.#loadDue = true;
    }
  }

  /** The element was paused, and not by `pause`: by the viewer, with the browser's own controls or keys, or by the browser, as the page is hidden. */
  elementPaused(hidden) {
    if (!hidden && this.#began && this.#idle !== "hidden" && this.#clock - this.#shownAt > SHOWN_FOR) this.#wanted = false;
  }

  // ---- what is to be done ----

  /** To be called at least twice a second. @param {Observation} seen @returns {Action} */
  observe(seen) {
    const moves = this.#watch(seen);
    if (this.#phase === "stopped") return null;
    const wasIdle = this.#idle;
    this.#idle = this.#reasonToIdle(seen);
    if (this.#idle) return null;
    if (wasIdle) {
      this.#dueAt = Math.min(this.#dueAt, this.#clock);
      this.#movedAt = this.#inTimeAt = this.#clock;
      this.hurry();
    }
    switch (this.#phase) {
      case "due": return this.#clock >= this.#dueAt ? this.#restart() : null;
      case "starting": return this.#start(seen, moves);
      case "returning": return this.#return(seen, moves);
      default: return this.#play(seen, moves);
    }
  }

  get #began() { return this.#phase === "returning" || this.#phase === "playing"; }

  #enter(phase) {
    this.#phase = phase;
    this.#since = this.#inTimeAt = this.#clock;
  }

  /** What was done on an earlier way back no longer counts. */
  #interrupt(phase = "returning") {
    this.#enter(phase);
    this.#seekAt = this.#clock;
    this.#seeks = 0;
    this.#loaded = false;
  }

  /** Notes what changed since the last observation. Returns whether the play head has moved by itself. */
  #watch({ now, time, seeking, hidden, lag }) {
    const step = this.#now === null ? 0 : now - this.#now;
    this.#now = now;
    if (!this.#idle) this.#clock += Math.min(Math.max(step, 0), STEP_MAX);
    if (step > STEP_LOST) {
      this.#movedAt = this.#clock;
      this.hurry();
    }
    const moves = !seeking && this.#lastTime !== null && time > this.#lastTime;
    this.#lastTime = seeking ? null : time;
    if (moves) {
      this.#stood = this.#clock - this.#movedAt;
      this.#movedAt = this.#clock;
    }
    if (lag !== null && lag < NEAR) this.#following = true;
    if (!hidden) {
      if (this.#hiddenAt !== null) this.#shownAt = this.#clock;
      this.#hiddenAt = null;
      this.#playsHidden = false;
    } else if (this.#hiddenAt === null) this.#hiddenAt = now;
    else if (moves && now - this.#hiddenAt > HIDDEN_FOR) this.#playsHidden = true;
    return moves;
  }

  #reasonToIdle({ flowing, hidden, paused }) {
    if (!this.#wanted) return "paused";
    if (!flowing) return "waiting";
    // A new instance is paused at first: it may play where the one before it did.
    if (hidden && paused && (this.#began || !this.#playsHidden)) return "hidden";
    return null;
  }

  #start({ paused, lag }, moves) {
    if (moves) {
      this.#begunAt = this.#clock;
      this.#interrupt();
      return null;
    }
    if (this.#clock - this.#since > this.#patience) return this.#restart(true);
    if (lag !== null && this.#seeks === 0 && this.#clock - this.#since > STANDS_FOR) return this.#seek();
    return paused ? "play" : null;
  }

  #return({ paused, seeking, lag, fresh }, moves) {
    const away = this.#following && lag !== null && lag > NEAR;
    if (moves && !away) {
      this.#enter("playing");
      return null;
    }
    if (this.#loadDue) return this.#load();
    const took = this.#clock - this.#since;
    if (took > this.#patience) {
      if (this.#stands) return this.#restart(true);
      // Seeks do not help, as it moves and is not at its target: the rate, or being behind, does the rest.
      if (moves) this.#enter("playing");
    } else if (paused) {
      return "play"; // first: a browser that has just shown the page loses a seek before that
    } else if (away && fresh && this.#clock >= this.#seekAt && (this.#seeks === 0 || lag > SEEK_AGAIN)) {
      return this.#seek();
    } else if (this.#stands && !seeking && !this.#loaded) {
      return this.#load();
    }
    return null;
  }

  #play({ paused, lag }, moves) {
    const behind = this.#following && lag > BEHIND;
    if (moves && this.#stood > STOOD_FOR) this.#interrupt("playing");
    if (!behind) this.#inTimeAt = this.#clock;
    if (this.#stands || this.#clock - this.#inTimeAt > BEHIND_FOR) this.#interrupt();
    else if (this.#following && lag > SEEK_AGAIN && this.#clock - this.#since < SETTLES_FOR) this.#enter("returning");
    else if (moves && !behind && this.#clock - this.#begunAt > WELL_FOR) {
      this.#patience = PATIENCE_FIRST;
      this.#retry = RETRY_FIRST;
    }
    return paused ? "play" : null;
  }

  get #stands() { return this.#clock - this.#movedAt > STANDS_FOR; }

  #seek() {
    this.#seekAt = this.#clock + Math.min(SEEK_INTERVAL * 2 ** this.#seeks++, SEEK_INTERVAL_MAX);
    this.#lastTime = null; // the jump is no movement
    return "seek";
  }

  #load() {
    this.#loadDue = false;
    this.#loaded = true;
    return "load";
  }

  /** `late`: the instance before it did not play in time. */
  #restart(late = false) {
    if (late) this.#patience = Math.min(this.#patience * 2, PATIENCE_MAX);
    this.#following = true;
    this.#loadDue = false;
    this.#lastTime = null;
    this.#interrupt("starting");
    return "restart";
  }
}
