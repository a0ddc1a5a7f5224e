// A link, of an invitation or for a new password, is shown once, with a button that copies it.

import { toast } from "./base.js";

const shown = document.getElementById("link");
const text = document.getElementById("link-text");
const role = document.getElementById("role");
const project = document.getElementById("project-field");
const choice = project.querySelector("select");

document.addEventListener("posted", (event) => {
  if (!event.detail.link) return;
  event.preventDefault();
  document.getElementById("link-words").textContent = event.target.dataset.words;
  text.value = event.detail.link;
  shown.hidden = false;
  text.focus();
  text.select();
});

document.getElementById("copy").addEventListener("click", async () => {
  text.select();
  try {
    await navigator.clipboard.writeText(text.value);
    toast("Copied.");
  } catch {
    toast("Select the link and copy it by hand.", "bad"); // no clipboard beyond localhost without TLS
  }
});

function match() {
  const admin = role.value === "admin";
  project.hidden = admin;
  choice.value = admin ? "" : choice.value || choice.options[0].value;
}

role.addEventListener("change", match);
match();
