// The list of streams, refreshed every few seconds. Only changes are drawn, so that focus and hover stay.

import { STATES, ago, bitrate, count, track } from "./format.js";

const INTERVAL = 3_000;
const $ = (id) => document.getElementById(id);
const cards = new Map();

async function refresh() {
  try {
    const response = await fetch("api/v1/streams", { cache: "no-store" });
    if (!response.ok) throw new Error(response.status);
    const { streams, publish } = await response.json();
    draw(streams);
    $("publish").textContent = publish ?? "";
    $("how").hidden = !publish;
  } catch {
    $("summary").textContent = "The server does not answer; trying again.";
  }
  setTimeout(refresh, INTERVAL);
}

function draw(streams) {
  const order = { live: 0, disconnected: 1, ended: 2, offline: 3 };
  const shown = streams.sort((a, b) => (order[a.state] ?? 4) - (order[b.state] ?? 4) || a.name.localeCompare(b.name));
  const live = shown.filter((s) => s.state === "live").length;
  const watching = shown.reduce((sum, s) => sum + s.viewers.total, 0);
  $("summary").textContent = shown.length ? `${live} live, ${count(watching, "viewer", "viewers")}` : "";
  $("empty").hidden = live > 0;
  const list = $("streams");
  for (const [name, card] of cards) if (!shown.some((s) => s.name === name)) { card.remove(); cards.delete(name); }
  shown.forEach((stream, place) => {
    if (!cards.has(stream.name)) cards.set(stream.name, newCard(stream.name));
    const card = cards.get(stream.name);
    fill(card, stream);
    if (list.children[place] !== card) list.insertBefore(card, list.children[place] ?? null);
  });
}

function newCard(name) {
  const card = document.createElement("li");
  card.innerHTML = `<a class="stream"><div class="art"><span class="pill"></span><span class="chip" hidden></span><b></b></div><div class="text"><h2></h2><p></p></div></a>`;
  const link = card.firstChild;
  link.href = `./${encodeURIComponent(name)}`;
  // The same name has the same colour everywhere.
  const hue = [...name].reduce((sum, c) => (sum * 31 + c.codePointAt(0)) % 360, 200);
  card.querySelector(".art").style.setProperty("--hue", hue);
  card.querySelector("b").dataset.initials = [...name].slice(0, 2).join("");
  card.querySelector("h2").textContent = name;
  return card;
}

function fill(card, stream) {
  const set = (selector, text) => { const node = card.querySelector(selector); if (node.textContent !== text) node.textContent = text; };
  card.firstChild.dataset.state = stream.state;
  card.querySelector(".pill").dataset.state = stream.state;
  set(".pill", STATES[stream.state] ?? stream.state);
  card.querySelector(".chip").hidden = stream.viewers.total === 0;
  set(".chip", count(stream.viewers.total, "viewer", "viewers"));
  const facts = stream.state === "live"
    ? [stream.tracks.map(track).join(", "), bitrate(stream.bitrate), stream.since ? `for ${ago(stream.since)}` : ""]
    : [stream.state === "disconnected" ? "The publisher is disconnected" : "Not publishing", stream.since ? `for ${ago(stream.since)}` : ""];
  set("p", facts.filter((f) => f && f !== "–").join(" · "));
}

refresh();
