// Which words two texts share: the shortest script of Myers 1986, "An O(ND) Difference Algorithm".

const MOST_EDITS = 1500; // beyond, the middle counts as replaced whole: time grows with its square

/**
 * Return the pieces of both texts in order: {kind: "same" | "gone" | "new", text}.
 * The pieces "same" and "gone" joined give `before`; "same" and "new" give `after`.
 */
export function diffWords(before, after) {
  const one = split(before);
  const two = split(after);
  const start = shared(one, two);
  const end = shared(one.slice(start).reverse(), two.slice(start).reverse());
  const pieces = new Pieces();
  pieces.add("same", one.slice(0, start));
  middle(one.slice(start, one.length - end), two.slice(start, two.length - end), pieces);
  pieces.add("same", one.slice(one.length - end));
  return tidied(pieces.found);
}

// Blanks between two changes belong to them: "one two" → "three four" is one change, not two.
function tidied(pieces) {
  const found = new Pieces();
  let [gone, added] = ["", ""];
  const flush = () => {
    found.add("gone", gone ? [gone] : []);
    found.add("new", added ? [added] : []);
    [gone, added] = ["", ""];
  };
  pieces.forEach((piece, at) => {
    const isInside = (gone || added) && at + 1 < pieces.length && /^\s+$/.test(piece.text);
    if (piece.kind === "same" && !isInside) {
      flush();
      found.add("same", [piece.text]);
    } else {
      if (piece.kind !== "new") gone += piece.text;
      if (piece.kind !== "gone") added += piece.text;
    }
  });
  flush();
  return found.found;
}

class Pieces {
  found = [];

  add(kind, words) {
    if (!words.length) return;
    const last = this.found.at(-1);
    if (last?.kind === kind) last.text += words.join("");
    else this.found.push({ kind, text: words.join("") });
  }
}

function split(text) {
  return text.match(/\s+|[\p{L}\p{N}\p{M}_]+|[^\s\p{L}\p{N}\p{M}_]/gu) ?? [];
}

function shared(one, two) {
  let count = 0;
  while (count < one.length && count < two.length && one[count] === two[count]) count += 1;
  return count;
}

function middle(one, two, pieces) {
  const rounds = one.length && two.length ? furthest(one, two) : null;
  if (!rounds) {
    pieces.add("gone", one);
    pieces.add("new", two);
    return;
  }
  for (const [kind, word] of script(one, two, rounds)) pieces.add(kind, [word]);
}

// How far each diagonal got before each round of one more edit; null when too many are needed.
// Diagonal k of round n stands at place k + n + 1.
function furthest(one, two) {
  let reach = new Int32Array(3);
  const rounds = [];
  for (let edits = 0; edits <= MOST_EDITS; edits += 1) {
    rounds.push(reach);
    const next = new Int32Array(reach.length + 2);
    for (let diagonal = -edits; diagonal <= edits; diagonal += 2) {
      let x = reach[before(reach, diagonal, edits) + edits + 1];
      if (before(reach, diagonal, edits) < diagonal) x += 1;
      while (x < one.length && x - diagonal < two.length && one[x] === two[x - diagonal]) x += 1;
      next[diagonal + edits + 2] = x;
      if (x >= one.length && x - diagonal >= two.length) return rounds;
    }
    reach = next;
  }
  return null;
}

// The diagonal a path comes from: above (a new word) or below (a word gone), whichever got further.
function before(reach, diagonal, edits) {
  const at = (k) => reach[k + edits + 1];
  if (diagonal === -edits) return diagonal + 1;
  if (diagonal === edits) return diagonal - 1;
  return at(diagonal - 1) < at(diagonal + 1) ? diagonal + 1 : diagonal - 1;
}

// The way back from the end, then turned round.
function script(one, two, rounds) {
  const steps = [];
  let [x, y] = [one.length, two.length];
  const back = (kind) => {
    if (kind !== "new") x -= 1;
    if (kind !== "gone") y -= 1;
    steps.push([kind, kind === "new" ? two[y] : one[x]]);
  };
  for (let edits = rounds.length - 1; edits > 0; edits -= 1) {
    const from = before(rounds[edits], x - y, edits);
    const fromX = rounds[edits][from + edits + 1];
    const kind = from > x - y ? "new" : "gone";
    while (x > fromX + (kind === "gone" ? 1 : 0)) back("same");
    back(kind);
  }
  while (x > 0) back("same");
  return steps.reverse();
}
