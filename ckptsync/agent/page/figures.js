// Figures in SVG, drawn into the pixels there are. Nothing here knows where the numbers come from.

const NS = "http://www.w3.org/2000/svg";
const DAY_S = 86400;
const TIME_STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, DAY_S, 2 * DAY_S, 7 * DAY_S, 30 * DAY_S, 90 * DAY_S, 365 * DAY_S];

export function shape(name, attributes = {}, text = "") {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== "") made.textContent = text;
  return made;
}

// Round numbers between two, about as many as asked for.
export function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.75);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(at * step);
  return found;
}

function timeTicks(low_s, high_s, count) {
  const rough = (high_s - low_s) / Math.max(1, count);
  const step = TIME_STEPS_S.find((one) => one >= rough) ?? TIME_STEPS_S.at(-1);
  const zone_s = new Date(low_s * 1000).getTimezoneOffset() * 60;
  const found = [];
  for (let at = Math.ceil((low_s - zone_s) / step) * step + zone_s; at <= high_s; at += step) found.push(at);
  return { found, step };
}

function timeLabel(at_s, step_s) {
  const date = new Date(at_s * 1000);
  if (step_s >= DAY_S) return date.toLocaleDateString(undefined, { month: "short", day: "numeric" });
  return date.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: step_s < 60 ? "2-digit" : undefined, hour12: false });
}

