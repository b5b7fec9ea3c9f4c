// Formats numbers and tracks as text, by the same rules as the programs: deploy/e2e/tests/figures.json has examples. Pure.

/** `640 kbit/s`, `2.3 Mbit/s`. */
export function bitrate(bits) {
  if (!(bits > 0)) return "–";
  const kilobits = Math.round(bits / 1e3);
  return kilobits < 1000 ? `${kilobits} kbit/s` : `${(bits / 1e6).toFixed(1)} Mbit/s`;
}

/** A time in seconds: `95 ms`, `2.31 s`, `12.3 s`, `120 s`. */
export function time(seconds) {
  const ms = Math.round(seconds * 1000), size = Math.abs(seconds);
  return Math.abs(ms) < 1000 ? `${ms} ms` : `${seconds.toFixed(size < 9.995 ? 2 : size < 99.95 ? 1 : 0)} s`;
}

/** An error bound in seconds, rounded up: rounded down it would not hold. */
export function bound(seconds) {
  const ms = Math.ceil(seconds * 1000);
  return ms < 1000 ? `${ms} ms` : time(Math.ceil(seconds * 10) / 10);
}

/** The states of a stream, as the API names them. */
export const STATES = { live: "Live", disconnected: "Waiting", offline: "Offline", ended: "Offline" };

export function ago(since) {
  const passed = Math.max(0, (Date.now() - Date.parse(since)) / 1000);
  if (!Number.isFinite(passed)) return "";
  if (passed < 60) return `${Math.floor(passed)} s`;
  if (passed < 3600) return `${Math.floor(passed / 60)} min`;
  return `${Math.floor(passed / 3600)} h ${Math.floor((passed % 3600) / 60)} min`;
}

export function count(number, one, many) {
  return `${number} ${number === 1 ? one : many}`;
}

/** One badge a track: `H.264 1280x720`, `AAC 48 kHz stereo`. */
export function track(t) {
  if (t.kind === "video") return t.width ? `${t.codec} ${t.width}x${t.height}` : t.codec;
  const channels = { 1: "mono", 2: "stereo" }[t.channels] ?? (t.channels ? `${t.channels} channels` : "");
  return [t.codec, t.sample_rate ? `${t.sample_rate / 1000} kHz` : "", channels].filter(Boolean).join(" ");
}
