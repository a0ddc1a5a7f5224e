// What opens above the page: guideline, own verdicts, help, and the reason of a flag.

import { get } from "./api.js";
import { button, el, plain, tree, words } from "./dom.js";
import { said } from "./rater_verdict.js";

const KEYS = [
  ["1 – 7", "verdict, from the first response to the last", "binary scale"],
  ["← →", "verdict, one step to the left or right", "binary scale"],
  ["↑ ↓", "to the list; with a response picked up, move it", "ranking"],
  ["Space", "pick up and put down the response in focus", "ranking"],
  ["1 – 9", "put the response in focus at that place", "ranking"],
  ["=", "let it share the place above, or no longer", "ranking"],
  ["O", "the order is right as it stands", "ranking"],
  ["E", "to the editor; Escape leaves it", "rewrite"],
  ["T", "tie", "binary scale ranking"],
  ["[ ]", "the dimension before, the next; where free, ↑ ↓ too", ""],
  ["Enter", "save and go on; in a text field, Ctrl + Enter", ""],
  ["U", "undo: take back the last verdict", ""],
  ["S", "skip: leave it to others", ""],
  ["F", "flag: something is wrong with this item", ""],
  ["W", "why: write a reason; Escape leaves it", ""],
  ["Shift + 1 – 9", "press a reason", ""],
  ["G", "guideline", ""],
  ["H", "your last verdicts, to change them", ""],
  ["M", "Markdown as it is meant, or as it is written", ""],
  ["D", "mark what differs between two responses", ""],
  ["L", "let the responses scroll together", ""],
  ["V", "on a narrow screen: the next response", ""],
  ["?", "this help", ""],
];

/** Open a dialog with a heading and a way out; return it. */
export function open(title, ...content) {
  const shown = el(
    "dialog",
    { class: "rater-dialog", "aria-labelledby": "dialog-title" },
    el(
      "div",
      { class: "dialog-head" },
      el("h2", { id: "dialog-title", tabindex: "-1" }, title),
      button("Close", "Esc", () => shown.close(), { class: "button quiet small" }),
    ),
    ...content,
  );
  shown.addEventListener("close", () => shown.remove());
  document.body.append(shown);
  shown.showModal();
  shown.querySelector("h2").focus();
  return shown;
}

export function isOpen() {
  return document.querySelector("dialog[open]") !== null;
}

export function help(kind, options) {
  const rows = KEYS.filter(([, , kinds]) => !kinds || !kind || kinds.split(" ").includes(kind));
  open(
    "Keys",
    el(
      "dl",
      { class: "keys" },
      ...rows.map(([key, what]) => el("div", {}, el("dt", {}, el("kbd", {}, key)), el("dd", {}, what))),
    ),
    el("p", { class: "soft" }, "Digits are the keys in the row above the letters, whatever your keyboard types there."),
    el("div", { class: "cluster" }, ...options),
  );
}

/** Show the guideline that holds; return its version. */
export async function guideline(base) {
  const found = await get(`${base}/guideline`);
  if (!found.version) {
    open("Guideline", el("p", { class: "soft" }, "There is none yet. Judge as you find right."));
    return 0;
  }
  const text = el("div", { class: "markdown prose" }, tree(found.tree));
  const asWritten = el("div", { class: "text", hidden: true }, words(found.text));
  const turn = button("As written", "", () => {
    [text.hidden, asWritten.hidden] = [!text.hidden, text.hidden];
    turn.setAttribute("aria-pressed", String(text.hidden));
  }, { class: "chip", "aria-pressed": "false" });
  open(`Guideline, version ${found.version}`, text, asWritten, el("div", {}, turn));
  return found.version;
}

/** Show one's own last verdicts; `change(earlier)` is called for the one to be changed. */
export async function history(base, labelsOf, change) {
  const found = await get(`${base}/history`);
  const rows = found.map((earlier) => {
    const told = Object.entries(earlier.verdicts).map(
      ([dimension, verdict]) => `${plain(dimension)}: ${said(verdict, labelsOf)}`,
    );
    const again = button("Change", "", () => {
      shown.close();
      change(earlier);
    }, { class: "button small", "aria-label": `Change the verdict on: ${plain(earlier.excerpt)}` });
    const fixed = el("span", { class: "soft" }, "practice: stays");
    return el(
      "li",
      {},
      el("div", {}, el("p", { class: "excerpt", dir: "auto" }, words(earlier.excerpt)), el("p", { class: "soft" }, told.join(" · "), ...reasons(earlier))),
      earlier.changeable ? again : fixed,
    );
  });
  const list = rows.length ? el("ol", { class: "history" }, ...rows) : el("p", { class: "soft" }, "Nothing yet.");
  const shown = open("Your last verdicts", list);
}

function reasons(earlier) {
  return Object.values(earlier.why).map((why) => el("span", { class: "why-said", dir: "auto" }, words(why)));
}

/** Ask what is wrong with the item; `flag(why)` is called with the answer. */
export function askFlag(flag) {
  const text = el("textarea", { id: "flag-why", rows: "4", maxlength: "4000", dir: "auto" });
  const form = el(
    "form",
    { class: "stack", onsubmit: submit },
    el("div", { class: "field" }, el("label", { for: "flag-why" }, "What is wrong with it?"), text, el("span", { class: "hint" }, "The lead reads this. You get the next item.")),
    el("div", { class: "cluster" }, el("button", { class: "button primary", type: "submit" }, "Flag it")),
  );
  const shown = open("Flag this item", form);
  text.focus();
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  });

  function submit(event) {
    event.preventDefault();
    shown.close();
    flag(text.value.trim());
  }
}
