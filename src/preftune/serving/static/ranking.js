// Listwise ranking. A ranking is groups of responses, best first; responses in one group are tied.
// The keyboard and the pointer end in the same function, `placed`.

import { keyOf } from "./keys.js";
import { el } from "./dom.js";

/** Return the ranking with one response alone at a place, counted from 0 over the others. */
export function placed(groups, response, place) {
  const others = groups.map((group) => group.filter((one) => one !== response)).filter((g) => g.length);
  let at = 0;
  for (let passed = 0; at < others.length && passed + others[at].length / 2 <= place - 0.25; at += 1) {
    passed += others[at].length;
  }
  return others.toSpliced(at, 0, [response]);
}

/** Return the ranking with a response one step better (-1) or worse (+1): out of its tie first. */
export function stepped(groups, response, step) {
  const at = groups.findIndex((group) => group.includes(response));
  if (groups[at].length > 1) {
    const rest = groups[at].filter((one) => one !== response);
    return groups.toSpliced(at, 1, ...(step < 0 ? [[response], rest] : [rest, [response]]));
  }
  const to = Math.max(0, Math.min(groups.length - 1, at + step));
  return groups.toSpliced(at, 1).toSpliced(to, 0, [response]);
}

/** Return the ranking with a response tied with those above it, or out of its tie. */
export function tied(groups, response) {
  const at = groups.findIndex((group) => group.includes(response));
  if (groups[at].length > 1) return stepped(groups, response, 1);
  if (at === 0) return groups;
  return groups.toSpliced(at - 1, 2, [...groups[at - 1], response]);
}

/** Return the place of each response, from 1; tied ones share theirs. */
export function placesOf(groups) {
  const places = new Map();
  let place = 1;
  for (const group of groups) {
    for (const response of group) places.set(response, place);
    place += group.length;
  }
  return places;
}

/**
 * A list that can be put in order.
 * @param options labels: names of the responses; tie: whether places may be shared;
 *   onchange(groups); announce(text)
 */
export class RankingControl {
  constructor({ labels, tie, onchange, announce }) {
    Object.assign(this, { labels, tie, onchange, announce });
    this.groups = labels.map((_, response) => [response]);
    this.held = null; // the response that arrows move
    this.node = el("ol", { class: "ranking", "aria-label": "Order, best first" });
    this.node.addEventListener("keydown", (event) => this.onkey(event));
    this.draw();
  }

  show(groups) {
    this.groups = groups;
    this.draw();
  }

  change(groups, response) {
    this.show(groups);
    this.onchange(groups);
    this.grip(response).focus();
    const shared = groups.some((group) => group.length > 1 && group.includes(response));
    const place = placesOf(groups).get(response);
    this.announce(`${this.labels[response]}: place ${place} of ${this.labels.length}${shared ? ", shared" : ""}`);
  }

  grip(response) {
    return this.node.querySelector(`[data-response="${response}"] .grip`);
  }

  draw() {
    const places = placesOf(this.groups);
    this.node.replaceChildren(...this.groups.flat().map((response) => this.row(response, places)));
  }

  row(response, places) {
    const label = this.labels[response];
    const place = places.get(response);
    const isTied = this.groups.some((group) => group.indexOf(response) > 0);
    const grip = el(
      "button",
      {
        type: "button",
        class: "grip",
        "aria-pressed": String(this.held === response),
        "aria-label": `${label}, place ${place} of ${this.labels.length}. Space picks it up, arrows move it.`,
        "data-verdict": true,
        onclick: () => this.hold(response),
        onpointerdown: (event) => this.drag(event, response),
      },
      el("span", { class: "grip-dots", "aria-hidden": "true" }, "⠿"),
      el("strong", {}, label),
    );
    return el(
      "li",
      { "data-response": response, class: isTied ? "is-tied" : "" },
      el("span", { class: "place" }, `${place}`),
      grip,
      el(
        "span",
        { class: "ranking-moves" },
        this.move("↑", `${label} up`, () => this.change(stepped(this.groups, response, -1), response)),
        this.move("↓", `${label} down`, () => this.change(stepped(this.groups, response, 1), response)),
        this.tie && this.move("=", `${label} shares the place above`, () => this.change(tied(this.groups, response), response)),
      ),
    );
  }

  move(sign, label, onclick) {
    return el("button", { type: "button", class: "button small", "aria-label": label, onclick }, sign);
  }

  hold(response) {
    this.held = this.held === response ? null : response;
    this.draw();
    this.grip(response).focus();
    this.announce(this.held === null ? `${this.labels[response]} put down.` : `${this.labels[response]} picked up. Arrows move it.`);
  }

  onkey(event) {
    const response = Number(event.target.closest("li")?.dataset.response);
    if (!event.target.matches(".grip") || event.ctrlKey || event.altKey || event.metaKey) return;
    const key = keyOf(event);
    const step = { ArrowUp: -1, ArrowDown: 1 }[key];
    if (step && this.held === response) this.change(stepped(this.groups, response, step), response);
    else if (step) this.focusBeside(response, step);
    else if (event.key === "=" && this.tie) this.change(tied(this.groups, response), response);
    else if (/^[1-9]$/.test(key) && !event.shiftKey && Number(key) <= this.labels.length) {
      this.change(placed(this.groups, response, Number(key) - 1), response);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  focusBeside(response, step) {
    const order = this.groups.flat();
    const at = Math.max(0, Math.min(order.length - 1, order.indexOf(response) + step));
    this.grip(order[at]).focus();
  }

  // The row follows the pointer; on release it takes the place it hangs over.
  drag(event, response) {
    if (event.button !== 0) return;
    const row = event.currentTarget.closest("li");
    const fromY = event.clientY;
    let moved = false;
    const follow = (move) => {
      moved ||= Math.abs(move.clientY - fromY) > 4;
      if (!moved) return;
      row.classList.add("is-dragged");
      row.style.transform = `translateY(${move.clientY - fromY}px)`;
    };
    const drop = (up) => {
      for (const [name, listener] of listeners) window.removeEventListener(name, listener);
      if (!moved || up.type === "pointercancel") return this.draw();
      // The click that follows the release must not pick the row up.
      window.addEventListener("click", (click) => click.stopPropagation(), { capture: true, once: true });
      setTimeout(() => this.change(placed(this.groups, response, this.placeAt(up.clientY, row)), response));
    };
    const listeners = [["pointermove", follow], ["pointerup", drop], ["pointercancel", drop]];
    for (const [name, listener] of listeners) window.addEventListener(name, listener);
  }

  // How many of the other rows have their middle above a height.
  placeAt(y, dragged) {
    const others = [...this.node.children].filter((row) => row !== dragged);
    return others.filter((row) => {
      const box = row.getBoundingClientRect();
      return box.top + box.height / 2 < y;
    }).length;
  }
}
