// An item on the page: the conversation, and the responses side by side.

import { diffWords } from "./diff.js";
import { el, plain, tree, words } from "./dom.js";

const ROLES = { system: "System prompt", user: "User", assistant: "Assistant", tool: "Tool result" };

/** Return the conversation before the responses; `trees` has each turn as Markdown, or is null. */
export function conversation(task, trees) {
  const turns = task.prompt.map((turn, at) => drawTurn(turn, trees?.prompt[at]));
  if (!task.tools.length) return turns;
  const offered = task.tools.map((tool) => el("pre", { class: "text code" }, words(tool)));
  return [folded(`Tools on offer: ${task.tools.length}`, ...offered), ...turns];
}

/** Return one block per response; `options` has trees (or null) and diff (mark what differs). */
export function responses(task, { trees, diff }) {
  const isMarked = diff && canDiffer(task);
  return task.responses.map((response, at) => {
    const other = isMarked ? task.responses[1 - at] : null;
    const id = `response-${response.label}`;
    const turns = response.turns.map((turn, place) =>
      drawTurn(turn, trees?.responses[at][place], {
        isAlone: response.turns.length === 1,
        marked: other && differences(turn, other.turns[place], at === 0),
      }),
    );
    return el(
      "article",
      { class: "card response", "aria-labelledby": id, "data-label": response.label },
      el("h2", { id }, task.kind === "rewrite" ? "Original" : `Response ${response.label}`),
      el("div", { class: "pane", tabindex: "0", role: "group", "aria-labelledby": id }, ...turns),
    );
  });
}

/** Return whether the differences between the responses can be marked. */
export function canDiffer(task) {
  return task.responses.length === 2;
}

function drawTurn(turn, rendered, { isAlone = false, marked = null } = {}) {
  const role = turn.role === "tool" && turn.tool ? `Tool result: ${plain(turn.tool)}` : ROLES[turn.role];
  const body = [turnText(turn, rendered, marked), ...turn.calls.map(drawCall)];
  if (turn.role === "system") return folded(role, ...body);
  const heading = isAlone ? null : el("h3", { class: "turn-role" }, role);
  return el("div", { class: `turn ${turn.role}` }, heading, ...body);
}

function turnText(turn, rendered, marked) {
  if (!turn.text) return turn.calls.length ? null : el("p", { class: "soft" }, "(no text)");
  if (rendered) return el("div", { class: "markdown prose", dir: "auto" }, tree(rendered));
  const isCode = turn.role === "tool";
  return el("div", { class: isCode ? "text code" : "text", dir: "auto" }, ...(marked ?? [words(turn.text)]));
}

function drawCall(call) {
  return el(
    "div",
    { class: "call" },
    el("h4", { class: "turn-role" }, `Calls ${plain(call.name)}`),
    el("pre", { class: "text code" }, words(call.arguments)),
  );
}

function folded(title, ...body) {
  return el("details", { class: "turn folded" }, el("summary", {}, title), ...body);
}

// What this turn has that the other response's turn at the same place has not is marked.
function differences(turn, other, isFirst) {
  const [before, after] = isFirst ? [turn.text, other?.text ?? ""] : [other?.text ?? "", turn.text];
  const own = isFirst ? "gone" : "new";
  return diffWords(before, after)
    .filter((piece) => piece.kind === "same" || piece.kind === own)
    .map((piece) => el(piece.kind === "same" ? "span" : "mark", {}, words(piece.text)));
}

/** Let panes scroll together, by the share of their height. Return a function that ends it. */
export function linkScroll(panes) {
  const put = new Map(); // where we scrolled a pane to: its event is no wish of the reader's
  const room = (pane) => pane.scrollHeight - pane.clientHeight;
  const follow = ({ target }) => {
    if (put.get(target) === target.scrollTop) return;
    const share = target.scrollTop / Math.max(1, room(target));
    for (const pane of panes) {
      if (pane !== target) pane.scrollTop = share * room(pane);
      put.set(pane, pane.scrollTop);
    }
  };
  panes.forEach((pane) => pane.addEventListener("scroll", follow));
  return () => panes.forEach((pane) => pane.removeEventListener("scroll", follow));
}
