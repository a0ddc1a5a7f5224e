// The rater's page: fetch an item, show it, save what is said, go on.

import { get, Problem } from "./api.js";
import { Breaks, Watch } from "./rater_clock.js";
import { Desk, draftOf } from "./rater_desk.js";
import * as dialogs from "./rater_dialogs.js";
import { button, el, words } from "./dom.js";
import { canDiffer, conversation, linkScroll, responses } from "./rater_item.js";
import { listen } from "./rater_keys.js";
import { draftName, Memory } from "./rater_memory.js";
import { isSignedOut, Outbox } from "./rater_outbox.js";
import { said } from "./rater_verdict.js";

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ".split("");
const TITLES = {
  binary: "Which is better?",
  scale: "Which is better, and by how much?",
  ranking: "Put the responses in order, best first",
  rewrite: "Write it better",
};
const $ = (id) => document.getElementById(id);

class Rater {
  constructor(root) {
    this.base = root.dataset.base;
    this.memory = new Memory(root.dataset.project, root.dataset.person);
    this.outbox = new Outbox(this.memory);
    this.breaks = new Breaks(this.memory);
    this.watch = new Watch();
    this.options = { markdown: false, diff: false, linked: false, instant: false, keys: true, ...this.memory.read("options") };
    this.busy = true;
    this.wire();
  }

  async start() {
    this.memory.forgetOldDrafts();
    await this.asking(() => this.outbox.resume());
    await this.next();
  }

  // What is before the rater

  async next() {
    this.busy = true;
    try {
      this.goOn(await get(`${this.base}/next`));
    } catch (problem) {
      this.refused(problem);
      this.hideItem();
    }
    this.busy = false;
  }

  goOn(work) {
    this.work = work;
    this.mode = "work";
    this.showProgress(work);
    if (work.task) this.show(work.task, this.memory.read(draftName(work.task)));
    else this.showNothing();
    this.remindOfBreak();
  }

  show(task, draft) {
    this.task = task;
    this.trees = null;
    this.after = null;
    this.desk = new Desk(task, { onchange: () => this.keep(), announce: (text) => this.speak(text) });
    if (draft) this.desk.restore(draft);
    this.watch.start(draft?.seconds ?? 0);
    $("nothing").hidden = true;
    $("item").hidden = $("verdict").hidden = false;
    this.entitleSave(this.mode === "revise" ? "Change" : "Save");
    $("save").classList.toggle("is-ready", !this.desk.missing().length);
    $("dimensions").replaceChildren(...(task.kind === "rewrite" ? [] : [this.desk.node]));
    $("why").replaceChildren(this.desk.reasons.node);
    $("item").dataset.kind = task.kind;
    this.response = 0;
    this.draw();
    this.noteGuideline();
    this.entitle();
  }

  entitle() {
    const number = this.work.progress.done_by_me + 1;
    const what = { revise: "An earlier item", undo: "Taken back" }[this.mode] ?? (this.task.is_calibration ? `Practice ${number}` : `Item ${number}`);
    $("item-number").textContent = what;
    $("item-title").textContent = TITLES[this.task.kind];
    window.scrollTo(0, 0);
    $("prompt").scrollTop = $("prompt").scrollHeight;
    $("heading").focus({ preventScroll: true });
  }

  // Draw the texts anew, as the options want them; the verdict stays.
  async draw() {
    const { task, options } = this;
    if (options.markdown && !this.trees) await this.fetchTrees(task);
    if (task !== this.task) return;
    const trees = options.markdown ? this.trees : null;
    $("prompt-turns").replaceChildren(...conversation(task, trees));
    const blocks = responses(task, { trees, diff: options.diff && !trees });
    if (task.kind === "rewrite") blocks.push(el("div", { class: "card" }, this.desk.node));
    $("responses").replaceChildren(...blocks);
    this.unlink?.();
    const panes = [...document.querySelectorAll(".pane")];
    this.unlink = options.linked ? linkScroll(panes) : null;
    $("item").classList.toggle("is-linked", options.linked);
    this.drawSwitch();
    for (const [name, value] of Object.entries(options)) $(`option-${name}`)?.setAttribute("aria-pressed", String(value));
    $("option-diff").hidden = !canDiffer(task);
    $("option-linked").hidden = task.responses.length < 2;
  }

  async fetchTrees(task) {
    try {
      this.trees = await get(`${this.base}/markdown/${encodeURIComponent(task.item_id)}/${task.round}`);
    } catch (problem) {
      this.options.markdown = false;
      this.refused(problem);
    }
  }

  // On a narrow screen one response is seen at a time.
  drawSwitch() {
    const labels = this.task.kind === "rewrite" ? [] : this.task.responses.map((response) => response.label);
    $("switch").hidden = labels.length < 2;
    $("switch").replaceChildren(
      ...labels.map((label, at) =>
        el("button", { type: "button", class: "chip", "aria-pressed": String(at === this.response), onclick: () => this.turnTo(at) }, label),
      ),
    );
    [...$("responses").children].forEach((block, at) => block.classList.toggle("is-away", labels.length > 1 && at !== this.response));
  }

