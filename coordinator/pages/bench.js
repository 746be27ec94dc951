// The bench page: decoding on this device, beside what other machines reached.

import { byId, download, el, say } from "/pages/dom.js";
import { showState, watch } from "/pages/events.js";
import { bytes, micros, rate } from "/pages/format.js";
import { begin as beginFusion } from "/pages/fusion.js";
import { sentence } from "/pages/generate.js";
import { hindrances } from "/pages/hindrances.js";
import { plot } from "/pages/plot.js";
import { arms } from "/pages/report.js";

let web = null;
/** The last report that was made here. */
let report = null;
/** All arms, in the order in which they came. */
let shown = [];

prepare();

async function prepare() {
  try {
    web = await import("/web/syn1.js");
  } catch {
    return hinder(hindrances({ bundle: false }));
  }
  const able = await web.support();
  const found = hindrances({ bundle: true, able, secure: isSecureContext, invitation: null });
  hinder(found.filter((one) => one.title !== "Nothing can be kept for the next visit"));
  byId("start").disabled = found.some((one) => one.stops);
  if (able.webgpu) beginFusion(web);
}

function hinder(found) {
  byId("hindered").replaceChildren(...found.map(({ title, text, extra }) => el("div", { className: "notice" }, el("strong", {}, title), el("p", {}, text, extra ? " " : "", extra))));
}

byId("run").addEventListener("submit", async (event) => {
  event.preventDefault();
  const options = Object.fromEntries(["shape", "weights", "device"].map((id) => [id, byId(id).value]));
  const tokens = byId("tokens").valueAsNumber;
  problem(null);
  byId("start").disabled = true;
  byId("during").hidden = false;
  byId("progress").removeAttribute("value");
  try {
    report = await web.bench({ ...options, tokens }, ({ done, total, text }) => {
      if (total) byId("progress").value = done / total;
      say(byId("doing"), text ?? "");
    });
    show([...shown, ...arms(report, "browser")]);
    byId("save").hidden = false;
  } catch (error) {
    problem(sentence(error.message));
  }
  byId("during").hidden = true;
  byId("start").disabled = false;
});

byId("load").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", async () => {
  problem(null);
  const found = [];
  for (const file of byId("file").files) {
    try {
      found.push(...arms(JSON.parse(await file.text()), "file"));
    } catch (error) {
      const why = error instanceof SyntaxError ? "it is no JSON" : error.message;
      problem(`${file.name} cannot be compared: ${why}. It must be what syn1 bench decode --json printed, or a file saved here.`);
    }
  }
  byId("file").value = "";
  show([...shown, ...found]);
});

byId("save").addEventListener("click", () => {
  const saved = { command: "the bench page", machine: navigator.userAgent, date: new Date().toISOString().slice(0, 10), report };
  download("syn1-bench.json", "application/json", `${JSON.stringify(saved, null, 1)}\n`);
});
byId("forget").addEventListener("click", () => show([]));
addEventListener("resize", () => show(shown));

function problem(text) {
  byId("problem").hidden = text === null;
  if (text !== null) say(byId("problem"), text);
}

function show(all) {
  shown = all;
  const none = all.length === 0;
  byId("none").hidden = !none;
  byId("legend").hidden = byId("forget").hidden = none;
  byId("plot").replaceChildren(none ? "" : plot(all, byId("plot").clientWidth));
  byId("table").replaceChildren(none ? "" : table(all));
}

function table(all) {
  const head = ["Arm", "tok/s", "Reads", "Limit", "Share of it", "Weights a token", "First token", "Prefill", "Above computing, per hop"];
  const rows = all.map((arm) => {
    const of = arm.report;
    const cells = [
      rate(arm.rate),
      of.read_bytes_per_second && `${bytes(of.read_bytes_per_second)}/s`,
      arm.limit && `${rate(arm.limit)} tok/s`,
      arm.limit && `${((100 * arm.rate) / arm.limit).toFixed(0)} %`,
      of.weight_bytes_per_token && bytes(of.weight_bytes_per_token),
      of.first_token_ms && micros(of.first_token_ms * 1e3),
      of.prefill_tokens_per_second && `${rate(of.prefill_tokens_per_second)} tok/s`,
      of.hop_us && micros(of.hop_us.above),
    ];
    return el("tr", {}, el("th", { scope: "row" }, arm.name), cells.map((cell) => el("td", { className: "number" }, cell || "–")));
  });
  return el("table", {}, el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, rows));
}

// Measuring needs no coordinator, and so no key.
watch((event) => showState(byId("state"), event), { quiet: true });
