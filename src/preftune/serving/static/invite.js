// The invitation's token stands behind the #, so it is in no log of any server. This puts it into
// the form and takes it out of the address.

import { post } from "./api.js";

const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname);

for (const input of document.querySelectorAll('input[name="token"]')) input.value = token;

const what = document.getElementById("what");
const forms = document.getElementById("forms");
if (what) {
  try {
    const invite = await post("/api/invites/look", { token }, { tries: 3 });
    const article = invite.role === "admin" ? "an" : "a";
    const where = invite.project === null ? "this installation" : `the project “${invite.project}”`;
    what.textContent = `You are invited to ${where} as ${article} ${invite.role}.`;
    forms.hidden = false;
  } catch (error) {
    what.textContent = token ? error.message : "This link is not whole. Copy all of it.";
  }
}