  turnTo(at) {
    this.response = at % this.task.responses.length;
    this.drawSwitch();
    this.speak(`Response ${LETTERS[this.response]}`);
  }

  showProgress({ progress, pace }) {
    $("progress").max = Math.max(1, progress.total);
    $("progress").value = progress.done;
    const speed = pace.seconds_per_item ? ` · about ${Math.round(pace.seconds_per_item)} s each` : "";
    const all = progress.total ? ` · ${progress.done} of ${progress.total} done` : "";
    $("progress-text").textContent = `${progress.done_by_me} by you${speed}${all}`;
  }

  showNothing() {
    this.hideItem();
    $("nothing").hidden = false;
    $("item-number").textContent = "";
    $("item-title").textContent = "Nothing left for you";
    $("heading").focus();
  }

  hideItem() {
    this.task = null;
    $("item").hidden = $("verdict").hidden = true;
  }

  // What the rater says

  keep() {
    $("save").classList.toggle("is-ready", !this.desk.missing().length);
    const draft = { ...this.desk.draft(), seconds: this.watch.seconds(), at: Date.now() };
    const kept = this.memory.write(draftName(this.task, this.mode), draft);
    if (!kept) this.announce("This browser keeps nothing: do not reload before you have saved.");
    if (this.mode === "revise") return;
    if (this.options.instant && this.task.kind !== "ranking" && this.task.kind !== "rewrite" && !this.desk.missing().length) this.save();
  }

  async save() {
    if (this.after) return this.after();
    if (this.busy || !this.task) return;
    if (this.desk.lacks()) return this.announce(this.desk.lacks());
    const { task, mode } = this;
    const body = { ...this.desk.body(), seconds: this.watch.seconds() };
    const last = this.desk.draft();
    const name = draftName(task, mode);
    const saved = await this.asking(() => this.outbox.put(`${this.base}/${mode === "revise" ? "revise" : "vote"}`, body, name));
    if (!saved) return;
    this.last = { name, draft: last };
    this.announce("Saved.");
    if (saved.feedback?.length) this.teach(saved.feedback, last.verdicts, saved.next);
    else if (saved.next) this.goOn(saved.next);
    else await this.next();
  }

  // Show what was expected of a practice item, and wait.
  teach(feedback, told, next) {
    const lines = feedback.map(({ dimension, right, expected, why }) =>
      el(
        "div",
        { class: `banner ${right ? "good" : "warn"}` },
        feedback.length > 1 ? el("strong", {}, words(dimension)) : null,
        el("span", {}, right ? "As expected: " : "Expected: ", el("strong", {}, said(expected, LETTERS)), "."),
        right ? null : el("span", { class: "soft" }, `You said: ${said(told[dimension], LETTERS)}.`),
        why ? el("span", {}, words(why)) : null,
      ),
    );
    this.after = () => {
      this.after = null;
      this.goOn(next);
    };
    $("dimensions").replaceChildren(el("div", { class: "feedback", role: "group", "aria-label": "Feedback" }, ...lines));
    $("why").replaceChildren();
    this.entitleSave("Go on");
    $("save").focus();
    this.speak(lines.map((line) => line.textContent).join(" "));
  }

  entitleSave(label) {
    $("save").textContent = label;
    for (const id of ["undo", "skip", "flag"]) $(id).hidden = label === "Go on" || (label === "Change" && id !== "undo");
  }

  async leave(what, url, body) {
    if (this.busy || !this.task || this.mode === "revise" || this.after) return;
    const { task } = this;
    const done = await this.asking(() => this.outbox.put(`${this.base}/${url}`, { item_id: task.item_id, ...body }, draftName(task)));
    if (!done) return;
    this.announce(what);
    this.goOn(done.next);
  }

  async undo() {
    if (this.busy || this.after) return;
    const back = await this.asking(() => this.outbox.put(`${this.base}/undo`, {}));
    if (!back) return;
    this.mode = "undo";
    this.showProgress(await get(`${this.base}/next`).then((work) => (this.work = work)));
    this.show(back.task, this.last?.name === draftName(back.task) ? this.last.draft : null);
    this.announce("Taken back. The item is before you again.");
  }

  async change(earlier) {
    const again = await this.asking(() => get(`${this.base}/item/${encodeURIComponent(earlier.item_id)}/${earlier.round}`));
    if (!again) return;
    this.mode = "revise";
    const begun = this.memory.read(draftName(again.task, "revise"));
    this.show(again.task, begun ?? draftOf(again.said ?? earlier, again.task.reasons));
    const what = begun ? "You go on with a change that you had begun." : "You are changing an earlier verdict.";
    this.note("revising", "info", what, button("Back to my work", "", () => this.next(), { class: "button small" }));
  }

  // Run a request; return its answer, or null after showing why there is none.
  async asking(request) {
    this.busy = true;
    $("verdict").setAttribute("aria-busy", "true");
    this.clearNotes();
    try {
      return await request();
    } catch (problem) {
      this.refused(problem);
      return null;
    } finally {
      this.busy = false;
      $("verdict").removeAttribute("aria-busy");
    }
  }

