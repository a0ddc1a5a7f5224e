// What a key is called, whatever alphabet the keyboard types.

/**
 * Return "1" to "9" for the row above the letters, whatever it types: on AZERTY that is "&é…", and
 * digits come with Shift alone. A letter comes in lower case, one of another alphabet as the Latin
 * one on the same key. Anything else is as typed.
 */
export function keyOf(event) {
  const [, digit, letter] = /^(?:Digit([1-9])|Key([A-Z]))$/.exec(event.code) ?? [];
  if (digit && !event.getModifierState("AltGraph")) return digit; // with AltGr it types [ or ]
  if (letter && /^[^\x00-\x7f]$/.test(event.key)) return letter.toLowerCase();
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}
