// The figures of the overview, fetched anew while the page is in view.

import { get } from "./api.js";

const EVERY_MS = 10000;
const page = document.getElementById("overview");
const bar = page.querySelector("progress");

function show(name, value) {
  const place = document.querySelector(`[data-live="${name}"]`);
  if (place) place.textContent = typeof value === "number" ? value.toLocaleString("en") : value;
}

function alphaWords(one) {
  if (one.alpha === null) return "nothing to compare yet";
  return `${one.alpha.toFixed(2)} (${one.low.toFixed(2)} to ${one.high.toFixed(2)})`;
}

async function renew() {
  if (document.hidden) return;
  const now = await get(page.dataset.now, { tries: 1 }).catch(() => null);
  if (now === null) return;
  const done = now.items.done + now.items.settled;
  show("labelled", done);
  show("open", now.items.open);
  show("settled", now.items.settled);
  show("votes", now.votes_this_hour);
  show("at", now.at.slice(11, 19));
  show("age", now.age && `, ${now.age}`);
  bar.max = Math.max(1, done + now.items.open);
  bar.value = done;
  for (const cell of document.querySelectorAll("[data-alpha]")) {
    const one = now.agreement.find((found) => found.dimension === cell.dataset.alpha);
    if (one) cell.textContent = alphaWords(one);
  }
}

setInterval(renew, EVERY_MS);
