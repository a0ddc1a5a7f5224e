// One job as it goes on: state, curves, checkpoints, events. Asked anew every two seconds while it lives.

import { get } from "./api.js";
import { toast } from "./base.js";
import { Board } from "./curves.js";
import { el, words } from "./dom.js";

const EVERY_MS = 2000;
const MOST_EVENTS = 500;
const card = document.getElementById("job");
const base = card.dataset.base;
const board = new Board(document.getElementById("curves"));
const events = document.getElementById("events");
let seq = 0;
let timer;
let turn = 0; // an answer that another request has overtaken is dropped: its events come again

function live(name, ...children) {
  const place = document.querySelector(`[data-live="${name}"]`);
  if (place) place.replaceChildren(...children);
  return place;
}

function showProgress(now) {
  live("words", words(now.words)).className = `tag ${now.tone}`;
  live("how_far", now.how_far);
  live("left", now.left);
  const bar = card.querySelector("progress");
  bar.max = Math.max(1, now.total);
  bar.value = now.done;
}

function showButtons(may) {
  for (const button of document.querySelectorAll("[data-may]")) button.hidden = !may.includes(button.dataset.may);
}

function link(href, text, attributes = {}) {
  return el("a", { href, ...attributes }, words(text));
}

function model(name) {
  return `${base}/models/${encodeURIComponent(name)}`;
}

function copied(name) {
  const copy = el("button", { type: "button", class: "button small", "data-copy": name, "aria-label": "Copy" }, "Copy");
  return el("span", { class: "copy" }, link(model(name), name, { class: "name" }), copy);
}

function showOutcome(now) {
  const error = card.querySelector("[data-error]");
  error.hidden = now.error === null;
  if (now.error) {
    const { code, message, advice } = now.error;
    error.replaceChildren(el("strong", {}, words(code)), el("span", { class: "plain" }, words(message)), el("span", {}, advice));
  }
  const why = card.querySelector("[data-why]");
  why.hidden = !now.why;
  why.replaceChildren(words(now.why));
  const made = card.querySelector("[data-model]");
  made.hidden = now.model === null && !now.results.length;
  const files = now.results.flatMap((id) => [
    " ",
    link(`${base}/files/${encodeURIComponent(id)}/content`, "Result file", { class: "button small", download: true }),
  ]);
  made.replaceChildren(now.model === null ? "" : copied(now.model), ...files);
}

function showVerdict(verdict) {
  const place = document.getElementById("verdict");
  place.hidden = verdict === null;
  if (verdict === null) return;
  const rules = verdict.rules.map((rule) =>
    el("li", {}, el("span", { class: `tag ${rule.tone}` }, words(rule.outcome)), " ", el("strong", {}, words(rule.name)), " ", words(rule.sentence)),
  );
  place.querySelector("[data-verdict]").replaceChildren(
    el("p", {}, el("span", { class: `tag ${verdict.tone}` }, words(verdict.verdict)), " ", words(verdict.why)),
    el("ul", { class: "list" }, ...rules),
    el("ul", { class: "list soft small" }, ...verdict.measures.map((one) => el("li", {}, words(one)))),
  );
}

function showUsed(used) {
  for (const cell of document.querySelectorAll("[data-used]")) {
    cell.replaceChildren(words(used[cell.dataset.used] ?? "–"));
  }
}

function showCheckpoints(found) {
  const list = document.getElementById("checkpoints");
  list.previousElementSibling.hidden = found.length > 0;
  const names = found.map((one) => one.name).join(" ");
  if (list.dataset.names === names) return; // so that a name can be selected in peace
  list.dataset.names = names;
  const rows = found.map((one) => el("li", {}, `step ${one.step.toLocaleString("en")}: `, copied(one.name), el("div", { class: "soft small" }, one.figures)));
  list.replaceChildren(...rows);
}

function showEvents(found) {
  for (const one of found) {
    const time = el("time", { datetime: one.at, class: "soft small" }, `${one.at.slice(0, 10)} ${one.at.slice(11, 19)}`);
    events.prepend(el("li", {}, time, el("span", { class: `plain ${one.tone}` }, words(one.message))));
  }
  while (events.childElementCount > MOST_EVENTS) events.lastChild.remove();
}

function show(now) {
  showProgress(now.progress);
  showButtons(now.progress.may);
  showOutcome(now);
  showVerdict(now.verdict);
  showUsed(now.used);
  showCheckpoints(now.checkpoints);
  showEvents(now.events);
  board.add(now.charts);
  document.querySelector("#curves-title + [data-none]").hidden = board.charts.size > 0;
  seq = now.seq;
}

async function renew() {
  clearTimeout(timer);
  turn += 1;
  const mine = turn;
  const now = document.hidden ? null : await get(`${card.dataset.now}?seq=${seq}`, { tries: 1 }).catch(() => null);
  if (mine !== turn) return;
  if (now !== null) show(now);
  if (now === null || now.progress.lives || now.more) timer = setTimeout(renew, now?.more ? 0 : EVERY_MS);
}

document.addEventListener("posted", (event) => {
  event.preventDefault();
  toast(event.detail.message);
  renew();
});

renew();
