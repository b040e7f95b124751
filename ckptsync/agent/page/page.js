// Asks the agent every two seconds, and changes what has changed.

import { spark } from "./figures.js";
import { show } from "./snapshots.js";
import { clock, count, duration, size, whole } from "./words.js";

const EVERY_MS = 2000, PATIENCE_MS = 5000, HISTORY_EVERY_S = 10, SAMPLES = 90;
const CHOICES = { finish: "Finish the upload", ask: "Ask for a last checkpoint", keep: "Begin nothing, keep the journal" };
const byId = (id) => document.getElementById(id);
let status = null, history = { snapshots: [], at_s: null, more: false, problem: "" };
let ahead_s = 0, heard_s = null, askedHistory_s = -Infinity;
const rates = [];

const here_s = () => performance.now() / 1000;
const now_s = () => Date.now() / 1000 + ahead_s;

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store" });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function turn() {
  try {
    status = await ask("status.json");
    heard_s = here_s();
    ahead_s = status.now_s - Date.now() / 1000;
    rates.push(status.bytes_per_s);
    rates.splice(0, rates.length - SAMPLES);
    const isOld = history.at_s === null || (status.newest && history.at_s < status.newest.at_s);
    if (isOld || here_s() - askedHistory_s > HISTORY_EVERY_S) {
      history = await ask("history.json");
      askedHistory_s = here_s();
    }
  } catch {
    // told by `render`, once it lasts
  }
  render();
  setTimeout(turn, EVERY_MS);
}

function put(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

// A number and its unit, the unit smaller.
function putValue(id, text) {
  const element = byId(id);
  if (element.dataset.told === text) return;
  element.dataset.told = text;
  element.replaceChildren(...text.split(/([A-Za-z/]+)/).filter(Boolean).map((part) => {
    if (!/[A-Za-z]/.test(part)) return part;
    const unit = document.createElement("small");
    unit.textContent = part;
    return unit;
  }));
}

function render() {
  const silent_s = heard_s === null ? null : here_s() - heard_s;
  const isSilent = silent_s === null ? here_s() > 6 : silent_s > 6;
  document.body.dataset.state = isSilent ? "silent" : status ? status.state : "loading";
  if (isSilent) put("state", "no answer");
  alerts(isSilent, silent_s);
  if (!status) return;
  document.title = `${isSilent ? "no answer" : status.failing ? "failing" : status.state} · ${status.newest ? `step ${status.newest.step}` : "no snapshot"} · ckptsync`;
  put("run", status.run);
  if (!isSilent) put("state", status.state);
  put("since", isSilent ? "" : duration(now_s() - status.since_s));
  tiles(isSilent ? status.now_s : now_s());
  lists();
  facts();
  show(history, status.notices.map((one) => one.at_s), now_s());
  put("fresh", isSilent ? `From ${clock(status.now_s)}` : `Updated ${clock(status.now_s)}, every 2 s`);
}

function alerts(isSilent, silent_s) {
  const told = [];
  if (isSilent) told.push(["bad", "The agent does not answer.", silent_s === null ? "It was never heard." : `It was last heard ${duration(silent_s)} ago; what is shown is from then.`]);
  const last = status?.errors.at(-1);
  if (status?.fenced) told.push(["bad", "A newer writer owns this run.", "This agent has stopped for good; nothing that it committed is lost."]);
  else if (status?.state === "failed") told.push(["bad", "This agent has failed for good.", last ? last.message : ""]);
  else if (status?.failing) told.push(["bad", "The last upload failed; it will be tried again.", last ? last.message : ""]);
  if (status && !status.alive && !["done", "failed", "fenced"].includes(status.state)) told.push(["bad", "A part of the agent has stopped.", "Restart it; it continues where it was."]);
  if (status?.state === "draining") told.push(["warn", "Draining: nothing new is begun.", status.pending ? `${count(status.pending, "checkpoint")} to go, ${size(status.pending_bytes)}.` : ""]);
  if (history.problem) told.push(["warn", "The snapshots could not be read again.", history.problem]);
  const box = byId("alerts"), key = JSON.stringify(told.map(([tone, title]) => [tone, title]));
  if (box.dataset.told !== key) {
    box.dataset.told = key;
    box.replaceChildren(...told.map(([tone, title]) => {
      const made = document.createElement("div"), head = document.createElement("strong");
      made.className = `alert ${tone}`;
      head.textContent = title;
      made.append(head, document.createElement("span"));
      return made;
    }));
  }
  told.forEach(([, , more], index) => {
    const line = box.children[index].querySelector("span");
    if (line.textContent !== more) line.textContent = more;
  });
}

function tiles(at_s) {
  const { newest } = status, risk_s = status.at_risk_since_s ?? status.started_s;
  putValue("rpo", duration(at_s - risk_s));
  put("rpo-hint", status.commits ? "since the last durable checkpoint" : "since the agent began");
  putValue("step", newest ? whole(newest.step) : "none");
  put("step-hint", newest ? `${size(newest.bytes)}, ${duration(at_s - newest.at_s)} ago` : "nothing is committed yet");
  putValue("pending", status.pending ? size(status.pending_bytes) : "0");
  put("pending-hint", status.pending ? `${count(status.pending, "checkpoint")}, oldest ${duration(at_s - status.pending_since_s)}` : "everything whole is durable");
  putValue("rate", `${size(status.bytes_per_s)}/s`);
  spark(byId("spark"), rates, SAMPLES);
}

function lists() {
  entries("notices", [...status.notices].reverse(), "No notice.", (item, one) => {
    item.append(moment(one.at_s), label(` · ${one.source}`), document.createElement("br"), one.message);
    if (!one.decision) return;
    const choice = document.createElement("span"), word = document.createElement("b");
    choice.className = "choice";
    word.textContent = CHOICES[one.decision] ?? one.decision;
    choice.append("→ ", word, one.why ? `: ${one.why}` : "");
    item.append(choice);
  });
  entries("errors", [...status.errors].reverse(), "No error.", (item, one) => item.append(moment(one.at_s), document.createElement("br"), one.message));
  put("errors-hint", status.failures ? `${count(status.failures, "save")} failed since the start` : "");
  byId("waiting-section").hidden = status.waiting.length === 0;
  entries("waiting", status.waiting, "", (item, one) => item.append(one));
}

function entries(id, all, none, write) {
  const list = byId(id), key = JSON.stringify(all);
  if (list.dataset.told === key) return;
  list.dataset.told = key;
  const made = all.map((one) => { const item = document.createElement("li"); write(item, one); return item; });
  if (!made.length) { const item = document.createElement("li"); item.className = "none"; item.textContent = none; made.push(item); }
  list.replaceChildren(...made);
}

function moment(at_s) {
  const made = document.createElement("time");
  made.dateTime = new Date(at_s * 1000).toISOString();
  made.textContent = clock(at_s);
  return made;
}

function label(text) {
  const made = document.createElement("span");
  made.className = "source";
  made.textContent = text;
  return made;
}

function facts() {
  const told = {
    Directory: status.directory, Host: status.host, Version: status.version, Epoch: status.epoch ?? "not claimed yet",
    "Up since": clock(status.started_s), Commits: whole(status.commits), Sent: size(status.bytes_sent),
    "Requests tried again": whole(status.retries), "Failed saves": whole(status.failures),
  };
  const box = byId("facts"), key = JSON.stringify(told);
  if (box.dataset.told === key) return;
  box.dataset.told = key;
  box.replaceChildren(...Object.entries(told).flatMap(([name, value]) => {
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
}

new ResizeObserver(() => status && render()).observe(document.body);
setInterval(render, 1000);
turn();
