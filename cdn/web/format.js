// Formats numbers and tracks as text. Pure.

export function bitrate(bits) {
  if (!(bits > 0)) return "–";
  return bits >= 1e6 ? `${(bits / 1e6).toFixed(bits < 1e7 ? 2 : 1)} Mbit/s` : `${Math.round(bits / 1e3)} kbit/s`;
}

export function seconds(value) {
  const size = Math.abs(value);
  return `${value.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0)} s`;
}

/** An error bound, rounded up: rounded down it would not hold. */
export function bound(value) {
  return value < 1 ? `${Math.ceil(value * 1000)} ms` : seconds(Math.ceil(value * 10) / 10);
}

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

/** One badge a track: `H.264 1280×720`, `AAC 48 kHz stereo`. */
export function track(t) {
  if (t.kind === "video") return t.width ? `${t.codec} ${t.width}×${t.height}` : t.codec;
  const channels = { 1: "mono", 2: "stereo" }[t.channels] ?? (t.channels ? `${t.channels} channels` : "");
  return [t.codec, t.sample_rate ? `${t.sample_rate / 1000} kHz` : "", channels].filter(Boolean).join(" ");
}
