// The lead's forms: sent as JSON, the answer's message shown on the page that comes next.
//
//   <form data-send="/p/…/settings" [data-confirm="Sure?"] [data-stay]>
//
// A name with a dot goes into a group: settings.tie is {settings: {tie: …}}. data-lines splits a text
// at line ends, data-list at commas, data-number makes a number. data-stay leaves the page to the
// event "posted". What was refused stands in the form's [data-problem]; what was typed stays.

import { post } from "./api.js";
import { toast } from "./base.js";

const NEWS = "lead-news";

function valueOf(input) {
  if (input.type === "checkbox") return input.checked;
  if (input.type === "number" || "number" in input.dataset) return Number(input.value);
  if ("lines" in input.dataset) return parts(input.value, "\n");
  if ("list" in input.dataset) return parts(input.value, ",");
  return input.value;
}

function parts(text, separator) {
  return text.split(separator).map((part) => part.trim()).filter(Boolean);
}

function put(body, name, value) {
  const dot = name.indexOf(".");
  if (dot < 0) body[name] = value;
  else (body[name.slice(0, dot)] ??= {})[name.slice(dot + 1)] = value;
}

// Returns what a form says as an object to send.
export function bodyOf(form) {
  const body = {};
  for (const input of form.elements) {
    if (!input.name || input.disabled || (input.type === "radio" && !input.checked)) continue;
    put(body, input.name, valueOf(input));
  }
  for (const ranking of form.querySelectorAll("[data-ranking]")) {
    const places = [...ranking.querySelectorAll("[data-place]")].map((one) => one.value);
    put(body, ranking.dataset.ranking, places.join(","));
  }
  return body;
}

async function send(form) {
  const button = form.querySelector('[type="submit"]');
  const problem = form.querySelector("[data-problem]");
  problem.hidden = true;
  button.disabled = true;
  button.setAttribute("aria-busy", "true");
  try {
    const answer = await post(form.dataset.send, bodyOf(form), { tries: 1 });
    form.dispatchEvent(new CustomEvent("posted", { detail: answer, bubbles: true }));
    if ("stay" in form.dataset) return;
    sessionStorage.setItem(NEWS, answer.message);
    if (answer.to) location.assign(answer.to);
    else location.reload();
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
    problem.focus();
  } finally {
    button.disabled = false;
    button.removeAttribute("aria-busy");
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.send) return;
  event.preventDefault();
  if (!form.dataset.confirm || window.confirm(form.dataset.confirm)) send(form);
});

const news = sessionStorage.getItem(NEWS);
if (news) {
  sessionStorage.removeItem(NEWS);
  toast(news);
}

// On a phone the tabs scroll: bring the current one into sight.
document.querySelector(".tabs [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

// The known answer of an item is asked for only where it has one.
const use = document.getElementById("use");
const gold = document.getElementById("gold");
if (use && gold) {
  const match = () => (gold.hidden = use.value === "label");
  use.addEventListener("change", match);
  match();
}

const verified = document.getElementById("verified");
document.getElementById("verify")?.addEventListener("posted", (event) => {
  verified.textContent = event.detail.message;
  verified.className = event.detail.whole ? "banner good" : "banner bad";
  verified.hidden = false;
});
