// From a key to what it does. Letters never act inside a text field, nor with Ctrl, Alt or Meta.

import { keyOf } from "./keys.js";
import { isOpen } from "./rater_dialogs.js";

const FIELDS = "textarea, input, select, [contenteditable]";
const PRESSED_BY_ENTER = "button, a, summary";
const SCROLLS = new Set(["ArrowUp", "ArrowDown"]);

/**
 * Call `actions[key]()` for single keys; what is not named there goes to `other(key)`, which
 * returns whether it did something. `leave()` is called by Escape inside a text field, `save()` by
 * Enter, `reason(n)` by Shift and a digit, and `isOn()` says whether single keys are wanted.
 */
export function listen({ actions, other, leave, save, reason, isOn }) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || isOpen()) return;
    if (act(event, event.target)) event.preventDefault();
  });

  function act(event, target) {
    const withCtrl = event.ctrlKey || event.metaKey;
    if (target.matches(FIELDS)) {
      if (event.key === "Escape") return leave() ?? true;
      return event.key === "Enter" && withCtrl && !event.repeat && (save(), true);
    }
    if (withCtrl || event.altKey) return false;
    if (event.key === "Enter") return !isForTheButton(target) && !event.repeat && (save(), true);
    if (!isOn() || (SCROLLS.has(event.key) && target.matches(".pane, #prompt"))) return false;
    const key = keyOf(event);
    if (event.shiftKey && /^[1-9]$/.test(key)) return reason(Number(key) - 1);
    if (!(key in actions)) return other(key);
    if (!event.repeat) actions[key]();
    return true;
  }
}

// Enter presses the button in focus, except a verdict that is chosen already: there it saves.
function isForTheButton(target) {
  const pressed = target.closest(PRESSED_BY_ENTER);
  return pressed !== null && !pressed.matches('[data-verdict][aria-pressed="true"]');
}
