// Timeline, curves and table of the snapshots, and the one that was chosen.

import { choose, curve, mark, noticeMark, shape, timeline } from "./figures.js";
import { clock, count, duration, figure, metrics, notes, size, whole } from "./words.js";

const ROWS_SHOWN = 50;
const byId = (id) => document.getElementById(id);
const svg = byId("timeline");
let rows = [];
let drawn = null;
let curves = [];
let chosen = null;
let key = "";
let showAll = false;

// Draw what is known, unless nothing changed; `rows` is what history.json has, the newest first.
export function show(history, noticed, now_s) {
  const size = `${svg.clientWidth}x${window.innerWidth}`;
  const next = JSON.stringify([history.snapshots.map((row) => [row.snapshot, row.state, row.pinned, row.aliases]), noticed, size, history.more]);
  tellCount(history, now_s);
  if (next === key) return;
  key = next;
  rows = history.snapshots.filter((row) => row.created).map((row) => ({ ...row, at_s: Date.parse(row.created) / 1000 })).sort((a, b) => a.at_s - b.at_s);
  for (const element of [svg, byId("legend")]) element.toggleAttribute("hidden", rows.length === 0);
  byId("all").hidden = history.snapshots.length === 0;
  if (rows.length) drawAll(noticed);
  fill(history.snapshots);
  choosing(rows.findIndex((row) => row.snapshot === chosen));
}

function tellCount(history, now_s) {
  const none = byId("no-snapshots");
  none.hidden = history.snapshots.length > 0;
  none.textContent = history.at_s === null
    ? (history.problem ? "The bucket does not tell which snapshots there are." : "Asking the bucket which snapshots there are…")
    : "No snapshot yet. The first appears here as soon as a whole checkpoint is durable.";
  const told = history.at_s === null ? "" : `${history.more ? "the newest " : ""}${whole(history.snapshots.length)}${history.problem ? `, as of ${duration(now_s - history.at_s)} ago` : ""}`;
  if (byId("count").textContent !== told) byId("count").textContent = told;
}

function drawAll(noticed) {
  drawn = timeline(svg, rows, noticed);
  const committed = rows.filter((row) => row.state === "committed");
  svg.setAttribute("aria-label", `Snapshots over time: ${count(committed.length, "committed snapshot")}, steps ${Math.min(...rows.map((row) => row.step))} to ${Math.max(...rows.map((row) => row.step))}`);
  legend(noticed);
  const names = [...new Set(committed.flatMap((row) => Object.keys(row.metrics)))];
  const wanted = names.map((name) => {
    const points = committed.filter((row) => name in row.metrics).map((row) => ({ snapshot: row.snapshot, step: row.step, value: row.metrics[name] }));
    return { name, points: points.sort((a, b) => a.step - b.step) };
  }).filter((one) => one.points.some((point) => point.value !== null));
  byId("metrics-section").hidden = wanted.length === 0;
  if (curves.map((one) => one.name).join("\n") !== wanted.map((one) => one.name).join("\n")) byId("curves").replaceChildren(...wanted.map(card));
  curves = wanted.map((one, index) => drawCurve(one, byId("curves").children[index]));
}

