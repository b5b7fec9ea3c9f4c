// An estimate of the server's clock with an error bound.
//
// Each probe requests the server's time, which was read at some moment between request and response: the midpoint is wrong by at most
// half the round trip, however asymmetric that is. The probe with the smallest bound is kept; its bound grows with age, because
// clocks drift. Local time is performance.now(), which is never set back.

const URL_OF_TIME = "api/v1/time";
/** Milliseconds between probes: enough that drift stays below the bound of one round trip. */
const INTERVAL = 20_000;
/** Probes at the start, because the first one includes the connection's setup. */
const BURST = 4;
/** Bound of the drift between two clocks: 100 ppm. */
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
      // The server does not answer. The last probe stands, with a bound that grows.
    }
  }
}

function bound(probe, here) {
  return probe.half + (here - probe.at) * DRIFT;
}
