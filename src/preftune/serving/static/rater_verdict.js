// What a rater says: one control for each kind of verdict, one block for each dimension.

import { diffWords } from "./diff.js";
import { button, el, plain, words } from "./dom.js";
import { RankingControl } from "./ranking.js";

const GRADES = ["much better", "better", "slightly better"];

/** Return the words for a verdict: "A better", "about equal", "B, then A and C". */
export function said(verdict, labels) {
  if (verdict.kind === "tie") return "tie";
  if (verdict.kind === "binary") return `${labels[verdict.choice]} is better`;
  if (verdict.kind === "scale") return gradeName(verdict.grade, labels);
  if (verdict.kind === "rewrite") return "rewritten";
  return verdict.ranking.map((group) => group.map((at) => labels[at]).join(" and ")).join(", then ");
}

function gradeName(grade, labels) {
  if (grade === 4) return "about equal";
  const [side, how] = grade < 4 ? [labels[0], GRADES[grade - 1]] : [labels[1], GRADES[7 - grade]];
  return `${side} ${how}`;
}

/** Return the control for a task's kind; it has `node`, `show(verdict)`, `key(key)`, `tie()`. */
export function controlFor(task, options) {
  const labels = task.responses.map((response) => response.label);
  if (task.kind === "ranking") return new Ranking(labels, task, options);
  if (task.kind === "rewrite") return new Rewrite(task, options);
  return new Choice(task.kind === "scale" ? grades(labels, task) : sides(labels), task, options);
}

function grades(labels, task) {
  return [1, 2, 3, 4, 5, 6, 7]
    .filter((grade) => task.tie || grade !== 4)
    .map((grade) => ({ key: String(grade), label: gradeName(grade, labels), verdict: { kind: "scale", grade } }));
}

function sides(labels) {
  return labels.map((label, choice) => ({
    key: String(choice + 1),
    label: `${label} is better`,
    verdict: { kind: "binary", choice },
  }));
}

// Buttons of which one is pressed: two sides or seven grades.
class Choice {
  constructor(choices, task, { onchange }) {
    Object.assign(this, { choices, task, onchange });
    this.buttons = choices.map((choice) =>
      el(
        "button",
        { type: "button", class: "choice", "aria-pressed": "false", "data-verdict": true, "aria-keyshortcuts": choice.key, onclick: () => this.say(choice.verdict) },
        el("kbd", { "aria-hidden": "true" }, choice.key),
        el("span", { class: "choice-label" }, choice.label),
      ),
    );
    this.node = el("div", { class: `choices ${task.kind}` }, ...this.buttons);
    if (task.kind === "binary" && task.tie) this.node.append(this.tieButton());
    if (task.kind === "scale") {
      const [first, second] = task.responses.map((response) => `${response.label} better`);
      const ends = el("div", { class: "ends", "aria-hidden": "true" }, el("span", {}, first), el("span", {}, second));
      this.node = el("div", {}, this.node, ends);
    }
  }

  tieButton() {
    this.tieNode = el(
      "button",
      { type: "button", class: "choice", "aria-pressed": "false", "data-verdict": true, "aria-keyshortcuts": "t", onclick: () => this.tie() },
      el("kbd", { "aria-hidden": "true" }, "T"),
      el("span", { class: "choice-label" }, "tie"),
    );
    return this.tieNode;
  }

  say(verdict) {
    this.show(verdict);
    this.onchange(verdict);
  }

  show(verdict) {
    const at = this.choices.findIndex((choice) => sameVerdict(choice.verdict, verdict));
    this.buttons.forEach((one, place) => one.setAttribute("aria-pressed", String(place === at)));
    this.tieNode?.setAttribute("aria-pressed", String(verdict?.kind === "tie"));
    this.at = at;
  }

  tie() {
    if (!this.task.tie) return false;
    this.say(this.task.kind === "scale" ? { kind: "scale", grade: 4 } : { kind: "tie" });
    return true;
  }

  key(key) {
    const chosen = this.choices.find((choice) => choice.key === key);
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (chosen) this.say(chosen.verdict);
    else if (step) this.say(this.choices[this.beside(step)].verdict);
    else return false;
    return true;
  }

  // From nothing, an arrow goes to the mildest verdict of its side.
  beside(step) {
    const last = this.choices.length - 1;
    const start = step < 0 ? Math.ceil(last / 2) : Math.floor(last / 2);
    const from = this.at === undefined || this.at < 0 ? start : this.at;
    return Math.max(0, Math.min(last, from + step));
  }
}

function sameVerdict(one, other) {
  return one.kind === other?.kind && one.grade === other?.grade && one.choice === other?.choice;
}

// An order counts once it was touched: an order nobody looked at must not be saved by one key.
class Ranking {
  constructor(labels, task, { onchange, announce }) {
    this.task = task;
    this.onchange = onchange;
    this.list = new RankingControl({ labels, tie: task.tie, announce, onchange: (groups) => this.say(groups) });
    this.keep = button("Right as it stands", "O", () => this.say(this.list.groups), { "data-verdict": true, "aria-pressed": "false" });
    this.node = el("div", { class: "ranking-box" }, this.list.node, this.keep);
  }

