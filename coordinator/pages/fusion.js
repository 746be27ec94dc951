// The fusion experiment on the bench page: run here, loaded from a file, or both beside each other.

import { byId, download, el, say } from "/pages/dom.js";
import { micros, rate } from "/pages/format.js";
import { sentence } from "/pages/generate.js";
import { plot } from "/pages/plot.js";

/** By where they came from: this browser, or the last file. */
const reports = { browser: null, file: null };

/** Lets the experiment be run with `web`, the node's own module. */
export function begin(web) {
  byId("fuse").disabled = false;
  byId("fusion").addEventListener("submit", (event) => {
    event.preventDefault();
    run(web);
  });
}

async function run(web) {
  const numbers = (id) => byId(id).value.split(",").map(Number);
  problem(null);
  byId("fuse").disabled = true;
  byId("fusing").hidden = false;
  byId("fusion-progress").removeAttribute("value");
  try {
    reports.browser = await web.fusion({ widths: numbers("widths"), layers: numbers("layers") }, ({ done, total, text }) => {
      byId("fusion-progress").value = done / total;
      say(byId("fusion-doing"), text);
    });
    byId("fusion-save").hidden = false;
    show();
  } catch (error) {
    problem(sentence(error.message));
  }
  byId("fusing").hidden = true;
  byId("fuse").disabled = false;
}

byId("fusion-load").addEventListener("click", () => byId("fusion-file").click());
byId("fusion-file").addEventListener("change", async () => {
  problem(null);
  const [file] = byId("fusion-file").files;
  try {
    reports.file = read(JSON.parse(await file.text()));
    show();
  } catch (error) {
    const why = error instanceof SyntaxError ? "it is no JSON" : error.message;
    problem(`${file.name} cannot be compared: ${why}. It must be what syn1 bench fusion --json printed, or a file saved here.`);
  }
  byId("fusion-file").value = "";
});

byId("fusion-save").addEventListener("click", () => {
  const saved = { command: "the bench page", machine: navigator.userAgent, date: new Date().toISOString().slice(0, 10), report: reports.browser };
  download("syn1-fusion.json", "application/json", `${JSON.stringify(saved, null, 1)}\n`);
});
addEventListener("resize", show);

/** A bare report, or one in an envelope `{machine, report}`. Throws an Error whose message says what is missing. */
function read(json) {
  const report = json?.report ?? json;
  const isMeasured = (figures) => FIGURES.every((name) => typeof figures?.[name] === "number") && figures.tokens_per_second > 0;
  const isArm = (arm) => typeof arm?.name === "string" && (arm.figures === null || isMeasured(arm.figures));
  const isShape = (one) => one?.shape?.width > 0 && one.shape.layers > 0 && Array.isArray(one.arms) && one.arms.every(isArm);
  if (typeof report?.device !== "string") throw new Error("it names no device");
  if (!Array.isArray(report.shapes) || !report.shapes.every(isShape)) throw new Error("it has no shapes with arms");
  return report;
}

/** What every arm that was measured has. */
const FIGURES = ["tokens_per_second", "median_ms", "dispatches", "submits", "max_error"];

function problem(text) {
  byId("fusion-problem").hidden = text === null;
  if (text !== null) say(byId("fusion-problem"), text);
}

/** Every shape that was measured anywhere: a plot and a table, with the other's figures beside these. */
function show() {
  const all = Object.entries(reports).filter(([, report]) => report);
  byId("fusion-none").hidden = all.length > 0;
  const key = ({ width, layers }) => `width ${width}, ${layers} layer${layers === 1 ? "" : "s"}`;
  const keys = [...new Set(all.flatMap(([, report]) => report.shapes.map(({ shape }) => key(shape))))];
  byId("fusion-results").replaceChildren(
    ...keys.map((name) => {
      const found = all.flatMap(([origin, report]) => report.shapes.filter(({ shape }) => key(shape) === name).map((shape) => ({ origin, device: report.device, ...shape })));
      const arms = found.flatMap(({ origin, device, arms }) => arms.map((arm) => ({ ...arm, origin, device })));
      const timed = arms.filter((arm) => arm.figures).map(({ name, origin, device, figures }) => ({ name: `${name} (${device})`, rate: figures.tokens_per_second, limit: null, origin }));
      const chart = timed.length ? plot(timed, byId("fusion-results").clientWidth) : "";
      return el("section", { "aria-label": name }, el("h3", {}, name), chart, el("div", { className: "scroll", tabIndex: 0 }, table(arms)));
    }),
  );
}

function table(arms) {
  const head = ["Arm", "64 tokens take", "tok/s", "Of each op by itself", "Of the baseline", "Dispatches", "Submits", "Error"];
  const times = (ratio) => (typeof ratio === "number" ? `${ratio.toFixed(1)} x` : "–");
  const rows = arms.map(({ name, device, figures, left_out }) => {
    const first = el("th", { scope: "row" }, name, " ", el("span", { className: "fine" }, device));
    if (!figures) return el("tr", {}, first, el("td", { colSpan: head.length - 1 }, sentence(String(left_out ?? "not measured"))));
    const cells = [micros(figures.median_ms * 1e3), rate(figures.tokens_per_second), times(figures.of_per_op), times(figures.of_recompute), figures.dispatches.toLocaleString("en"), figures.submits.toLocaleString("en"), figures.max_error.toExponential(1)];
    return el("tr", {}, first, cells.map((cell) => el("td", { className: "number" }, cell)));
  });
  return el("table", {}, el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, rows));
}
