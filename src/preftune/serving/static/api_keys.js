// A key is shown once, when it is made.

const shown = document.getElementById("made");

document.addEventListener("posted", (event) => {
  if (!event.detail.secret) return;
  event.preventDefault();
  const text = document.getElementById("secret");
  text.value = event.detail.secret;
  shown.querySelector("[data-copy]").dataset.copy = event.detail.secret;
  shown.hidden = false;
  text.focus();
  text.select();
});
