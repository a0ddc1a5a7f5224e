// Time at work: how long an item was looked at, and when a break would do good.

const AWAY_MS = 5 * 60_000; // without a verdict for that long, a break was had
const LATER_MS = 10 * 60_000;

/** Seconds during which the page was visible since `start`. */
export class Watch {
  constructor() {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.stop();
      else this.began = performance.now();
    });
    this.start(0);
  }

  start(already_s) {
    this.spent_ms = already_s * 1000;
    this.began = document.hidden ? null : performance.now();
  }

  stop() {
    this.spent_ms = this.seconds() * 1000;
    this.began = null;
  }

  seconds() {
    const running = this.began === null ? 0 : performance.now() - this.began;
    return Math.round(this.spent_ms + running) / 1000;
  }
}

/** Work since the last break; it outlives a reload of the page. */
export class Breaks {
  constructor(memory) {
    this.memory = memory;
  }

  /** Count the time since the last verdict, and return whether a break is due. */
  isDue(minutes) {
    const now = Date.now();
    const before = this.memory.read("work") ?? { worked: 0, last: now };
    const gap = now - before.last;
    const worked = gap > AWAY_MS ? 0 : before.worked + gap;
    this.memory.write("work", { worked, last: now });
    return minutes > 0 && worked >= minutes * 60_000;
  }

  had() {
    this.memory.write("work", { worked: 0, last: Date.now() });
  }

  later(minutes) {
    const worked = Math.max(0, minutes * 60_000 - LATER_MS);
    this.memory.write("work", { worked, last: Date.now() });
  }
}
