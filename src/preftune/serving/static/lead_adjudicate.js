// Keys of the page that settles an item: 1 to 7 and T answer the next dimension, Enter settles.

import { keyOf } from "./keys.js";

const form = document.getElementById("settle");
const questions = [...form.querySelectorAll("[data-dimension]")];

function open() {
  const inside = questions.find((one) => one.contains(document.activeElement));
  return inside ?? questions.find((one) => !one.querySelector("input:checked")) ?? questions.at(-1);
}

function answer(key) {
  const question = open();
  const meant = (one) => one.dataset.key === key || (key === "T" && "tie" in one.dataset);
  const choice = [...question.querySelectorAll("[data-key]")].find(meant);
  if (!choice) return false;
  choice.checked = true;
  const next = questions[questions.indexOf(question) + 1];
  const aim = next?.querySelector("input") ?? form.querySelector('[type="submit"]');
  aim.focus();
  return true;
}

const why = document.getElementById("why");
form.addEventListener("click", (event) => {
  const reason = event.target.closest("[data-reason]")?.dataset.reason;
  if (reason) why.value = why.value ? `${why.value}; ${reason}` : reason;
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("textarea, select, input:not([type=radio])");
  if (typing || event.ctrlKey || event.altKey || event.metaKey) return;
  const pressing = event.target.closest("button, a, summary");
  if (event.key === "Enter" && !pressing) {
    event.preventDefault();
    form.requestSubmit();
  } else if (answer(keyOf(event).toUpperCase())) event.preventDefault();
});
