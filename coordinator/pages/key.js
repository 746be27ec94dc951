// The API key, where the coordinator wants one: asked for once, kept in this browser, sent with what needs it.

import { byId, el, say } from "/pages/dom.js";

const NAME = "syn1.key";

/** As `fetch`, with the key that this browser has. */
export function ask(url, init = {}) {
  const key = read();
  const headers = { ...init.headers, ...(key && { authorization: `Bearer ${key}` }) };
  return fetch(url, { ...init, headers });
}

/** As `ask`; where a key is wanted, it is asked for, and then once more until one is good. Aborting `init.signal` ends that too. */
export async function unlocked(url, init = {}) {
  const aborted = new Promise((_, fail) => init.signal?.addEventListener("abort", () => fail(init.signal.reason)));
  // Where nobody waits for a key.
  aborted.catch(() => {});
  for (;;) {
    const sent = read();
    const response = await ask(url, init);
    if (response.status !== 401) return response;
    // Another request may have been given one meanwhile.
    if (read() === sent) await Promise.race([given(sent !== ""), aborted]);
    init.signal?.throwIfAborted();
  }
}

let asking = null;

/** Shows the field and waits for a key; all that wait are given the same. */
function given(wasWrong) {
  asking ??= new Promise((done) => {
    const field = el("input", { id: "key", type: "password", autocomplete: "current-password", required: true, maxLength: 1024, spellcheck: false });
    const why = el("p", { role: "status" });
    const form = el(
      "form",
      { className: "notice stack", id: "locked" },
      el("strong", {}, "This coordinator asks for an API key"),
      why,
      el("label", {}, "API key", field),
      el("p", { className: "fine" }, "Whoever started the coordinator gives them out. It is kept in this browser, for this coordinator, and sent to nobody else."),
      el("div", { className: "row" }, el("button", { className: "main" }, "Use this key")),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      write(field.value.trim());
      form.remove();
      asking = null;
      done();
    });
    byId("main").prepend(form);
    byId("state").className = "state wait";
    say(byId("state"), "locked");
    say(why, wasWrong ? "The one that this browser has is not known there." : "Text and the state of the swarm are for those who have one.");
    field.focus();
  });
  return asking;
}

function read() {
  try {
    return localStorage.getItem(NAME) ?? "";
  } catch {
    return held;
  }
}

function write(key) {
  held = key;
  try {
    localStorage.setItem(NAME, key);
  } catch {
    // A browser that keeps nothing asks at every visit.
  }
}

let held = "";
