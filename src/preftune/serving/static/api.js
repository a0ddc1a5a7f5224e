// Talking to the server: JSON, the page's token, and a key per request, so that a retry acts once.
//
//   const saved = await post(`/p/${id}/label/vote`, vote);
//
// A request that gets no answer (network lost, server starting again) is sent again under the same
// key until it is answered. Meanwhile `document` hears "connection" events with
// detail.state: "waiting" (no answer, trying again) and "back" (answered after that); base.js shows them.

const UNANSWERED = new Set([502, 503, 504, 507]);
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;

let csrf = document.querySelector('meta[name="csrf-token"]')?.content ?? "";
let waiting = 0;

// The server said no. `status` is 0 when it was not reached at all.
export class Problem extends Error {
  constructor(message, { status, code = "", request = "" }) {
    super(message);
    this.status = status;
    this.code = code;
    this.request = request;
  }
}

// Returns a name for a request that nobody else uses: 128 random bits.
export function freshKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Sends JSON and returns the JSON of the answer; throws a Problem when the server says no.
//   key     names the request; give one that is kept to send it again after a reload
//   tries   how often at most; a form that a person can send again has 1
//   signal  ends it
export function post(url, body = {}, { key = freshKey(), tries = Infinity, signal } = {}) {
  const send = () =>
    fetch(url, {
      method: "POST",
      body: JSON.stringify(body),
      headers: {
        Accept: "application/json",
        "Content-Type": "application/json",
        "Idempotency-Key": key,
        "X-CSRF-Token": csrf,
      },
      signal,
    });
  return answered(send, tries, signal);
}

// Fetches JSON, with the same patience.
export function get(url, { tries = Infinity, signal } = {}) {
  const send = () => fetch(url, { headers: { Accept: "application/json" }, signal });
  return answered(send, tries, signal);
}

async function answered(send, tries, signal) {
  let renewed = false;
  let waited = false;
  try {
    for (let tried = 1; ; tried += 1) {
      const answer = await send().catch((error) => {
        if (error.name === "AbortError") throw error;
        return null;
      });
      if (answer !== null && !UNANSWERED.has(answer.status)) {
        if (answer.ok) return await answer.json();
        const problem = await problemOf(answer);
        if (problem.code !== "csrf" || renewed) throw problem;
        renewed = true;
        await renew();
        continue;
      }
      if (tried >= tries) {
        throw answer === null
          ? new Problem("No connection. What you entered is still here; try again.", { status: 0 })
          : await problemOf(answer);
      }
      if (!waited) {
        waited = true;
        waiting += 1;
        tell("waiting");
      }
      await pause(tried, signal);
    }
  } finally {
    if (waited) {
      waiting -= 1;
      if (waiting === 0) tell("back");
    }
  }
}

async function problemOf(answer) {
  const said = await answer.json().catch(() => null);
  const error = said?.error ?? {};
  const message = error.message ?? (answer.status === 413 ? "Too large." : "Something went wrong.");
  return new Problem(message, { status: answer.status, code: error.code, request: error.request });
}

// Somebody signed in again in another tab: this page's token is of the session before.
async function renew() {
  const answer = await fetch("/api/session", { headers: { Accept: "application/json" } });
  if (!answer.ok) throw await problemOf(answer);
  csrf = (await answer.json()).csrf;
}

function tell(state) {
  document.dispatchEvent(new CustomEvent("connection", { detail: { state } }));
}

// Doubling, and a random part of it, so that many pages do not come back in step.
function pause(tried, signal) {
  const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(tried - 1, 10));
  const wait = longest * (0.5 + Math.random() / 2);
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, wait);
    signal?.addEventListener("abort", stop, { once: true });
    if (signal?.aborted) stop();
  });
}
