// Charts of what a job measured, drawn as SVG, as wide as the page lets them be.
//
//   const board = new Board(place);   // an element of the page
//   board.add(charts);                // as `serving/curves.py` makes them; points are added to those there
//
// Each chart has axes, a legend whose entries switch curves off, and a cursor that shows the values of
// a step: under the pointer, or moved by the arrow keys. Curves of training can be smoothed, and shown
// on a logarithmic axis where all is above zero.

import { el, plain, words } from "./dom.js";
import { decades, inWords, smoothed, ticks } from "./curve_numbers.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 220;
const EDGE = { top: 10, right: 12, bottom: 26, left: 52 };
const DOTS = 40; // points are marked while there are no more of them
const COLOURS = 6;

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** All charts of a page, with what is set for all of them. */
export class Board {
  constructor(place) {
    this.place = place;
    this.smoothing = 0;
    this.charts = new Map();
    const said = el("output", { class: "number" }, "off");
    const slider = el("input", { type: "range", min: "0", max: "0.95", step: "0.05", value: "0", id: "smoothing" });
    slider.addEventListener("input", () => {
      this.smoothing = slider.valueAsNumber;
      said.textContent = this.smoothing ? this.smoothing.toFixed(2) : "off";
      for (const chart of this.charts.values()) chart.plan();
    });
    this.tools = el("div", { class: "curve-tools", hidden: true }, el("label", { for: "smoothing" }, "Smoothing"), slider, said);
    this.grid = el("div", { class: "curves" });
    place.append(this.tools, this.grid);
    this.watcher = new ResizeObserver((seen) => seen.forEach(({ target }) => target.chart?.plan()));
  }

  add(charts) {
    for (const given of charts) {
      if (!this.charts.has(given.title)) this.begin(given);
      this.charts.get(given.title).add(given.series);
    }
    this.tools.hidden = this.charts.size === 0;
  }

  begin(given) {
    const chart = new Chart(this, given);
    this.charts.set(given.title, chart);
    this.grid.append(chart.figure);
    this.watcher.observe(chart.drawing);
  }
}

class Chart {
  constructor(board, { title, unit, help }) {
    this.board = board;
    this.title = title;
    this.unit = unit;
    this.series = new Map();
    this.log = false;
    this.at = null; // the step under the cursor; null: none
    this.planned = false;
    this.logButton = el(
      "button",
      { type: "button", class: "chip", "aria-pressed": "false", onclick: () => this.turnLog() },
      "log",
    );
    this.drawing = svg("svg", { class: "curve", height: HEIGHT, role: "slider", tabindex: 0 });
    this.drawing.chart = this;
    this.drawing.addEventListener("pointermove", (event) => this.point(event));
    this.drawing.addEventListener("pointerleave", () => this.move(null));
    this.drawing.addEventListener("keydown", (event) => this.key(event));
    this.legend = el("ul", { class: "legend" });
    this.told = el("p", { class: "soft small" });
    this.figure = el(
      "figure",
      { class: "card curve-card" },
      el("div", { class: "curve-head" }, el("h3", {}, words(title), unit ? el("span", { class: "soft small" }, ` ${unit}`) : null), this.logButton),
      this.drawing,
      this.legend,
      help ? el("figcaption", { class: "soft small" }, help) : null,
    );
  }

  add(series) {
    for (const given of series) {
      if (!this.series.has(given.key)) this.begin(given);
      const one = this.series.get(given.key);
      const last = one.steps.at(-1) ?? -1;
      given.steps.forEach((step, at) => {
        if (step <= last) return; // there already
        one.steps.push(step);
        one.values.push(given.values[at]);
      });
    }
    this.plan();
  }

  begin({ key, label, dashed, hue }) {
    const colour = hue % COLOURS;
    const said = el("span", { class: "number" });
    const kind = `swatch curve-${colour}${dashed ? " dashed" : ""}`;
    const swatch = svg("svg", { class: kind, width: 24, height: 10, "aria-hidden": true }, svg("line", { x1: 1, x2: 23, y1: 5, y2: 5 }));
    const one = { key, label, dashed, colour, said, steps: [], values: [], hidden: false };
    const button = el(
      "button",
      { type: "button", class: "legend-entry", "aria-pressed": "true", onclick: () => this.turn(one, button) },
      swatch,
      el("span", {}, words(label)),
      said,
    );
    this.series.set(key, one);
    this.legend.append(el("li", {}, button));
  }

  turn(one, button) {
    one.hidden = !one.hidden;
    button.setAttribute("aria-pressed", String(!one.hidden));
    this.plan();
  }

  turnLog() {
    this.log = !this.log;
    this.logButton.setAttribute("aria-pressed", String(this.log));
    this.plan();
  }

  get shown() {
    return [...this.series.values()].filter((one) => !one.hidden && one.steps.length);
  }

  // Draws with the next frame, once, however much has changed until then.
  plan() {
    if (this.planned) return;
    this.planned = true;
    requestAnimationFrame(() => {
      this.planned = false;
      this.draw();
    });
  }

  draw() {
    const { width } = this.drawing.getBoundingClientRect();
    if (!width) return;
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const lowest = Math.min(...[...this.series.values()].map((one) => least(one.values)));
    this.logButton.disabled = !(lowest > 0);
    this.axes = this.scaled(width, this.log && lowest > 0);
    this.drawing.replaceChildren(...this.grid(width), ...this.shown.flatMap((one) => this.curve(one)));
    this.cursor = svg("g", { class: "cursor" });
    this.drawing.append(this.cursor);
    this.move(this.at);
  }

