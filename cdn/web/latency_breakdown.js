// Glass-to-glass latency by component: from the server's timing report of some pictures, and from when the player requested and received
// the parts or segments that they are in.
//
// The report gives each stage by the clock of its host, and the offset of the broadcaster's clock; times here are by the server's clock,
// in milliseconds since the Unix epoch. The remainder counts as buffering, so that the components add up.

/** Milliseconds between timing requests. */
const POLL_INTERVAL = 5_000;
/** Milliseconds after which the broadcaster, which reports once a second, has reported a picture to the server. */
const REPORT_DELAY = 1_500;
/** Milliseconds that decoding and display may take, and by which a report that is some seconds old may be wrong. */
const DISPLAY = 500;
/** Loads kept: half a minute of parts. */
const MAX_LOADS = 160;

export const COMPONENTS = ["encoding", "queue", "upload", "chunking", "polling", "last mile", "buffering"];

export class LatencyBreakdown {
  #url; #clock; #loads = []; #components = null; #offset = null; #polled = -Infinity;

  /** `clock` is the server's, see clock.js. */
  constructor(name, clock) {
    this.#url = `api/v1/streams/${encodeURIComponent(name)}/timing`;
    this.#clock = clock;
  }

  /** `{ ms, error }`: the broadcaster's clock less the server's; null if it is not known. */
  get offset() { return this.#offset; }

  /** A part or segment was received: `from` and `to` are the capture times of its content, `requested` and `received` by the server's clock. */
  onLoad(load) {
    this.#loads.push(load);
    if (this.#loads.length > MAX_LOADS) this.#loads.shift();
  }

  /** Requests the timing of what is on the screen now, if it is time: `dts` in milliseconds, `inParts` whether parts are played. */
  async poll(dts, inParts) {
    const now = performance.now();
    if (now - this.#polled < POLL_INTERVAL || !this.#clock.read()) return;
    this.#polled = now;
    try {
      const response = await fetch(`${this.#url}?at=${Math.round(dts - REPORT_DELAY)}`, { cache: "no-store" });
      if (!response.ok) throw new Error(response.status);
      this.#onReport(await response.json(), inParts);
    } catch {
      this.#components = null; // the server does not answer, or has no report
    }
  }

  /** `[name, milliseconds]` for each component that is known; they add up to `total` milliseconds. None where more is left than the `buffered`
   *  milliseconds can explain: playback has stood still, or the newest report is of what came before. */
  components(total, buffered) {
    if (!this.#components) return [];
    const known = COMPONENTS.filter((name) => this.#components[name] !== undefined).map((name) => [name, Math.max(0, this.#components[name])]);
    const rest = total - known.reduce((sum, [, ms]) => sum + ms, 0);
    return rest >= 0 && rest <= buffered + DISPLAY ? [...known, ["buffering", rest]] : [];
  }

  #onReport({ broadcaster, units }, inParts) {
    this.#offset = broadcaster && { ms: broadcaster.offset_us / 1000, error: broadcaster.uncertainty_us / 1000 };
    const ahead = this.#offset?.ms ?? 0, sums = {}, counts = {};
    const add = (name, ms) => { sums[name] = (sums[name] ?? 0) + ms; counts[name] = (counts[name] ?? 0) + 1; };
    for (const unit of units) {
      const ours = (us, by = 0) => us === undefined ? undefined : us / 1000 - by;
      const listed = ours(inParts ? unit.in_part_us : unit.in_segment_us);
      const captured = ours(unit.captured_us), load = this.#loads.findLast(({ from, to }) => from <= captured && captured < to);
      const requested = load && listed !== undefined ? Math.max(load.requested, listed) : undefined;
      const stages = [
        [null, ours(unit.captured_us, ahead)], ["encoding", ours(unit.encoded_us, ahead)], ["queue", ours(unit.sent_us, ahead)],
        ["upload", ours(unit.ingested_us)], ["chunking", listed], ["polling", requested], ["last mile", requested && load.received],
      ].filter(([, at]) => at !== undefined);
      stages.slice(1).forEach(([name, at], n) => add(name, at - stages[n][1]));
    }
    this.#components = Object.fromEntries(Object.keys(sums).map((name) => [name, sums[name] / counts[name]]));
  }
}
