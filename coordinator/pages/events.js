// The coordinator's events, for as long as the page is looked at.

import { el } from "/pages/dom.js";
import { ask, unlocked } from "/pages/key.js";

const AGAIN_MS = 3000;
/** Longer than from one event of figures to the next while tokens come. */
const IDLE_MS = 1500;

/**
 * Calls `on(event)` for every event of `GET /api/events`, `on({event: "open"})` before the first and
 * `on({event: "offline"})` when nothing comes any more. Where a key is wanted, the page asks for it; with `quiet` it
 * hears `on({event: "locked"})` instead, once.
 *
 * A browser opens only six connections to a server at a time, so a hidden page lets its own go. An EventSource could send no
 * key, so the stream is read by hand.
 */
export function watch(on, { quiet = false } = {}) {
  let reading = null;
  const open = async () => {
    if (reading || document.hidden) return;
    const mine = (reading = new AbortController());
    const { signal } = mine;
    try {
      const response = await (quiet ? ask : unlocked)("/api/events", { signal });
      if (response.status === 401) return on({ event: "locked" });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      on({ event: "open" });
      for await (const line of lines(response.body.pipeThrough(new TextDecoderStream()))) {
        if (signal.aborted) return;
        if (line.startsWith("data: ")) on(JSON.parse(line.slice("data: ".length)));
      }
    } catch (error) {
      if (!signal.aborted) console.debug(error);
    }
    if (reading !== mine) return;
    reading = null;
    on({ event: "offline" });
    setTimeout(open, AGAIN_MS);
  };
  const close = () => {
    reading?.abort();
    reading = null;
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
}

/** The lines of a stream of text. */
export async function* lines(stream) {
  const reader = stream.getReader();
  let held = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (cause) {
      throw new Error("The connection to the coordinator broke off.", { cause });
    }
    if (part.done) return;
    held += part.value;
    const whole = held.split("\n");
    held = whole.pop();
    yield* whole;
  }
}

/** Which nodes answered frames between one `figures` event and the next. */
export class Computing {
  #frames = new Map();
  #later = 0;

  /** Figures come only when they change: `on` hears the names of those that still compute when none have come for a while. */
  constructor(on) {
    this.on = on;
  }

  /** Takes a `figures` event's data; gives the names of the nodes that computed since the last one. */
  take(figures) {
    clearTimeout(this.#later);
    this.#later = setTimeout(() => this.on(figures.nodes.filter((node) => node.in_flight > 0).map((node) => node.name)), IDLE_MS);
    const busy = [];
    for (const { name, frames, in_flight } of figures.nodes) {
      const before = this.#frames.get(name);
      if (in_flight > 0 || (before !== undefined && frames > before)) busy.push(name);
      this.#frames.set(name, frames);
    }
    return busy;
  }
}

/** Shows in the page's head whether the model is ready. */
export function showState(element, event) {
  if (event.event === "topology") {
    const { ready, model, nodes } = event.data;
    const devices = nodes.filter((node) => node.layers).length;
    element.className = ready ? "state good" : "state wait";
    element.textContent = ready ? "ready" : "waiting";
    if (ready) element.append(el("span", { className: "wide" }, ` on ${devices} device${devices === 1 ? "" : "s"}`));
    element.title = ready ? model : event.data.waiting_for;
  } else if (event.event === "locked") {
    element.className = "state wait";
    element.textContent = "locked";
    element.title = "this coordinator shows its state to those who have an API key";
  } else if (event.event === "offline") {
    element.className = "state bad";
    element.textContent = "offline";
    element.title = "the coordinator does not answer";
  }
}
