// The join page: this browser as a node, and the link by which another device comes.

import { byId, copyButton, el, say } from "/pages/dom.js";
import { showState, watch } from "/pages/events.js";
import { bytes, clock, layers, micros } from "/pages/format.js";
import { sentence } from "/pages/generate.js";
import { hindrances } from "/pages/hindrances.js";

let invitation = null;
let node = null;
let web = null;
/** What this device does now: shown again when figures come. */
let serving = null;
/** What stands in the way here, as it is shown. */
let hindered = [];

// Before

byId("code").value = fragment();
// The code is in the field; it need not stay in what is shown, shared or kept in the history.
if (location.hash) history.replaceState(null, "", location.pathname + location.search);

const asked = ask();

/** The code in the link that brought somebody here. */
function fragment() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return location.hash.slice(1);
  }
}
prepare();

async function ask() {
  try {
    const response = await fetch("/api/join");
    if (!response.ok) throw new Error(await response.text());
    invitation = await response.json();
    showInvitation();
  } catch {
    byId("other").replaceChildren(
      el("p", {}, "The coordinator tells no link for browsers here."),
      el("p", {}, "Another computer joins with ", el("code", {}, `syn1 node --join tcp://${location.hostname}:7700`), ", with the port that the coordinator printed."),
    );
  }
}

function showInvitation() {
  const { url, needs_code, code, code_expires_s, qr_svg, ca_fingerprint, ca_url } = invitation;
  const isSecure = url.startsWith("https:");
  const link = code ? `${url}#${code}` : url;
  byId("other").replaceChildren(
    el("p", {}, "Open this on a phone or any other device in the same network:"),
    // As a picture, and not as markup of this page.
    qr_svg ? el("img", { className: "qr", alt: `QR code of ${link}`, src: `data:image/svg+xml,${encodeURIComponent(qr_svg)}` }) : "",
    el("p", {}, el("a", { href: url }, url), " ", copyButton("Copy the link", () => link)),
    code ? el("p", {}, "Join code: ", el("strong", { className: "mono code-word" }, code), lasts(code_expires_s)) : "",
    needs_code && !code ? el("p", {}, "It asks for a join code, which only the coordinator's own machine shows: on this page there, and in its terminal.") : "",
    ca_fingerprint ? certificate(ca_fingerprint, ca_url) : "",
    isSecure ? "" : el("p", { className: "fine" }, "This link is http: browsers on other devices give such a page no WebGPU. Start the coordinator with ", el("code", {}, "--tls auto"), " for a link that has it."),
  );
  byId("code-field").hidden = !needs_code;
  byId("code").required = needs_code;
  if (code && !byId("code").value) byId("code").value = code;
}

