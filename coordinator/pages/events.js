// The coordinator's events, for as long as the page is looked at.

import { el } from "/pages/dom.js";

/**
 * Calls `on(event)` for every event of `GET /api/events`, `on({event: "open"})`
 * before the first and `on({event: "offline"})` when nothing comes any more.
 *
 * A browser opens only six connections to a server at a time, so a hidden page lets its own go.
 */
export function watch(on) {
  let source = null;
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource("/api/events");
    source.onopen = () => on({ event: "open" });
    source.onmessage = (message) => on(JSON.parse(message.data));
    source.onerror = () => {
      on({ event: "offline" });
      // The browser tries again by itself, but not after an answer that is no stream.
      if (source?.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(open, 3000);
      }
    };
  };
  const close = () => {
    source?.close();
    source = null;
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
}

/** Which nodes answered frames between one `figures` event and the next. */
export class Computing {
  #frames = new Map();

  /** Takes a `figures` event's data; gives the names of the nodes that computed since the last one. */
  take(figures) {
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
    element.textContent = ready ? "ready" : "not ready";
    if (ready) element.append(el("span", { className: "wide" }, ` on ${devices} device${devices === 1 ? "" : "s"}`));
    element.title = ready ? model : event.data.waiting_for;
  } else if (event.event === "offline") {
    element.className = "state bad";
    element.textContent = "no connection";
    element.title = "the coordinator does not answer";
  }
}
