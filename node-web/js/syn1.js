// A browser's node, for pages. README.md of the crate node-web is the contract.

class Crew {
  // A Worker and the calls that wait for it.
  constructor(onevent, onlost) {
    this.calls = new Map();
    this.last = 0;
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "syn1" });
    this.worker.onmessage = ({ data }) => {
      if (data.event) return onevent?.(data.event);
      const call = this.calls.get(data.id);
      if (!call) return;
      if (data.progress) return call.onprogress?.(data.progress);
      this.calls.delete(data.id);
      if (data.error !== undefined) call.fail(new Error(data.error));
      else call.done(data.result);
    };
    this.worker.onerror = (error) => {
      error.preventDefault?.();
      const cause = error.message || "the Worker could not be loaded";
      this.end(cause);
      onlost?.(cause);
    };
  }

  call(call, options, onprogress) {
    return new Promise((done, fail) => {
      const id = ++this.last;
      this.calls.set(id, { done, fail, onprogress });
      this.worker.postMessage({ id, call, options });
    });
  }

  end(cause) {
    this.worker.terminate();
    for (const call of this.calls.values()) call.fail(new Error(cause));
    this.calls.clear();
  }
}

/** What this browser can do, without starting a node. Never rejects. */
export async function support() {
  let crew;
  try {
    crew = new Crew();
    return await crew.call("support");
  } catch (error) {
    const reason = `the node's Worker does not start: ${error.message}`;
    const nothing = { webgpu: false, adapter: null, features: [], shader_f16: false, subgroups: false };
    return { ...nothing, software: false, cpu: false, opfs: false, reason };
  } finally {
    crew?.end("done");
  }
}

/** Measures this device with random weights. */
export const bench = (options = {}, onprogress) => measured("bench", options, onprogress);

/** What fusing kernels gains on this device's GPU. */
export const fusion = (options = {}, onprogress) => measured("fusion", options, onprogress);

async function measured(what, options, onprogress) {
  const crew = new Crew();
  try {
    return await crew.call(what, options, onprogress);
  } finally {
    crew.end("done");
  }
}

/** A node in this tab. */
export class SynNode {
  constructor({ coordinator, name, code, memoryBytes, device = "auto", awake = false } = {}) {
    this.options = {
      coordinator: coordinator ?? `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/node`,
      name: name ?? browserName(),
      code: code ?? null,
      memoryBytes: memoryBytes ?? null,
      device,
    };
    this.awake = awake;
    this.onevent = () => {};
    this.crew = null;
    this.pauseMs = FIRST_PAUSE_MS;
    // Aborted while the node is not to run.
    this.listeners = new AbortController();
    this.listeners.abort();
  }

  start() {
    if (this.crew || !this.listeners.signal.aborted) return;
    this.listeners = new AbortController();
    const { signal } = this.listeners;
    const back = () => {
      this.crew?.call("hurry").catch(() => {});
      this.#keepAwake();
    };
    addEventListener("online", back, { signal });
    addEventListener("pageshow", back, { signal });
    document.addEventListener("resume", back, { signal });
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && back(), { signal });
    // A tab that goes says goodbye if it can; a link that breaks off is noticed all the same.
    addEventListener("pagehide", (event) => event.persisted || this.crew?.call("stop").catch(() => {}), { signal });
    // Browsers do not freeze a hidden page that holds a lock; nobody else waits for this one.
    const held = new Promise((done) => signal.addEventListener("abort", done));
    navigator.locks?.request(`syn1 node ${Math.random()}`, () => held).catch(() => {});
    // Pieces are not to be cleared when the disk fills up; a browser that refuses serves all the same.
    navigator.storage?.persist?.().catch(() => {});
    this.#begin();
    this.#keepAwake();
  }

  /** Says goodbye; resolves when the node has ended. */
  async stop() {
    const waits = !this.crew && !this.listeners.signal.aborted;
    this.listeners.abort();
    clearTimeout(this.again);
    // Between two Workers nobody has to say goodbye.
    if (waits) this.#finish({ event: "stopped", cause: "stopped", error: false });
    this.lock?.release().catch(() => {});
    this.lock = null;
    const crew = this.crew;
    if (!crew) return;
    const ended = new Promise((done) => (this.ended = done));
    crew.call("stop").catch(() => {});
    await Promise.race([ended, new Promise((done) => setTimeout(done, GOODBYE_MS))]);
    if (this.crew === crew) this.#finish({ event: "stopped", cause: "stopped", error: false });
  }

  #begin() {
    this.crew = new Crew(
      (event) => {
        if (event.event === "stopped") return this.#finish(event);
        if (event.event === "ready") this.pauseMs = FIRST_PAUSE_MS;
        this.#tell(event);
      },
      (cause) => this.#broken(cause),
    );
    this.crew.call("start", this.options).catch((error) => this.#broken(error.message));
  }

  // The Worker is gone: out of memory, or a bug. A fresh one takes its place.
  #broken(cause) {
    if (!this.crew) return;
    this.crew.end(cause);
    this.crew = null;
    if (this.listeners.signal.aborted) return this.#finish({ event: "stopped", cause, error: true });
    this.#tell({ event: "lost", what: "worker", cause });
    this.#tell({ event: "retry", cause, pause_ms: this.pauseMs });
    this.again = setTimeout(() => this.#begin(), this.pauseMs);
    this.pauseMs = Math.min(2 * this.pauseMs, LONGEST_PAUSE_MS);
  }

  #finish(event) {
    this.listeners.abort();
    this.lock?.release().catch(() => {});
    this.lock = null;
    this.crew?.end(event.cause);
    this.crew = null;
    this.#tell(event);
    this.ended?.();
  }

  #tell(event) {
    try {
      this.onevent(event);
    } catch (error) {
      // A page that stumbles over an event must not end its node.
      console.error(error);
    }
  }

  // The browser lets go of the lock whenever the tab is hidden.
  async #keepAwake() {
    if (!this.awake || !this.crew || document.visibilityState !== "visible" || !navigator.wakeLock) return;
    const { signal } = this.listeners;
    if (this.asking === signal || (this.lock && !this.lock.released)) return;
    this.asking = signal;
    try {
      const lock = await navigator.wakeLock.request("screen");
      // Who has stopped meanwhile has no hold of it any more.
      if (signal.aborted) await lock.release();
      else this.lock = lock;
    } catch (error) {
      if (!signal.aborted) this.#tell({ event: "notice", text: `the browser lets the screen sleep: ${error.message}` });
    }
    if (this.asking === signal) this.asking = null;
  }
}

function browserName() {
  const agent = navigator.userAgent;
  const browsers = [["Edg/", "Edge"], ["OPR/", "Opera"], ["Firefox/", "Firefox"], ["Chrome/", "Chrome"], ["Safari/", "Safari"]];
  const systems = ["Android", "iPhone", "iPad", "CrOS", "Windows", "Mac", "Linux"];
  const browser = browsers.find(([mark]) => agent.includes(mark))?.[1] ?? "browser";
  const system = systems.find((name) => agent.includes(name)) ?? "an unknown system";
  return `${browser} on ${system === "CrOS" ? "ChromeOS" : system}`;
}

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 60000;
// How long a goodbye may take.
const GOODBYE_MS = 3000;