  say(groups) {
    const verdict = { kind: "ranking", ranking: groups };
    this.show(verdict);
    this.onchange(verdict);
  }

  show(verdict) {
    this.keep.setAttribute("aria-pressed", String(Boolean(verdict)));
    if (verdict?.kind === "ranking") this.list.show(verdict.ranking);
  }

  tie() {
    if (!this.task.tie) return false;
    this.say([this.list.groups.flat().sort((a, b) => a - b)]);
    return true;
  }

  key(key) {
    if (key === "o") this.say(this.list.groups);
    else if (key === "ArrowUp" || key === "ArrowDown") this.node.querySelector(".grip").focus();
    else return false;
    return true;
  }
}

// The original in an editor; below, what has changed. Keys do not act in it, so Tab and Escape leave.
class Rewrite {
  constructor(task, { onchange }) {
    this.onchange = onchange;
    const turns = task.responses[0].turns.filter((turn) => turn.role === "assistant");
    // A text field ends its lines with \n alone: the same here, or the rater would seem to have changed them.
    this.original = turns.map((turn) => turn.text).join("\n\n").replace(/\r\n?/g, "\n");
    this.text = el("textarea", { id: "rewrite-text", class: "rewrite-text", rows: "8", spellcheck: "true", dir: "auto", "aria-describedby": "rewrite-keys", oninput: () => this.typed() });
    this.changes = el("div", { class: "text diff", "aria-label": "Changes", role: "group", tabindex: "0" });
    this.node = el(
      "div",
      { class: "rewrite" },
      el("label", { for: "rewrite-text" }, "Your version ", el("kbd", { "aria-hidden": "true" }, "E")),
      this.text,
      el("p", { id: "rewrite-keys", class: "soft rewrite-keys" }, "Kept as you type. Ctrl + Enter saves; Tab or Escape leaves the editor."),
      el("h3", {}, "What changed"),
      this.changes,
    );
    this.fill(this.original);
  }

  fill(text) {
    this.text.value = text;
    this.drawChanges();
  }

  typed() {
    this.drawChanges();
    const text = this.text.value;
    const isNew = text.trim() && text !== this.original;
    this.onchange(isNew ? { kind: "rewrite", rewrite: text } : null);
  }

  show(verdict) {
    this.fill(verdict?.rewrite ?? this.original);
  }

  drawChanges() {
    const pieces = diffWords(this.original, this.text.value);
    if (pieces.every((piece) => piece.kind === "same")) this.changes.replaceChildren("Nothing yet.");
    else this.changes.replaceChildren(...pieces.map(drawn));
  }

  tie() {
    return false;
  }

  key(key) {
    if (key !== "e") return false;
    this.text.focus();
    return true;
  }
}

/** Return one piece of a difference as an element. */
export function drawn(piece) {
  const tag = { same: "span", gone: "del", new: "ins" }[piece.kind];
  return el(tag, {}, words(piece.text));
}

// Reasons: "[too long] [rude] and some words".

/** Return a reason as it is stored. */
export function whyText(chips, text) {
  return [...chips.map((chip) => `[${chip}]`), text.trim()].filter(Boolean).join(" ");
}

/** Return what `whyText` was made of; a bracket that is no reason on offer belongs to the words. */
export function whyParts(why, reasons) {
  const chips = [];
  let rest = why;
  for (let found = true; found; ) {
    const chip = reasons.find((reason) => !chips.includes(reason) && rest.startsWith(`[${reason}]`));
    found = chip !== undefined;
    if (found) {
      chips.push(chip);
      rest = rest.slice(chip.length + 2).trimStart();
    }
  }
  return { chips, text: rest };
}

/** Return chips to press, and a field for words: `show({chips, text})`, `press(n)`. */
export class WhyControl {
  constructor(reasons, onchange) {
    this.reasons = reasons;
    this.chips = reasons.map((reason, at) =>
      el("button", { type: "button", class: "chip", "aria-pressed": "false", onclick: () => this.press(at) }, plain(reason)),
    );
    this.text = el("textarea", { id: "why-text", rows: "1", maxlength: "3000", dir: "auto", oninput: () => onchange(this.value()) });
    this.label = el("label", { for: "why-text" }, "Why?");
    this.onchange = onchange;
    this.node = el(
      "div",
      { class: "why" },
      el("div", { class: "why-label" }, this.label, el("kbd", { "aria-hidden": "true" }, "W")),
      reasons.length ? el("div", { class: "chips", role: "group", "aria-label": "Reasons" }, ...this.chips) : null,
      this.text,
    );
  }

  value() {
    const pressed = (_, at) => this.chips[at].getAttribute("aria-pressed") === "true";
    return { chips: this.reasons.filter(pressed), text: this.text.value };
  }

  show({ chips, text }) {
    this.reasons.forEach((reason, at) => this.chips[at].setAttribute("aria-pressed", String(chips.includes(reason))));
    this.text.value = text;
  }

  press(at) {
    const chip = this.chips[at];
    if (!chip) return false;
    chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
    this.onchange(this.value());
    return true;
  }
}
