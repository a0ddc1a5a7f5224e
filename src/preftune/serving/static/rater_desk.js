// The verdict on the item before the rater: one block per dimension, reasons, and what is missing.

import { el, plain } from "./dom.js";
import { controlFor, said, whyParts, whyText, WhyControl } from "./rater_verdict.js";

const NOTHING = { chips: [], text: "" };

export class Desk {
  /**
   * @param task what is judged
   * @param options onchange(): something was said; announce(text)
   */
  constructor(task, { onchange, announce }) {
    Object.assign(this, { task, onchange, announce });
    this.labels = task.responses.map((response) => response.label);
    this.verdicts = {};
    this.why = {};
    // A rewrite is one text, whatever it is good for.
    this.isShared = task.kind === "rewrite";
    this.blocks = (this.isShared ? [""] : task.dimensions).map((name) => this.block(name));
    this.reasons = new WhyControl(task.reasons, (value) => {
      this.why[this.asked] = value;
      this.onchange();
    });
    this.steps = this.blocks.length > 1 ? this.blocks.map((block, at) => this.stepTo(block, at)) : [];
    const steps = { class: "dimension-steps", role: "group", "aria-label": "Dimensions" };
    this.node = el(
      "div",
      { class: "dimensions" },
      this.steps.length ? el("div", steps, ...this.steps) : null,
      ...this.blocks.map((block) => block.node),
    );
    this.go(0);
  }

  block(name) {
    const control = controlFor(this.task, {
      announce: this.announce,
      onchange: (verdict) => this.say(name, verdict),
    });
    const told = el("span", { class: "dimension-said", "aria-hidden": "true" });
    const heading = el("h3", { class: "dimension-name" }, el("span", {}, this.nameOf(name)), told);
    const group = { class: "dimension", role: "group", "aria-label": this.nameOf(name) };
    const node = el("div", group, this.isShared ? null : heading, control.node);
    node.addEventListener("focusin", () => this.go(this.places().indexOf(name)));
    return { name, control, node, told };
  }

  // On a narrow screen, where one dimension is seen at a time.
  stepTo(block, at) {
    const attributes = { type: "button", class: "chip", "aria-pressed": "false", onclick: () => this.go(at) };
    return el("button", attributes, this.nameOf(block.name));
  }

  places() {
    return this.blocks.map((block) => block.name);
  }

  nameOf(name) {
    const only = this.task.dimensions.length === 1 && name === "overall";
    return only || this.isShared ? "Your verdict" : plain(name);
  }

  /** Let keys speak of another dimension. */
  go(at) {
    if (at < 0 || at >= this.blocks.length || at === this.at) return;
    this.at = at;
    this.blocks.forEach((block, place) => block.node.classList.toggle("is-current", place === at));
    this.steps.forEach((step, place) => step.setAttribute("aria-pressed", String(place === at)));
    this.askWhy(this.task.dimensions[at]);
  }

  /** Let reasons speak of a dimension. */
  askWhy(name) {
    this.asked = name;
    this.reasons.show(this.why[name] ?? NOTHING);
    const several = this.task.dimensions.length > 1 && !this.isShared;
    this.reasons.label.textContent = several ? `Why? ${this.nameOf(name)}` : "Why?";
  }

  step(by) {
    this.go(this.at + by);
    if (this.blocks.length > 1) this.announce(this.nameOf(this.task.dimensions[this.at]));
  }

  say(name, verdict) {
    const meant = this.isShared ? this.task.dimensions : [name];
    for (const dimension of meant) {
      if (verdict) this.verdicts[dimension] = verdict;
      else delete this.verdicts[dimension];
    }
    this.tell(name, verdict);
    this.onchange();
    const here = this.places().indexOf(name);
    if (verdict && !this.isShared) this.announce(`${this.nameOf(name)}: ${said(verdict, this.labels)}`);
    const next = this.places().findIndex((other, at) => at > here && !this.verdicts[other]);
    if (verdict && next > here && this.task.kind !== "ranking") this.go(next);
    if (verdict && !this.isShared) this.askWhy(name); // of what was just said
  }

  tell(name, verdict) {
    const block = this.blocks.find((one) => one.name === name);
    block.told.textContent = verdict && !this.isShared ? said(verdict, this.labels) : "";
    this.steps[this.blocks.indexOf(block)]?.classList.toggle("is-said", Boolean(verdict));
  }

  key(key) {
    if (this.blocks[this.at].control.key(key)) return true;
    const step = { ArrowUp: -1, ArrowDown: 1 }[key];
    if (!step || this.blocks.length === 1) return false;
    this.step(step);
    return true;
  }

  tie() {
    return this.blocks[this.at].control.tie();
  }

  missing() {
    return this.task.dimensions.filter((name) => !this.verdicts[name]);
  }

  /** Return why it cannot be saved yet; empty: it can. */
  lacks() {
    const missing = this.missing();
    if (!missing.length) return "";
    if (this.isShared) return "Nothing is changed yet. E goes to the editor; S leaves it to others.";
    return missing.length > 1 ? `Not yet said: ${missing.join(", ")}.` : "Give your verdict first.";
  }

  /** Return what is to be sent. */
  body() {
    const why = Object.entries(this.why).map(([name, { chips, text }]) => [name, whyText(chips, text)]);
    return {
      item_id: this.task.item_id,
      round: this.task.round,
      verdicts: this.verdicts,
      why: Object.fromEntries(why.filter(([, text]) => text)),
    };
  }

  /** Return what is to be kept until it is saved. */
  draft() {
    return { verdicts: this.verdicts, why: this.why };
  }

  /** Show what was said before: a draft. */
  restore({ verdicts, why }) {
    this.verdicts = { ...verdicts };
    this.why = { ...why };
    for (const block of this.blocks) {
      const verdict = this.verdicts[this.isShared ? this.task.dimensions[0] : block.name];
      if (!verdict) continue;
      block.control.show(verdict);
      this.tell(block.name, verdict);
    }
    this.askWhy(this.asked);
  }
}

/** Return a draft of what the server has. */
export function draftOf(earlier, reasons) {
  const why = Object.entries(earlier.why).map(([name, text]) => [name, whyParts(text, reasons)]);
  return { verdicts: earlier.verdicts, why: Object.fromEntries(why) };
}
