// Buttons that copy what they name: <button data-copy="ft:…">.

import { toast } from "./base.js";

document.addEventListener("click", async (event) => {
  const text = event.target.closest("button[data-copy]")?.dataset.copy;
  if (text === undefined) return;
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied.");
  } catch {
    toast("Select the text and copy it by hand.", "bad"); // no clipboard beyond localhost without TLS
  }
});