function legend(noticed) {
  const drawing = (made) => { const box = shape("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }); box.append(made); return box; };
  const entries = [
    ["committed", (row) => row.state === "committed" && !row.pinned && !row.aliases.length, mark("committed", 7, 7, 4.5)],
    ["pinned or named", (row) => row.state === "committed" && (row.pinned || row.aliases.length), mark("committed", 7, 7, 3.6, true)],
    ["incomplete", (row) => row.state === "incomplete", mark("incomplete", 7, 7, 4.5)],
    ["of a newer ckptsync", (row) => row.state === "newer-format", mark("newer-format", 7, 7, 4.5)],
    ["quarantined", (row) => row.state === "quarantined", mark("quarantined", 7, 7, 4)],
  ].filter(([, fits]) => rows.some(fits));
  if (noticed.length) entries.push(["notice", null, noticeMark(7, 11)]);
  byId("legend").replaceChildren(...entries.map(([word, , made]) => { const item = document.createElement("li"); item.append(drawing(made), word); return item; }));
}

function card({ name }) {
  const made = document.createElement("div");
  made.className = "card";
  const top = document.createElement("div"), title = document.createElement("h3"), last = document.createElement("span");
  top.className = "top";
  last.className = "last";
  title.textContent = name;
  top.append(title, last);
  const figureBox = shape("svg", { class: "figure", role: "img" });
  const hint = document.createElement("p");
  hint.className = "hint";
  made.append(top, figureBox, hint);
  figureBox.addEventListener("pointermove", (event) => pick(event, figureBox, curves.find((one) => one.svg === figureBox)));
  figureBox.addEventListener("pointerdown", (event) => pick(event, figureBox, curves.find((one) => one.svg === figureBox)));
  return made;
}

function drawCurve({ name, points }, box) {
  const figureBox = box.querySelector("svg");
  const known = points.filter((one) => one.value !== null);
  const least = known.reduce((a, b) => (b.value < a.value ? b : a)), most = known.reduce((a, b) => (b.value > a.value ? b : a));
  box.querySelector(".last").textContent = figure(points.at(-1).value);
  box.querySelector(".hint").textContent = `lowest ${figure(least.value)} at step ${whole(least.step)}, highest ${figure(most.value)} at step ${whole(most.step)}`;
  figureBox.setAttribute("aria-label", `${name} over ${count(points.length, "snapshot")}: last ${figure(points.at(-1).value)}, ${box.querySelector(".hint").textContent}`);
  return { name, points, svg: figureBox, drawn: curve(figureBox, points), ids: points.map((one) => one.snapshot) };
}

function pick(event, box, one) {
  if (!one) return;
  const at = event.clientX - box.getBoundingClientRect().left;
  const index = nearest(one.drawn.places, at);
  choosing(rows.findIndex((row) => row.snapshot === one.ids[index]));
}

function nearest(places, x, y = null) {
  const far = ([px, py]) => Math.abs(px - x) * 4 + (y === null || py === null ? 0 : Math.abs(py - y));
  let best = 0;
  places.forEach((place, index) => { if (far(place) < far(places[best])) best = index; });
  return best;
}

// Show one of the rows; -1 shows none.
function choosing(index) {
  const row = rows[index];
  chosen = row ? row.snapshot : null;
  if (drawn && rows.length) choose(svg, drawn, index);
  for (const one of curves) choose(one.svg, one.drawn, one.ids.indexOf(chosen));
  const box = byId("chosen");
  if (!row) { box.replaceChildren(); return; }
  const title = document.createElement("b"), id = document.createElement("code");
  title.textContent = `Step ${whole(row.step)}`;
  id.textContent = row.snapshot;
  const told = [`${row.state}, ${clock(row.at_s)}`, `${size(row.bytes)} in ${count(row.files, "file")}`, metrics(row.metrics), notes(row)].filter(Boolean);
  box.replaceChildren(title, ` · ${told.join(" · ")}`, document.createElement("br"), id);
}

function fill(all) {
  const made = (showAll ? all : all.slice(0, ROWS_SHOWN)).map((row) => {
    const line = document.createElement("tr");
    line.dataset.snapshot = row.snapshot;
    for (const text of [row.step, row.created ? clock(Date.parse(row.created) / 1000) : "-", size(row.bytes), row.files, row.state, metrics(row.metrics), notes(row)]) {
      line.insertCell().textContent = text;
    }
    line.cells[1].title = row.created;
    return line;
  });
  byId("rows").replaceChildren(...made);
  byId("more").hidden = showAll || all.length <= ROWS_SHOWN;
  byId("more").textContent = `Show all ${all.length}`;
  byId("more").onclick = () => { showAll = true; fill(all); };
}

for (const kind of ["pointermove", "pointerdown"]) {
  svg.addEventListener(kind, (event) => {
    const box = svg.getBoundingClientRect();
    if (drawn) choosing(nearest(drawn.places, event.clientX - box.left, event.clientY - box.top));
  });
}

svg.addEventListener("keydown", (event) => {
  const at = rows.findIndex((row) => row.snapshot === chosen), end = rows.length - 1;
  const to = { ArrowLeft: at < 0 ? end : Math.max(0, at - 1), ArrowRight: at < 0 ? end : Math.min(end, at + 1), Home: 0, End: end, Escape: -1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  choosing(to);
});
