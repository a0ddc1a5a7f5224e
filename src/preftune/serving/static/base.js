// On every page: news at the foot, the state of the connection, and forms that are sent as JSON.
//
//   <form data-post="/api/login" data-next="/projects">  inputs by name; data-list splits at commas
//   <button data-post="/api/people/x/disable" data-confirm="Sure?">
//
// What was sent well goes to data-next, else to the answer's own `next`, unless a listener of the
// event "posted" (detail: the answer) calls preventDefault(). What was refused is shown in the
// form's [data-problem], or as a toast.

import { post } from "./api.js";

const TOAST_MS = 6000;

// Shows a short sentence for a while and says it to screen readers.
export function toast(text, kind = "") {
  const line = document.createElement("div");
  line.className = `toast ${kind}`;
  line.textContent = text;
  document.getElementById("toasts").append(line);
  setTimeout(() => line.remove(), TOAST_MS);
}

// Returns the entries of a form as an object to send.
export function entries(form) {
  const found = {};
  for (const input of form.elements) {
    if (!input.name || input.disabled) continue;
    if (input.type === "checkbox") found[input.name] = input.checked;
    else if (input.type === "radio") {
      if (input.checked) found[input.name] = input.value;
    } else if (input.type === "number") found[input.name] = input.valueAsNumber;
    else if ("list" in input.dataset) {
      found[input.name] = input.value.split(/[,\n]/).map((part) => part.trim()).filter(Boolean);
    } else if ("optional" in input.dataset && !input.value) found[input.name] = null;
    else found[input.name] = input.value;
  }
  return found;
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
    if (element.dispatchEvent(posted)) {
      location.assign(element.dataset.next || answer.next || location.pathname);
    }
  } catch (error) {
    if (!problem) toast(error.message, "bad");
    else {
      problem.textContent = error.message;
      problem.hidden = false;
      problem.focus();
    }
  } finally {
    button.disabled = false;
    button.removeAttribute("aria-busy");
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.post) return;
  event.preventDefault();
  send(form, entries(form));
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-post]");
  if (!button) return;
  const question = button.dataset.confirm;
  if (!question || window.confirm(question)) send(button, {});
});

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
