// Requests that must not get lost. A request is kept in the browser's storage, under the key that
// names it to the server, until it has an answer; a page that comes later sends it again.

import { freshKey, post, Problem } from "./api.js";

const AGAIN_MS = 1000;

export class Outbox {
  constructor(memory) {
    this.memory = memory;
  }

  /**
   * Send until there is an answer, and return it; throws the Problem when the server says no.
   * `draft` names what is kept of an unfinished verdict; the answer makes it superfluous.
   */
  put(url, body, draft = null) {
    const request = { url, body, key: freshKey(), draft };
    this.memory.write("outbox", request);
    return this.deliver(request);
  }

  /** Send what an earlier page left behind, if there is something. */
  async resume() {
    const request = this.memory.read("outbox");
    if (request) await this.deliver(request);
  }

  async deliver(request) {
    for (;;) {
      try {
        const answer = await post(request.url, request.body, { key: request.key });
        this.memory.write("outbox", null);
        if (request.draft) this.memory.write(request.draft, null);
        return answer;
      } catch (error) {
        if (error instanceof Problem) {
          if (!isSignedOut(error)) this.memory.write("outbox", null);
          throw error;
        }
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS)); // cut off in the answer
      }
    }
  }
}

/** Return whether the server would have taken it from somebody who is signed in. */
export function isSignedOut(problem) {
  return problem.status === 401 || problem.status === 403;
}
