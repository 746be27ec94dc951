// Bars, one an arm, each with the limit of its own machine.

import { svg } from "/pages/dom.js";
import { rate } from "/pages/format.js";
import { niceStep } from "/pages/waterfall.js";

const ROW = 46;
const FOOT = 26;
const RIGHT = 70;

/** The plot of `arms`, as wide as the page has room. */
export function plot(arms, room) {
  const width = Math.max(room, 280);
  const height = arms.length * ROW + FOOT;
  const most = Math.max(...arms.map((arm) => Math.max(arm.rate, arm.limit ?? 0)));
  const x = (value) => (value / most) * (width - RIGHT);
  const step = niceStep(most / Math.max(2, Math.floor((width - RIGHT) / 100)));
  const label = `Tokens per second of ${arms.length} arms; the table below has the same figures.`;
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (let at = 0; at <= most; at += step) {
    chart.append(svg("line", { class: "axis", x1: x(at), x2: x(at), y1: 0, y2: height - FOOT + 4 }));
    chart.append(svg("text", { x: x(at), y: height - 6, "text-anchor": at ? "middle" : "start" }, at ? rate(at) : "0"));
  }
  arms.forEach((arm, at) => {
    const y = at * ROW;
    chart.append(svg("text", { x: 0, y: y + 13 }, fitting(arm.name, width)));
    chart.append(svg("rect", { class: `bar ${arm.origin === "browser" ? "n0" : "n1"}`, x: 0, y: y + 18, width: Math.max(x(arm.rate), 1), height: 18 }));
    if (arm.limit) chart.append(svg("line", { class: "limit", x1: x(arm.limit), x2: x(arm.limit), y1: y + 15, y2: y + 39 }));
    const end = x(arm.rate);
    const limit = arm.limit ? x(arm.limit) : Infinity;
    // Beside the bar, unless the limit stands there.
    const from = limit > end - 4 && limit < end + RIGHT + 8 ? limit : end;
    chart.append(svg("text", { class: "strong", x: from + 8, y: y + 32 }, `${rate(arm.rate)} tok/s`));
  });
  return chart;
}

/** About as much of a name as fits at 12 px; the table has all of it. */
function fitting(name, width) {
  const most = Math.floor(width / 6.9);
  return name.length > most ? `${name.slice(0, most - 1)}…` : name;
}
