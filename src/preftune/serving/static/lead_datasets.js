// How far the latest dataset is, until it is made or could not be.

import { get } from "./api.js";
import { toast } from "./base.js";
import { words } from "./dom.js";

const EVERY_MS = 2000;
const card = document.getElementById("making");

function show(now) {
  card.querySelector("[data-words]").replaceChildren(words(now.words));
  const bar = card.querySelector("progress");
  bar.max = Math.max(1, now.total);
  bar.value = now.done;
  bar.hidden = !now.runs;
  if (!now.to) return;
  const link = card.querySelector("[data-to]");
  link.href = now.to;
  link.parentElement.hidden = false;
}

async function renew() {
  const now = document.hidden ? null : await get(card.dataset.now, { tries: 1 }).catch(() => null);
  if (now !== null) show(now);
  if (now === null || now.runs) setTimeout(renew, EVERY_MS);
  else toast(now.words); // which screen readers say
}

if (card && "runs" in card.dataset) setTimeout(renew, EVERY_MS);
