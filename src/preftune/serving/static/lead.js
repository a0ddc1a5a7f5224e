// What several of the lead's pages do: the tabs, the known answer of an item, and the check of the log.

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
  event.preventDefault();
  verified.textContent = event.detail.message;
  verified.className = event.detail.whole ? "banner good" : "banner bad";
  verified.hidden = false;
});
