// The states of the jobs on a page of the list, fetched anew while one of them lives.

import { get } from "./api.js";
import { words } from "./dom.js";

const EVERY_MS = 2000;
const list = document.getElementById("jobs");

function show(row, now) {
  const state = row.querySelector('[data-live="words"]');
  state.className = `tag ${now.tone}`;
  state.replaceChildren(words(now.words));
  row.querySelector('[data-live="how_far"]').textContent = now.how_far;
  const bar = row.querySelector("progress");
  bar.max = Math.max(1, now.total);
  bar.value = now.done;
  row.toggleAttribute("data-lives", now.lives);
}

async function renew() {
  const now = document.hidden ? {} : await get(list.dataset.now, { tries: 1 }).catch(() => ({}));
  for (const row of list.querySelectorAll("[data-job]")) {
    const found = now[row.dataset.job];
    if (found) show(row, found);
  }
  again();
}

function again() {
  if (list.querySelector("[data-lives]")) setTimeout(renew, EVERY_MS);
}

if (list) again();
