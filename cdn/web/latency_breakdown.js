// Where the time from lens to screen goes: what the server tells of some pictures, and when the player asked for what they are in and had it.
//
// The server tells each stage by the clock of the host that it is on, and how far the broadcaster's is from its own; times here are the
// server's, in milliseconds since the Unix epoch. What is left of the whole is the buffer's, so that the parts add up.

/** Milliseconds between questions. */
const ASK = 5_000;
/** The broadcaster tells the server once a second of what it has sent. */
const TOLD_WITHIN = 1_500;
/** Loads that are remembered: half a minute of parts. */
const LOADS = 160;

export const PARTS = ["encoding", "queue", "upload", "chunking", "polling", "last mile", "buffering"];

export class LatencyBreakdown {
  #url; #clock; #loads = []; #parts = null; #offset = null; #asked = -Infinity;

  /** `clock` is the server's, see clock.js. */
  constructor(name, clock) {
    this.#url = `/api/v1/streams/${encodeURIComponent(name)}/timing`;
    this.#clock = clock;
  }

  /** `{ ms, error }`: the broadcaster's clock less the server's, or null where nobody compares them. */
  get offset() { return this.#offset; }

  /** A part or segment came: `from` and `to` are capture times of what is in it, `asked` and `came` on the server's clock. */
  load(load) {
    this.#loads.push(load);
    if (this.#loads.length > LOADS) this.#loads.shift();
  }

  /** Asks about what is on the screen now, if it is time: `dts` in milliseconds, `inParts` whether it is played by parts. */
  async ask(dts, inParts) {
    const now = performance.now();
    if (now - this.#asked < ASK || !this.#clock.read()) return;
    this.#asked = now;
    try {
      const response = await fetch(`${this.#url}?at=${Math.round(dts - TOLD_WITHIN)}`, { cache: "no-store" });
      if (!response.ok) throw new Error(response.status);
      this.#take(await response.json(), inParts);
    } catch {
      this.#parts = null; // a server that is away, or does not tell
    }
  }

  /** `[name, milliseconds]` for each part that is known; they add up to `total`. */
  parts(total) {
    if (!this.#parts) return [];
    const known = PARTS.filter((part) => this.#parts[part] !== undefined).map((part) => [part, Math.max(0, this.#parts[part])]);
    const rest = total - known.reduce((sum, [, ms]) => sum + ms, 0);
    return rest >= 0 ? [...known, ["buffering", rest]] : [];
  }

  #take({ broadcaster, units }, inParts) {
    this.#offset = broadcaster && { ms: broadcaster.offset_us / 1000, error: broadcaster.uncertainty_us / 1000 };
    const ahead = this.#offset?.ms ?? 0, sums = {}, counts = {};
    const add = (part, ms) => { sums[part] = (sums[part] ?? 0) + ms; counts[part] = (counts[part] ?? 0) + 1; };
    for (const unit of units) {
      const ours = (us, by = 0) => us === undefined ? undefined : us / 1000 - by;
      const listed = ours(inParts ? unit.in_part_us : unit.in_segment_us);
      const captured = ours(unit.captured_us), load = this.#loads.findLast(({ from, to }) => from <= captured && captured < to);
      const asked = load && listed !== undefined ? Math.max(load.asked, listed) : undefined;
      const stages = [
        [null, ours(unit.captured_us, ahead)], ["encoding", ours(unit.encoded_us, ahead)], ["queue", ours(unit.sent_us, ahead)],
        ["upload", ours(unit.ingested_us)], ["chunking", listed], ["polling", asked], ["last mile", asked && load.came],
      ].filter(([, at]) => at !== undefined);
      stages.slice(1).forEach(([part, at], n) => add(part, at - stages[n][1]));
    }
    this.#parts = Object.fromEntries(Object.keys(sums).map((part) => [part, sums[part] / counts[part]]));
  }
}
