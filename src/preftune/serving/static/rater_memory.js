// What outlives a reload: unfinished verdicts, requests without an answer, options.

const KEEP_MS = 14 * 24 * 3600 * 1000;

/** A part of the browser's storage, for one person in one project; without storage, it forgets. */
export class Memory {
  constructor(project, person, area = () => window.localStorage) {
    this.prefix = `preftune:${project}:${person}:`;
    try {
      this.area = area();
    } catch {
      this.area = null;
    }
  }

  read(name) {
    try {
      return JSON.parse(this.area?.getItem(this.prefix + name) ?? "null");
    } catch {
      return null;
    }
  }

  /** Keep a value; null forgets it. Return whether it is kept. */
  write(name, value) {
    try {
      if (value === null) this.area?.removeItem(this.prefix + name);
      else this.area?.setItem(this.prefix + name, JSON.stringify(value));
      return this.area !== null;
    } catch {
      return false; // full or forbidden
    }
  }

  /** Forget unfinished verdicts that nobody came back to. */
  forgetOldDrafts() {
    for (const key of Object.keys(this.area ?? {})) {
      if (!key.startsWith(`${this.prefix}draft:`)) continue;
      const draft = this.read(key.slice(this.prefix.length));
      if (!draft || Date.now() - draft.at > KEEP_MS) this.area.removeItem(key);
    }
  }
}

/** Return under which name an unfinished verdict is kept; a change of an earlier one has its own. */
export function draftName(task, mode) {
  return `draft:${mode === "revise" ? "change:" : ""}${task.item_id}:${task.round}`;
}
