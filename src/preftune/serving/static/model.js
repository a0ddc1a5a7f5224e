// A prompt goes to a tuned model and to its base; their answers stand side by side.

import { post } from "./api.js";
import { entries } from "./base.js";
import { words } from "./dom.js";

const form = document.getElementById("try");
const sides = document.querySelectorAll("[data-said]");

async function ask(side) {
  const { model } = side.dataset;
  side.replaceChildren("…");
  side.setAttribute("aria-busy", "true");
  try {
    const answer = await post(form.dataset.url, { ...entries(form), model }, { tries: 1 });
    side.replaceChildren(words(answer.text));
    side.nextElementSibling.textContent = answer.told;
  } catch (error) {
    side.replaceChildren(words(error.message));
    side.nextElementSibling.textContent = "no answer";
  } finally {
    side.removeAttribute("aria-busy");
  }
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector('[type="submit"]');
  button.disabled = true;
  await Promise.all([...sides].map(ask));
  button.disabled = false;
});
