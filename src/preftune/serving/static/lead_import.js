// A file goes to the server in pieces of whole lines, so that its size does not matter. A piece is
// imported whole or not at all; the same file can be sent again.

import { post } from "./api.js";

const PIECE_CHARACTERS = 500_000;
const PIECE_LINES = 1000;
const form = document.getElementById("import");
const bar = form.querySelector("progress");
const sending = document.getElementById("sending");
const said = document.getElementById("said");
const problem = form.querySelector("[data-problem]");

async function* linesOf(file) {
  const reader = file.stream().pipeThrough(new TextDecoderStream("utf-8", { fatal: true })).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines;
  }
  if (rest) yield rest;
}

// The prompts that the responses of a piece name, where they stand in earlier pieces.
class Prompts {
  constructor() {
    this.lines = new Map();
  }

  beside(lines) {
    const wanted = new Set();
    for (const line of lines) {
      const row = parsed(line);
      if (row?.type === "prompt") this.lines.set(row.id, line);
      else if (row?.type === "response") wanted.add(row.prompt_id);
    }
    return [...wanted].map((id) => this.lines.get(id)).filter((line) => line !== undefined);
  }
}

function parsed(line) {
  try {
    return JSON.parse(line);
  } catch {
    return null; // the server says what is wrong with it
  }
}

async function* piecesOf(file) {
  const prompts = new Prompts();
  let lines = [];
  let first = 1;
  let size = 0;
  for await (const line of linesOf(file)) {
    if (lines.length && (size + line.length > PIECE_CHARACTERS || lines.length >= PIECE_LINES)) {
      yield { name: file.name, first_line: first, lines, prompts: prompts.beside(lines) };
      first += lines.length;
      lines = [];
      size = 0;
    }
    lines.push(line);
    size += line.length;
  }
  if (lines.length) yield { name: file.name, first_line: first, lines, prompts: prompts.beside(lines) };
}

async function send(file) {
  const total = { new: 0, known: 0, judgments: 0 };
  let sent = 0;
  for await (const piece of piecesOf(file)) {
    const answer = await post(form.dataset.url, piece);
    for (const name of Object.keys(total)) total[name] += answer[name];
    sent += piece.lines.reduce((sum, line) => sum + line.length + 1, 0);
    bar.value = Math.min(1, sent / file.size);
    said.textContent = words(total);
  }
  return total;
}

function words(total) {
  const found = [`${total.new.toLocaleString("en")} new items`];
  if (total.known) found.push(`${total.known.toLocaleString("en")} there already`);
  if (total.judgments) found.push(`${total.judgments.toLocaleString("en")} judgments left out`);
  return found.join(", ") + ".";
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const file = document.getElementById("file").files[0];
  const button = form.querySelector('[type="submit"]');
  problem.hidden = true;
  sending.hidden = false;
  bar.value = 0;
  said.textContent = "";
  button.disabled = true;
  try {
    const total = await send(file);
    bar.value = 1;
    said.textContent = `Done: ${words(total)}`;
  } catch (error) {
    const reason = error instanceof TypeError ? "Not UTF-8. Save the file as UTF-8." : error.message;
    problem.textContent = `${reason}\nLines before these are imported. Mend the file and send it again.`;
    problem.hidden = false;
    problem.focus();
  } finally {
    button.disabled = false;
  }
});
