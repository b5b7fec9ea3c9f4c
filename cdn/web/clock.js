// The server's clock as seen from here, with a bound on the error.
//
// Each probe asks the server for its time. The answer was made at some moment between the request and its arrival, so the
// middle is wrong by at most half the round trip, whatever the two directions took. The probe with the smallest bound is
// kept; its bound grows with age, because quartz drifts. Time here is performance.now(), which nobody sets back.

const URL_OF_TIME = "/api/v1/time";
/** Milliseconds between probes: enough that drift stays below the bound of one round trip. */
const INTERVAL = 20_000;
/** A quick first burst, because the first probe also pays for the connection. */
const BURST = 4;
/** Relative speed of two uncorrected crystals, generously. */
const DRIFT = 100e-6;

export class ServerClock {
  #best = null;
  #timer = 0;

  async start() {
    for (let n = 0; n < BURST; n++) await this.#probe();
    this.#timer = setInterval(() => this.#probe(), INTERVAL);
  }

  stop() {
    clearInterval(this.#timer);
  }

  /** `{ now, error }` in milliseconds since the Unix epoch, or null while nothing is known. */
  read() {
    if (!this.#best) return null;
    const here = performance.now();
    return { now: here + this.#best.offset, error: bound(this.#best, here) };
  }

  async #probe() {
    try {
      const sent = performance.now();
      const response = await fetch(URL_OF_TIME, { cache: "no-store" });
      const arrived = performance.now();
      if (!response.ok) return;
      const { now_us } = await response.json();
      const probe = { offset: now_us / 1000 - (sent + arrived) / 2, half: (arrived - sent) / 2, at: arrived };
      if (!this.#best || bound(probe, arrived) <= bound(this.#best, arrived)) this.#best = probe;
    } catch {
      // The server is away. The last answer stands, with a bound that grows.
    }
  }
}

function bound(probe, here) {
  return probe.half + (here - probe.at) * DRIFT;
}
