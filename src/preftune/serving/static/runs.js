// The curves of several jobs over each other, fetched anew while one of them lives.

import { get } from "./api.js";
import { Board } from "./curves.js";

const EVERY_MS = 5000;
const place = document.getElementById("curves");
const board = place && new Board(place);

async function renew() {
  const now = document.hidden ? null : await get(place.dataset.now, { tries: 1 }).catch(() => null);
  if (now !== null) board.add(now.charts);
  place.previousElementSibling.hidden = board.charts.size > 0;
  if (now === null || now.lives) setTimeout(renew, EVERY_MS);
}

if (place) renew();