  scaled(width, log) {
    const values = this.shown.flatMap((one) => [least(one.values), most(one.values)]);
    const steps = this.shown.flatMap((one) => [one.steps[0], one.steps.at(-1)]);
    const [first, last] = steps.length ? [least(steps), most(steps)] : [0, 1];
    let [low, high] = values.length ? [least(values), most(values)] : [0, 1];
    const flat = high - low < 1e-12 * Math.max(1, Math.abs(high));
    if (log) [low, high] = [low / (flat ? 2 : 1.05), high * (flat ? 2 : 1.05)];
    else {
      const room = flat ? Math.max(Math.abs(high) * 0.05, 1e-6) : (high - low) * 0.06;
      [low, high] = [low - room, high + room];
    }
    const place = log ? Math.log : (value) => value;
    const inner = width - EDGE.left - EDGE.right;
    return {
      first,
      last,
      low,
      high,
      log,
      x: (step) => EDGE.left + (last === first ? 0.5 : (step - first) / (last - first)) * inner,
      y: (value) =>
        EDGE.top + (1 - (place(value) - place(low)) / (place(high) - place(low))) * (HEIGHT - EDGE.top - EDGE.bottom),
    };
  }

  grid(width) {
    const { first, last, low, high, log, x, y } = this.axes;
    const marks = log ? decades(low, high) : ticks(low, high, 4);
    const lines = marks.flatMap((value) => [
      svg("line", { class: "grid-line", x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) }),
      svg("text", { x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" }, inWords(value)),
    ]);
    const steps = ticks(first, last, Math.max(2, Math.floor(width / 110))).filter(Number.isInteger);
    const below = steps.map((step) => svg("text", { x: x(step), y: HEIGHT - 8, "text-anchor": "middle" }, inWords(step)));
    const foot = HEIGHT - EDGE.bottom;
    return [...lines, svg("line", { class: "axis", x1: EDGE.left, x2: width - EDGE.right, y1: foot, y2: foot }), ...below];
  }

  curve(one) {
    const { x, y } = this.axes;
    const kind = `curve-${one.colour}${one.dashed ? " dashed" : ""}`;
    const smooth = !one.dashed && this.board.smoothing > 0;
    const values = smooth ? smoothed(one.values, this.board.smoothing) : one.values;
    const path = (ys) => one.steps.map((step, at) => `${at ? "L" : "M"}${x(step).toFixed(1)} ${y(ys[at]).toFixed(1)}`).join("");
    const drawn = [svg("path", { class: kind, d: path(values) })];
    if (smooth) drawn.unshift(svg("path", { class: `${kind} raw`, d: path(one.values) }));
    if (one.steps.length === 1 || (one.dashed && one.steps.length <= DOTS)) {
      drawn.push(...one.steps.map((step, at) => svg("circle", { class: kind, cx: x(step), cy: y(values[at]), r: 3 })));
    }
    return drawn;
  }

  point(event) {
    if (!this.axes) return;
    const steps = this.steps();
    const from = this.drawing.getBoundingClientRect().left;
    const near = (step) => Math.abs(this.axes.x(step) - (event.clientX - from));
    this.move(steps.reduce((best, step) => (best === null || near(step) < near(best) ? step : best), null));
  }

  key(event) {
    const steps = this.steps();
    if (!steps.length) return;
    const at = this.at === null ? steps.length - 1 : steps.indexOf(this.at);
    const page = Math.max(1, Math.round(steps.length / 10));
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, PageDown: at - page, PageUp: at + page, Home: 0, End: steps.length - 1 };
    if (event.key === "Escape") this.move(null);
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.move(steps[Math.max(0, Math.min(steps.length - 1, moves[event.key]))]);
  }

  steps() {
    return [...new Set(this.shown.flatMap((one) => one.steps))].sort((a, b) => a - b);
  }

  // Shows the values of a step; null: of the last one.
  move(step) {
    this.at = step;
    this.cursor?.replaceChildren();
    for (const one of this.series.values()) {
      const place = step === null ? one.steps.length - 1 : one.steps.indexOf(step);
      one.said.textContent = place < 0 ? "–" : inWords(one.values[place]);
      if (step === null || place < 0 || one.hidden || !this.axes) continue;
      const dot = { cx: this.axes.x(step), cy: this.axes.y(one.values[place]), r: 4 };
      this.cursor.append(svg("circle", { class: `curve-${one.colour}`, ...dot }));
    }
    if (step !== null && this.axes) {
      const x = this.axes.x(step);
      const end = x > this.drawing.getBoundingClientRect().width / 2 ? "end" : "start";
      this.cursor.prepend(
        svg("line", { x1: x, x2: x, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }),
        svg("text", { x: x + (end === "end" ? -6 : 6), y: EDGE.top + 8, "text-anchor": end }, `step ${inWords(step)}`),
      );
    }
    this.say();
  }

  // What a screen reader says of the cursor.
  say() {
    const steps = this.steps();
    const values = this.shown.map((one) => `${plain(one.label)} ${one.said.textContent}`);
    const now = this.at ?? steps.at(-1) ?? 0;
    const said = {
      "aria-label": `${plain(this.title)}, step by step`,
      "aria-valuemin": steps[0] ?? 0,
      "aria-valuemax": steps.at(-1) ?? 0,
      "aria-valuenow": now,
      "aria-valuetext": `step ${now}: ${values.join(", ") || "nothing is shown"}`,
    };
    for (const [name, value] of Object.entries(said)) this.drawing.setAttribute(name, String(value));
  }
}

function least(values) {
  return values.reduce((found, value) => Math.min(found, value), Infinity);
}

function most(values) {
  return values.reduce((found, value) => Math.max(found, value), -Infinity);
}
