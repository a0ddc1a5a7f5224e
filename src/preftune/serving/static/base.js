// On every page: news at the foot, the state of the connection, and forms that are sent as JSON.
//
//   <form data-post="/api/login" data-next="/projects" [data-confirm="Sure?"]>
//   <button data-post="/api/people/x/disable" data-confirm="Sure?">
//
// A form is sent by the names of its entries; a name with a dot goes into a group: settings.tie is
// {settings: {tie: …}}. data-list splits a text at commas and line ends, data-lines at line ends
// alone, data-number makes a number, data-optional makes null of nothing; the places in a
// [data-ranking] are sent as 2,1,3.
//
// What was sent well goes to data-next, else to the answer's own `next`, else to the same page anew,
// where the answer's `message` is shown; unless a listener of the event "posted" (detail: the answer)
// calls preventDefault(). What was refused is shown in the form's [data-problem], or as a toast; what
// was typed stays.

import { post } from "./api.js";
import { words } from "./dom.js";

const TOAST_MS = 6000;
const NEWS = "news";

// Shows a short sentence for a while and says it to screen readers.
export function toast(text, kind = "") {
  const line = document.createElement("div");
  line.className = `toast ${kind}`;
  line.append(words(text));
  document.getElementById("toasts").append(line);
  setTimeout(() => line.remove(), TOAST_MS);
}

// Returns what a form says as an object to send.
export function entries(form) {
  const found = {};
  for (const input of form.elements) {
    if (!input.name || input.disabled || (input.type === "radio" && !input.checked)) continue;
    put(found, input.name, valueOf(input));
  }
  for (const ranking of form.querySelectorAll("[data-ranking]")) {
    const places = [...ranking.querySelectorAll("[data-place]")].map((one) => one.value);
    put(found, ranking.dataset.ranking, places.join(","));
  }
  return found;
}

function valueOf(input) {
  if (input.type === "checkbox") return input.checked;
  if (input.type === "number") return input.valueAsNumber;
  if ("number" in input.dataset) return Number(input.value);
  if ("lines" in input.dataset) return parts(input.value, "\n");
  if ("list" in input.dataset) return parts(input.value, /[,\n]/);
  return "optional" in input.dataset && !input.value ? null : input.value;
}

function parts(text, separator) {
  return text.split(separator).map((part) => part.trim()).filter(Boolean);
}

// The groups have no prototype: somebody may call a dimension "__proto__".
function put(found, name, value) {
  const dot = name.indexOf(".");
  if (dot < 0) found[name] = value;
  else (found[name.slice(0, dot)] ??= Object.create(null))[name.slice(dot + 1)] = value;
}

async function send(element, body) {
  const button = element.matches("form") ? element.querySelector('[type="submit"]') : element;
  const problem = element.querySelector("[data-problem]");
  if (problem) problem.hidden = true;
  button.disabled = true;
  button.setAttribute("aria-busy", "true");
  try {
    const answer = await post(element.dataset.post, body, { tries: 1 });
    const posted = new CustomEvent("posted", { detail: answer, bubbles: true, cancelable: true });
    if (element.dispatchEvent(posted)) goOn(element.dataset.next || answer.next, answer.message);
  } catch (error) {
    if (!problem) toast(error.message, "bad");
    else {
      problem.replaceChildren(words(error.message));
      problem.hidden = false;
      problem.focus();
    }
  } finally {
    button.disabled = false;
    button.removeAttribute("aria-busy");
  }
}

function goOn(next, news) {
  if (news) sessionStorage.setItem(NEWS, news);
  if (next) location.assign(next);
  else location.reload();
}

function isConfirmed(element) {
  const question = element.dataset.confirm;
  return !question || window.confirm(question);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.post) return;
  event.preventDefault();
  if (isConfirmed(form)) send(form, entries(form));
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-post]");
  if (button && isConfirmed(button)) send(button, {});
});

const news = sessionStorage.getItem(NEWS);
if (news) {
  sessionStorage.removeItem(NEWS);
  toast(news);
}

const bar = document.getElementById("connection");
let hiding;

document.addEventListener("connection", (event) => {
  const lost = event.detail.state === "waiting";
  bar.className = lost ? "banner warn" : "banner good";
  bar.textContent = lost
    ? "No connection: not saved yet. This page keeps trying; leave it open."
    : "Connected again.";
  bar.hidden = false;
  clearTimeout(hiding);
  if (!lost) hiding = setTimeout(() => (bar.hidden = true), TOAST_MS);
});