export function short(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return `${+(value / 1e9).toPrecision(4)}G`;
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(4)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(4)}k`;
  if (size !== 0 && size < 1e-3) return value.toExponential(1).replace(".0e", "e");
  return `${+value.toPrecision(4)}`;
}

function scale(low, high, from, to) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

function widened(low, high, share) {
  const margin = high > low ? (high - low) * share : Math.abs(low) * 0.1 || 1;
  return [low - margin, high + margin];
}

// One mark, whose form tells the state without its colour.
export function mark(state, x, y, size, named = false) {
  if (state === "quarantined") return shape("path", { class: "dot quarantined", d: `M${x - size} ${y - size}l${2 * size} ${2 * size}m0 ${-2 * size}l${-2 * size} ${2 * size}` });
  if (named) return shape("path", { class: "dot named", d: `M${x} ${y - size * 1.7}l${size * 1.7} ${size * 1.7}l${-size * 1.7} ${size * 1.7}l${-size * 1.7} ${-size * 1.7}z` });
  return shape("circle", { class: `dot ${state}`, cx: x, cy: y, r: size });
}

export const noticeMark = (x, y) => shape("path", { class: "notice", d: `M${x} ${y - 9}l5 9h-10z` });

function frame(svg, left, right, top, bottom, yTicks, y) {
  for (const value of yTicks) {
    svg.append(shape("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }));
    svg.append(shape("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, short(value)));
  }
  svg.append(shape("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
}

function labels(svg, found, x, bottom, left, right, text) {
  let free = -Infinity;
  for (const value of found) {
    const word = text(value), half = word.length * 3.3;
    const at = Math.min(Math.max(x(value), left + half - 12), right - half);
    if (at - half < free) continue;
    svg.append(shape("text", { x: at, y: bottom + 17, "text-anchor": "middle" }, word));
    free = at + half + 10;
  }
}

function begin(svg) {
  const { width, height } = svg.getBoundingClientRect();
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  return [width, height];
}

// Snapshots over time, steps upwards; returns where each stands, in the order given.
export function timeline(svg, rows, notices) {
  const [width, height] = begin(svg);
  const times = rows.map((row) => row.at_s), steps = rows.map((row) => row.step);
  const [first, last] = [Math.min(...times), Math.max(...times)];
  const seen = notices.filter((at) => at >= first - 60);
  const [low_s, high_s] = last > first || seen.length ? widened(first, Math.max(last, ...seen), 0.02) : [first - 60, first + 60];
  const ySteps = ticks(...widened(Math.min(...steps), Math.max(...steps), 0.06), 4).filter((one) => Number.isInteger(one) && one >= 0);
  const left = 14 + 6.6 * Math.max(2, ...ySteps.map((one) => short(one).length)), right = width - 10, top = 20, bottom = height - 24;
  const x = scale(low_s, high_s, left, right);
  const y = scale(...widened(Math.min(...steps), Math.max(...steps), 0.06), bottom, top);
  bands(svg, rows, x, left, right, top, bottom);
  frame(svg, left, right, top, bottom, ySteps, y);
  const time = timeTicks(low_s, high_s, Math.max(2, width / 110));
  labels(svg, time.found, x, bottom, left, right, (at) => timeLabel(at, time.step));
  const committed = rows.filter((row) => row.state === "committed");
  const dense = (right - left) / rows.length < 7;
  svg.append(shape("polyline", { class: "path faint", points: committed.map((row) => `${x(row.at_s)},${y(row.step)}`).join(" ") }));
  const places = rows.map((row) => [x(row.at_s), y(row.step)]);
  const marks = rows.map((row, index) => {
    const named = row.pinned || row.aliases.length > 0, special = named || row.state !== "committed";
    const made = mark(row.state, ...places[index], dense && !special ? 2 : 4.5, named);
    if (dense && !special) made.classList.add("dense");
    made.dataset.snapshot = row.snapshot;
    return { made, special };
  });
  for (const { made } of marks.filter((one) => !one.special)) svg.append(made);
  for (const { made } of marks.filter((one) => one.special)) svg.append(made);  // on top: there are few
  for (const at of seen) svg.append(noticeMark(x(at), bottom));
  svg.append(shape("g", { class: "choice" }));
  return { places, top, bottom };
}

// Where another writer took over, the ground changes.
function bands(svg, rows, x, left, right, top, bottom) {
  let from = left, free = -Infinity;
  rows.forEach((row, index) => {
    const next = rows[index + 1];
    if (next && next.epoch === row.epoch) return;
    const to = next ? (x(row.at_s) + x(next.at_s)) / 2 : right;
    if (row.epoch % 2) svg.append(shape("rect", { class: "band", x: from, y: top - 14, width: Math.max(0, to - from), height: bottom - top + 14 }));
    const word = to - from > 70 ? `epoch ${row.epoch}` : `${row.epoch}`;
    if (from + 4 > free && to - from > word.length * 7) {
      svg.append(shape("text", { x: from + 5, y: top - 3 }, word));
      free = from + word.length * 7 + 10;
    }
    from = to;
  });
}

// One metric over steps; a value that is no number leaves a gap.
export function curve(svg, points) {
  const [width, height] = begin(svg);
  const known = points.filter((one) => one.value !== null);
  const values = known.map((one) => one.value), steps = points.map((one) => one.step);
  const [lowest, highest] = widened(Math.min(...values), Math.max(...values), 0.08);
  const yTicks = ticks(lowest, highest, 3);
  const left = 12 + 6.6 * Math.max(...yTicks.map((one) => short(one).length)), right = width - 8, top = 8, bottom = height - 22;
  const [least, most] = [Math.min(...steps), Math.max(...steps)];
  const x = most > least ? scale(least, most, left + 6, right - 6) : () => (left + right) / 2;
  const y = scale(lowest, highest, bottom, top);
  frame(svg, left, right, top, bottom, yTicks, y);
  labels(svg, most > least ? ticks(least, most, Math.max(2, width / 110)) : [least], x, bottom, left, right, short);
  let line = "", pen = "M";
  for (const one of points) {
    if (one.value === null) { pen = "M"; continue; }
    line += `${pen}${x(one.step).toFixed(1)} ${y(one.value).toFixed(1)}`;
    pen = "L";
  }
  svg.append(shape("path", { class: "path", d: line }));
  if (known.length <= 60) for (const one of known) svg.append(shape("circle", { class: "dot", cx: x(one.step), cy: y(one.value), r: 3 }));
  svg.append(shape("g", { class: "choice" }));
  return { places: points.map((one) => [x(one.step), one.value === null ? null : y(one.value)]), top, bottom };
}

// A dashed line through what was chosen, and a ring around it.
export function choose(svg, drawn, index) {
  const layer = svg.querySelector(".choice");
  if (!layer) return;
  layer.replaceChildren();
  const place = drawn.places[index];
  if (!place) return;
  layer.append(shape("line", { class: "cross", x1: place[0], x2: place[0], y1: drawn.top, y2: drawn.bottom }));
  if (place[1] !== null) layer.append(shape("circle", { class: "ring", cx: place[0], cy: place[1], r: 7 }));
}

// The upload rate of late; the newest sample stands at the right.
export function spark(svg, samples, room) {
  const [width, height] = begin(svg);
  const most = Math.max(...samples, 1);
  const x = (index) => width - ((samples.length - 1 - index) / (room - 1)) * width;
  const y = (value) => height - 2 - (value / most) * (height - 5);
  const line = samples.map((value, index) => `${x(index).toFixed(1)} ${y(value).toFixed(1)}`).join("L");
  svg.append(shape("line", { class: "axis", x1: 0, x2: width, y1: height - 1, y2: height - 1 }));
  if (samples.length < 2) return;
  svg.append(shape("path", { class: "area", d: `M${x(0)} ${height - 1}L${line}L${width} ${height - 1}z` }));
  svg.append(shape("path", { class: "path", d: `M${line}` }));
}
