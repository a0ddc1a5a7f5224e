// The guideline as raters would see it, before it is published; and a warning before it is lost.

import { post } from "./api.js";
import { toast } from "./base.js";
import { tree } from "./dom.js";

const form = document.getElementById("write");
const text = document.getElementById("text");
const previewed = document.getElementById("previewed");
const before = text.defaultValue;
let published = false;

document.getElementById("preview").addEventListener("click", async () => {
  try {
    previewed.replaceChildren(tree(await post(form.dataset.preview, { text: text.value }, { tries: 1 })));
    previewed.hidden = false;
    previewed.focus();
  } catch (error) {
    toast(error.message, "bad");
  }
});

form.addEventListener("posted", () => (published = true));
window.addEventListener("beforeunload", (event) => {
  if (!published && text.value !== before) event.preventDefault();
});