/** How long a code is good for. */
function lasts(seconds) {
  return seconds > 0 ? el("span", { className: "fine" }, ` for ${seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} minutes`}`) : "";
}

function certificate(fingerprint, url) {
  return el(
    "details",
    {},
    el("summary", {}, "The browser there warns of the certificate"),
    el("p", {}, "It was made by this coordinator, so no browser knows it. Either go on past the warning once, or install ", el("a", { href: url ?? "/ca.crt" }, "its certificate authority"), " on that device, which ends the warnings. Compare its SHA-256 first:"),
    el("p", { className: "mono fine" }, fingerprint),
  );
}

/** Finds out whether this browser can compute, and says what stands in the way. */
async function prepare() {
  try {
    web = await import("/web/syn1.js");
  } catch {
    await asked;
    return hinder(hindrances({ bundle: false }));
  }
  const able = await web.support();
  await asked;
  const found = hindrances({ bundle: true, able, secure: isSecureContext, invitation });
  hinder(found);
  if (!("wakeLock" in navigator)) byId("awake-field").hidden = true;
  if (found.some((one) => one.stops)) return;
  const what = able.webgpu && !able.software ? `the graphics chip through WebGPU (${able.adapter ?? "unnamed"})` : able.webgpu ? `WebGPU on the processor (${able.adapter ?? "unnamed"})` : "the processor";
  say(byId("able"), `This browser can compute with ${what}.`);
  byId("join").disabled = false;
  performance.mark("interactive");
}

function hinder(found) {
  if (found.some((one) => one.stops)) say(byId("able"), "This browser cannot join as it is.");
  hindered = found.map(({ title, text, extra }) => el("div", { className: "notice" }, el("strong", {}, title), el("p", {}, text, extra ? " " : "", extra)));
  byId("hindered").replaceChildren(...hindered);
}

// The node

byId("before").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});

function start() {
  const memory = byId("memory").valueAsNumber;
  const awake = byId("awake").checked && !byId("awake-field").hidden;
  node = new web.SynNode({
    name: byId("name").value.trim() || undefined,
    code: byId("code").value.trim() || undefined,
    memoryBytes: memory > 0 ? Math.round(memory * 1e9) : undefined,
    awake,
  });
  node.onevent = (event) => {
    record(event);
    EVENTS[event.event]?.(event);
  };
  byId("before").hidden = true;
  byId("during").hidden = false;
  byId("trouble").hidden = true;
  doing("Starting …");
  node.start();
  byId("leave").focus();
}

byId("leave").addEventListener("click", async () => {
  byId("leave").disabled = true;
  doing("Saying goodbye …");
  await node?.stop();
  before();
});

/** Back to the form; `problem` says why, where nobody asked for it. */
function before(problem) {
  node = null;
  serving = null;
  byId("leave").disabled = false;
  byId("during").hidden = true;
  byId("before").hidden = false;
  byId("loading").hidden = byId("serving").hidden = true;
  byId("hindered").replaceChildren(problem ? el("div", { className: "notice bad", role: "alert" }, problem) : "", ...hindered);
  (problem && /code/i.test(problem) ? byId("code") : byId("join")).focus();
}

/** What each event means for what is shown; those that are not here only stand in the list. */
const EVENTS = {
  device: ({ text }) => doing(`Computing with ${text}.`),
  selftest({ passed, cause }) {
    if (!passed) trouble(`This graphics chip does not compute as it should: ${cause}`);
  },
  connecting: () => doing("Connecting to the coordinator …"),
  joined: ({ model }) => doing(`Joined ${model}. This device is being measured, which takes a few seconds …`),
  profiled: ({ memory_bytes, layer_ns }) =>
    doing(`Measured: ${bytes(memory_bytes)} of memory, ${micros(layer_ns / 1e3)} for a layer. Waiting for layers; if there are none to give, this device stays spare.`),
  assigned({ layers: range, of }) {
    serving = { ...serving, range, of };
    calm();
    doing(`Preparing ${layers(range, of)} …`);
  },
  cache({ kept_bytes, missing_bytes, quota_bytes, used_bytes, notice }) {
    if (notice) trouble(sentence(notice));
    else if (missing_bytes > quota_bytes - used_bytes) trouble(`This browser lets the page keep only ${bytes(quota_bytes)}: what does not fit is downloaded again next time.`);
    doing(missing_bytes ? `Downloading ${bytes(missing_bytes)}${kept_bytes ? `; ${bytes(kept_bytes)} are here already` : ""} …` : `All ${bytes(kept_bytes)} are here already: preparing …`);
  },
  loading({ done_bytes, total_bytes }) {
    byId("loading").hidden = false;
    byId("progress").value = total_bytes ? done_bytes / total_bytes : 1;
    byId("progress-text").textContent = `${bytes(done_bytes)} of ${bytes(total_bytes)}`;
  },
  ready({ layers: range, layer_ns }) {
    serving = { tokens: 0, ...serving, range, layer_ns };
    byId("loading").hidden = true;
    calm();
    doing(`Ready to compute ${layers(range, serving.of)}. Leave this page open.`);
    showServing();
  },
  tokens({ tokens, us_per_frame }) {
    serving = { ...serving, tokens, us_per_frame };
    // The last of them may come behind a loss.
    if (!byId("serving").hidden) showServing();
  },
  unable({ cause }) {
    idle();
    trouble(`This device cannot take the layers that it was given: ${cause}`);
    doing("Here, without layers: the coordinator gives them to others.");
  },
  replaced: () => doing("The layers are being shared out anew …"),
  request_failed: ({ cause }) => trouble(`One request failed here: ${cause}. Others go on.`),
  left({ cause }) {
    idle();
    doing(`Not connected: ${cause}`);
  },
  lost({ what, cause }) {
    idle();
    trouble(`${LOST[what] ?? what}: ${cause}. It comes back by itself.`);
  },
  retry: ({ cause, pause_ms }) => doing(`${sentence(cause)} Trying again in ${micros(pause_ms * 1e3)} …`),
  notice: ({ text }) => trouble(sentence(text)),
  // Also where nobody pressed Leave: the coordinator's work is done, or the browser kept this page while another was looked at.
  stopped: ({ cause, error }) => before(error ? sentence(cause) : undefined),
};

const LOST = { link: "The connection broke off", device: "The graphics chip was taken away", memory: "The memory did not suffice", worker: "The computing part of this page ended" };

const doing = (text) => say(byId("doing"), text);

function trouble(text) {
  say(byId("trouble"), text);
  byId("trouble").hidden = false;
}

const calm = () => (byId("trouble").hidden = true);

function idle() {
  byId("serving").hidden = byId("loading").hidden = true;
}

function showServing() {
  const { range, of, tokens, us_per_frame, layer_ns } = serving;
  const tile = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
  byId("serving").hidden = false;
  byId("serving").replaceChildren(
    tile("Layers", of === undefined ? `${range[1] - range[0]}` : `${range[1] - range[0]} of ${of}`),
    tile("Tokens computed", tokens.toLocaleString("en")),
    tile("A step takes", us_per_frame ? micros(us_per_frame) : layer_ns ? micros((layer_ns * (range[1] - range[0])) / 1e3) : "–"),
  );
}

/** Everything the node said, for who wants to know. */
function record({ event, ...rest }) {
  if (event === "tokens" || event === "loading") return;
  const words = Object.entries(rest).filter(([, value]) => value !== null && value !== undefined);
  const text = words.map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");
  byId("news").prepend(el("li", {}, el("time", {}, clock(Date.now())), el("span", {}, `${event.replaceAll("_", " ")}${text ? `: ${text}` : ""}`)));
  while (byId("news").children.length > 100) byId("news").lastElementChild.remove();
}

addEventListener("pagehide", () => node?.stop());

watch((event) => {
  showState(byId("state"), event);
  if (event.event === "locked") {
    say(byId("downloads"), "This device's share of the model. Asking for text needs an API key here; joining needs none.");
  }
  if (event.event !== "topology") return;
  const { model, needed_bytes, weights } = event.data;
  say(byId("downloads"), `This device's share of the weights of ${model}. All of it with room for contexts takes ${bytes(needed_bytes)} (${weights}); mostly a device has a part.`);
}, { quiet: true });
