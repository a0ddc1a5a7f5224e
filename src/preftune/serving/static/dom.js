// Elements and words. Text from models, logs and people goes into text nodes alone.

// Controls, bidi marks, private and other invisible characters. New lines and tabs stay, and so do
// the two joiners that several scripts and emoji need.
const HIDDEN = /(?![\n\t\u200c\u200d])[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]/gu;

const TAGS = new Set(
  "p br hr blockquote ul ol li h1 h2 h3 h4 h5 h6 strong em s code pre table thead tbody tr th td u".split(" "),
);

/** Return an element: `el("p", {class: "note"}, "words", child)`. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Return a foreign text as nodes, each hidden character spelt out as ⟨U+202E⟩. */
export function words(text) {
  const found = document.createDocumentFragment();
  const lines = text.replaceAll("\r\n", "\n");
  let from = 0;
  for (const match of lines.matchAll(HIDDEN)) {
    found.append(lines.slice(from, match.index), spelt(match[0]));
    from = match.index + match[0].length;
  }
  found.append(lines.slice(from));
  return found;
}

/** Return a foreign text as one line of plain words, for labels and announcements. */
export function plain(text) {
  return text.replace(HIDDEN, name).replace(/\s+/g, " ");
}

/** Return a tree of rendered Markdown as nodes; a tag that is not on the list is left out. */
export function tree(children) {
  const found = document.createDocumentFragment();
  for (const child of children) {
    if (typeof child === "string") {
      found.append(words(child));
    } else if (TAGS.has(child.tag)) {
      const made = document.createElement(headingDown(child.tag));
      if (child.start !== null && child.tag === "ol") made.setAttribute("start", String(child.start));
      made.append(tree(child.children));
      found.append(made);
    }
  }
  return found;
}

/** Return a button with the key that does the same. */
export function button(label, key, onclick, attributes = {}) {
  const shownKey = key ? el("kbd", { "aria-hidden": "true" }, key) : null;
  return el("button", { type: "button", class: "button", onclick, ...attributes }, label, shownKey);
}

// The page has the headings 1 to 3; a text's own come below them.
function headingDown(tag) {
  const level = /^h([1-6])$/.exec(tag);
  return level ? `h${Math.min(6, Number(level[1]) + 3)}` : tag;
}

function spelt(character) {
  return el("span", { class: "hidden-character" }, name(character));
}

function name(character) {
  return `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
}
