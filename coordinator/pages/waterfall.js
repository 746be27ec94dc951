// The latest tokens, one a row: when each hop took what, computing, wire or waiting.

import { el, svg } from "/pages/dom.js";
import { bytes, micros } from "/pages/format.js";

const ROWS = 16;
const ROW = 20;
const LEFT = 74;
const RIGHT = 74;
const FOOT = 24;

export class Waterfall {
  #passes = [];
  #colours = new Map();

  constructor(root) {
    this.root = root;
    this.chart = el("div");
    this.table = el("tbody");
    this.empty = el("p", { className: "soft" }, "No token has passed through the chain yet. Ask something on the chat page, and its tokens appear here.");
    const kinds = [["compute", "computing, estimated by the node's last request"], ["wire", "wire, both directions (drawn half and half)"], ["waits", "waiting behind other frames"]];
    this.legend = el(
      "ul",
      { className: "legend" },
      kinds.map(([kind, text]) => el("li", { className: "generic" }, el("i", { className: kind }), text)),
    );
    const head = ["Token", "Device", "Sent after", "Waited", "Computing", "Wire", "Bytes to it", "Bytes back"];
    const table = el("table", {}, el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))), this.table);
    this.details = el("details", {}, el("summary", {}, "As a table"), el("div", { className: "scroll", tabIndex: 0 }, table));
    this.details.addEventListener("toggle", () => this.#show());
    root.append(this.empty, this.chart, this.legend, this.details);
    new ResizeObserver(() => this.#show()).observe(root);
    this.#show();
  }

  /** Takes passes as the coordinator tells them, and the colour of each node by name. */
  add(passes, colours) {
    this.#colours = colours;
    if (passes.length === 0) return;
    this.#passes = [...this.#passes, ...passes].slice(-ROWS);
    this.#show();
  }

  /** What is told again from the beginning is not to stand there twice. */
  clear() {
    this.#passes = [];
  }

  #show() {
    const passes = this.#passes;
    const none = passes.length === 0;
    this.empty.hidden = !none;
    this.legend.hidden = this.details.hidden = none;
    if (none) return;
    this.chart.replaceChildren(this.#draw(passes, Math.max(this.root.clientWidth, 280)));
    if (this.details.open) this.table.replaceChildren(...passes.flatMap((pass) => pass.hops.map((hop) => row(pass, hop))));
  }

  #draw(passes, width) {
    const height = passes.length * ROW + FOOT;
    const longest = scale(passes);
    const step = niceStep(longest / Math.max(2, Math.floor((width - LEFT - RIGHT) / 110)));
    const x = (us) => LEFT + (Math.min(us, longest) / longest) * (width - LEFT - RIGHT);
    const last = passes.at(-1);
    const label = `The latest ${passes.length} passes through the chain; the last took ${micros(last.total_us)}. The table below has every figure.`;
    const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    for (let us = 0; us <= longest; us += step) {
      chart.append(svg("line", { class: "axis", x1: x(us), x2: x(us), y1: 0, y2: height - FOOT + 4 }));
      chart.append(svg("text", { x: x(us), y: height - 6, "text-anchor": us ? "middle" : "start" }, us ? micros(us) : "0"));
    }
    passes.forEach((pass, at) => {
      const y = at * ROW;
      chart.append(svg("text", { x: 0, y: y + 14 }, name(pass)));
      for (const hop of pass.hops) chart.append(this.#hop(hop, x, y + 4));
      const more = pass.total_us > longest ? "→ " : "";
      chart.append(svg("text", { x: x(pass.total_us) + 6, y: y + 14, class: "strong" }, more + micros(pass.total_us)));
    });
    return chart;
  }

  #hop(hop, x, y) {
    const { wait_us, answer_us, compute_us } = hop;
    const wire = (answer_us - (compute_us ?? 0)) / 2;
    const group = svg("g", { class: this.#colours.get(hop.node) ?? "" });
    let from = hop.sent_us;
    for (const [kind, us] of [["waits", wait_us], ["wire", wire], ["compute", compute_us ?? 0], ["wire", wire]]) {
      if (us > 0 && x(from + us) > x(from)) group.append(svg("rect", { class: kind, x: x(from), y, width: Math.max(x(from + us) - x(from), 0.5), height: ROW - 8 }));
      from += us;
    }
    group.append(svg("title", {}, `${hop.node}: ${micros(wait_us + answer_us)}`));
    return group;
  }
}

/** A token by its position; a chunk of a prompt by its length. */
const name = (pass) => (pass.rows === 1 ? `token ${pass.position + 1}` : `${pass.rows} rows`);

function row(pass, hop) {
  const { wait_us, answer_us, compute_us } = hop;
  const number = (text) => el("td", { className: "number" }, text);
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, name(pass)),
    el("td", {}, hop.node),
    number(micros(hop.sent_us)),
    number(micros(wait_us)),
    number(compute_us === null ? "not known yet" : micros(compute_us)),
    number(micros(answer_us - (compute_us ?? 0))),
    number(bytes(hop.sent_bytes)),
    number(bytes(hop.received_bytes)),
  );
}

/**
 * Microseconds of the chart's width: all of the longest pass, unless that is a prompt's or one that waited behind a prompt and
 * would leave nothing of the others to be seen. Then it goes on beyond the edge.
 */
function scale(passes) {
  const totals = passes.map((pass) => pass.total_us).sort((a, b) => a - b);
  const most = 4 * totals[Math.floor((totals.length - 1) / 2)];
  return totals.findLast((total) => total <= most) ?? totals.at(-1);
}

/** 1, 2 or 5 times a power of ten, at least `least`. */
export function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least * 0.999);
}
