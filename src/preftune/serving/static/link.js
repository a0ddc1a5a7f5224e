// A link that lets somebody in carries its token behind the #, so it is in no log of any server. This
// puts it into the forms, takes it out of the address, and says what the link is for.

import { post } from "./api.js";
import { words } from "./dom.js";

const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
addEventListener("hashchange", () => location.reload()); // another link, opened in the same window

for (const input of document.querySelectorAll('input[name="token"]')) input.value = token;

function invited({ role, project }) {
  const where = project === null ? "this installation" : `the project “${project}”`;
  return `You are invited to ${where} as ${role === "admin" ? "an" : "a"} ${role}.`;
}

function forgot({ name, email }) {
  document.getElementById("account").value = email; // for the browser's keeper of passwords
  return `For ${name}. Every device that is signed in now is signed out.`;
}

const what = document.getElementById("what");
const forms = document.getElementById("forms");
if (what) {
  try {
    const found = await post(what.dataset.look, { token }, { tries: 3 });
    what.replaceChildren(words("role" in found ? invited(found) : forgot(found)));
    forms.hidden = false;
  } catch (error) {
    what.textContent = token ? error.message : "This link is not whole. Copy all of it.";
  }
}