  // News

  refused(problem) {
    if (!(problem instanceof Problem)) console.error(problem); // cut off, or a bug of ours
    if (isSignedOut(problem)) {
      const back = el("a", { class: "button small", href: `/login?next=${encodeURIComponent(location.pathname)}` }, "Sign in");
      this.note("refused", "bad", "You are signed out. What you said is kept in this browser.", back);
    } else {
      this.note("refused", "bad", problem.message, button("Fetch the next item", "", () => this.next(), { class: "button small" }));
    }
  }

  /** Show short news, which screen readers say. */
  announce(text) {
    $("status").replaceChildren(words(text));
  }

  /** Say to screen readers what others see. */
  speak(text) {
    $("spoken").replaceChildren(words(text));
  }

  note(id, kind, text, ...buttons) {
    $(`note-${id}`)?.remove();
    const hide = () => $(`note-${id}`)?.remove();
    const close = button("Hide", "", hide, { class: "button quiet small" });
    $("notes").append(el("div", { id: `note-${id}`, class: `banner ${kind}`, role: kind === "bad" ? "alert" : "status" }, el("span", {}, words(text)), ...buttons, close));
  }

  clearNotes() {
    for (const id of ["refused", "revising"]) $(`note-${id}`)?.remove();
  }

  noteGuideline() {
    const seen = this.memory.read("guideline") ?? 0;
    const isNew = this.task.guideline > seen;
    $("open-guideline").classList.toggle("is-new", isNew);
    $("guideline-version").textContent = this.task.guideline ? ` ${this.task.guideline}` : "";
    if (!isNew) return $("note-guideline")?.remove();
    const text = seen ? `The guideline changed since you last looked: version ${this.task.guideline}.` : "There is a guideline. Read it before you begin.";
    this.note("guideline", "info", text, button("Read it", "G", () => this.openGuideline(), { class: "button small" }));
  }

  async openGuideline() {
    try {
      this.memory.write("guideline", await dialogs.guideline(this.base));
      if (this.task) this.noteGuideline();
    } catch (problem) {
      this.refused(problem);
    }
  }

  async openHistory() {
    try {
      await dialogs.history(this.base, LETTERS, (earlier) => this.change(earlier));
    } catch (problem) {
      this.refused(problem);
    }
  }

  remindOfBreak() {
    const minutes = this.work.break_minutes;
    if (!this.breaks.isDue(minutes)) return;
    this.note(
      "break",
      "good",
      `You have worked for ${Math.max(1, Math.round(minutes))} minutes. A short break keeps your eye sharp.`,
      button("I had one", "", () => (this.breaks.had(), $("note-break").remove()), { class: "button small" }),
      button("In ten minutes", "", () => (this.breaks.later(minutes), $("note-break").remove()), { class: "button small" }),
    );
  }

  // Buttons and keys

  turn(option) {
    this.options[option] = !this.options[option];
    this.memory.write("options", this.options);
    if (this.task) this.draw();
  }

  openHelp() {
    const turn = (option, label) =>
      button(label, "", (event) => {
        this.turn(option);
        event.currentTarget.setAttribute("aria-pressed", String(this.options[option]));
      }, { class: "chip", "aria-pressed": String(this.options[option]) });
    dialogs.help(this.task?.kind, [turn("keys", "Single keys act"), turn("instant", "Save as soon as everything is said")]);
  }

  wire() {
    const flag = () => !this.busy && this.task && this.mode !== "revise" && !this.after && dialogs.askFlag((why) => this.leave("Flagged.", "flag", { why }));
    const actions = {
      g: () => this.openGuideline(),
      h: () => this.openHistory(),
      "?": () => this.openHelp(),
      m: () => this.turn("markdown"),
      d: () => this.turn("diff"),
      l: () => this.turn("linked"),
      s: () => this.leave("Skipped.", "skip", {}),
      f: flag,
      u: () => this.undo(),
      t: () => this.canSay() && this.desk.tie(),
      w: () => this.canSay() && this.desk.reasons.text.focus(),
      v: () => this.task && this.turnTo(this.response + 1),
      "[": () => this.canSay() && this.desk.step(-1),
      "]": () => this.canSay() && this.desk.step(1),
      Escape: () => this.mode === "revise" && this.next(),
    };
    listen({
      actions,
      other: (key) => this.canSay() && this.desk.key(key),
      leave: () => $("heading").focus({ preventScroll: true }),
      save: () => this.save(),
      reason: (at) => this.canSay() && this.desk.reasons.press(at),
      isOn: () => this.options.keys,
    });
    const clicks = { "open-guideline": "g", "open-history": "h", "open-help": "?", "option-markdown": "m", "option-diff": "d", "option-linked": "l", skip: "s", flag: "f", undo: "u" };
    for (const [id, key] of Object.entries(clicks)) $(id).addEventListener("click", actions[key]);
    $("save").addEventListener("click", () => this.save());
    $("check-again").addEventListener("click", () => this.next());
  }

  canSay() {
    return Boolean(this.task) && !this.busy && !this.after;
  }
}

new Rater($("rater")).start();
