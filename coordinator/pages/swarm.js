// The swarm page: who computes what, how long each hop takes, and what happened.

import { byId, el, say } from "/pages/dom.js";
import { Computing, showState, watch } from "/pages/events.js";
import { bytes, clock, count, layers, list, micros } from "/pages/format.js";
import { Waterfall } from "/pages/waterfall.js";

const computing = new Computing((names) => {
  busy = names;
  if (topology) show();
});
const waterfall = new Waterfall(byId("waterfall"));

/** Events that stand there: after a lost connection they are told again. */
const seen = new Set();

let topology = null;
let busy = [];

watch((event) => {
  showState(byId("state"), event);
  switch (event.event) {
    case "topology":
      topology = event.data;
      return show();
    case "figures":
      return figures(event.data);
    case "open":
      return waterfall.clear();
    case "offline":
      busy = [];
      say(byId("waiting"), "The coordinator does not answer; what stands here is from before.");
      byId("waiting").hidden = false;
      return;
    default:
      return happened(event);
  }
});

function figures(data) {
  // Only what happens from now on is to be read out.
  byId("events").ariaLive = "polite";
  busy = computing.take(data);
  if (!topology) return;
  const traffic = new Map(data.nodes.map((node) => [node.name, node]));
  const nodes = topology.nodes.map((node) => ({ ...node, traffic: traffic.get(node.name) ?? node.traffic }));
  topology = { ...topology, nodes, running: data.running, queued: data.queued };
  waterfall.add(data.passes, colours());
  show();
}

/** The class of each node's colour: by its place in the chain. */
const colours = () => new Map(chain().map((node, at) => [node.name, `n${at % 8}`]));

/** The nodes that have layers, in their order. */
const chain = () => topology.nodes.filter((node) => node.layers).sort((a, b) => a.layers[0] - b.layers[0]);

function show() {
  const { model, weights, ready, waiting_for, reason } = topology;
  document.title = `${model} · syn1`;
  say(byId("model"), model);
  say(byId("reason"), reason ? inclusive(reason) : `${weights} weights. Where its layers will lie is decided when devices are here.`);
  say(byId("waiting"), ready ? "" : `Not ready: ${waiting_for}.`);
  byId("waiting").hidden = ready;
  showTiles();
  showLayers();
  showNodes();
}

function showTiles() {
  const { predicted_us, running, queued, nodes, max_positions } = topology;
  const hops = chain().map((node) => node.traffic?.token).filter(Boolean);
  const perToken = hops.reduce((sum, hop) => sum + hop.wait_us + hop.answer_us, 0);
  const tile = (name, value, unit = "") => [el("dt", {}, name), el("dd", {}, value, " ", el("small", {}, unit))];
  const tiles = [
    tile("Devices", String(nodes.length), nodes.length ? `${chain().length} with layers` : ""),
    tile("Per token, all hops", hops.length ? micros(perToken) : "–", predicted_us ? `predicted: ${micros(predicted_us)}` : ""),
    tile("Running", String(running), count(running, "request").replace(/^\S+ /, "")),
    tile("Waiting", String(queued), count(queued, "request").replace(/^\S+ /, "")),
    tile("Context", max_positions.toLocaleString("en"), "positions"),
  ];
  fill(byId("tiles"), tiles.map((pair) => el("div", {}, pair)));
}

function showLayers() {
  const parts = chain().map((node, at) => {
    const [first, end] = node.layers;
    const title = `${node.name}: ${layers(node.layers)}`;
    const state = node.state === "loaded" ? "" : " pending";
    const item = el("li", { className: `n${at % 8}${state}`, title }, `${node.name} · ${first === end - 1 ? first : `${first}–${end - 1}`}`);
    item.style.flexGrow = String(end - first);
    item.style.flexBasis = "0";
    return item;
  });
  byId("layers").hidden = parts.length === 0;
  fill(byId("layers"), parts);
}

function showNodes() {
  const colour = colours();
  const order = [...chain(), ...topology.nodes.filter((node) => !node.layers)];
  byId("nobody").hidden = order.length > 0;
  fill(byId("nodes"), order.map((node) => nodeCard(node, colour.get(node.name) ?? "")));
}

function nodeCard(node, colour) {
  const { name, device, memory_bytes, read_bytes_per_s, layer_us, hop_us, link_bytes_per_s } = node;
  const { state, unable, done_bytes, traffic } = node;
  const isBusy = busy.includes(name);
  const does = isBusy ? "computing" : STATES[state] ?? state;
  const kind = isBusy ? "busy" : state === "unable" ? "unable" : "";
  const facts = [
    node.layers && ["Layers", layers(node.layers, topology.layers).replace(/^layers? /, "")],
    layer_us > 0 && ["A layer takes", micros(layer_us)],
    hop_us > 0 && ["Its link takes", micros(hop_us)],
    link_bytes_per_s && ["Its link carries", `${bytes(link_bytes_per_s)}/s`],
    memory_bytes > 0 && ["Offers", bytes(memory_bytes)],
    read_bytes_per_s > 0 && ["Reads", `${bytes(read_bytes_per_s)}/s`],
    traffic?.positions && ["Tokens computed", traffic.positions.toLocaleString("en")],
    traffic?.frames && ["Sent to it, per frame", bytes(traffic.sent_bytes / traffic.frames)],
    traffic?.frames && ["Comes back, per frame", bytes(traffic.received_bytes / traffic.frames)],
    traffic?.in_flight > 1 && ["Frames in its queue", String(traffic.in_flight)],
    state === "loading" && done_bytes > 0 && ["Loaded so far", bytes(done_bytes)],
  ];
  const rows = facts.filter(Boolean).map(([what, value]) => [el("dt", {}, what), el("dd", {}, value)]);
  return el(
    "li",
    { className: `node ${colour}` },
    el("h3", {}, el("span", {}, name), el("span", { className: `does ${kind}` }, does)),
    el("p", { className: "fine" }, device || "has not told yet what it computes with"),
    unable ? el("p", { className: "bad-text" }, unable) : null,
    traffic?.token ? hop(traffic.token) : null,
    el("dl", { className: "facts" }, rows),
  );
}

const STATES = { joining: "measuring itself", spare: "spare", loading: "loading", loaded: "idle", unable: "takes no part" };

/** The coordinator's ranges end one behind their last layer; here they are told as everywhere on this page. */
const inclusive = (text) => text.replace(/layers (\d+)\.\.(\d+)/g, (_, first, end) => layers([Number(first), Number(end)]));

/** A hop's median token: what it computed, what the wire took, what it waited. */
function hop({ wait_us, answer_us, compute_us }) {
  const wire = answer_us - (compute_us ?? 0);
  const parts = [
    ["compute", compute_us ?? 0, "computing"],
    ["wire", wire, compute_us === null ? "computing and wire" : "wire"],
    ["waits", wait_us, "waiting"],
  ].filter(([, us]) => us > 0);
  const bars = parts.map(([kind, us]) => {
    const bar = el("span", { className: kind });
    bar.style.flexGrow = String(us);
    return bar;
  });
  const words = parts.map(([, us, what]) => `${micros(us)} ${what}`);
  return el(
    "div",
    {},
    el("strong", {}, micros(wait_us + answer_us)),
    " a token: ",
    el("span", { className: "soft" }, words.join(", ")),
    el("div", { className: "split", ariaHidden: "true" }, bars),
  );
}

function happened({ at, event, data }) {
  const key = JSON.stringify([at, event, data]);
  if (event === "loading" || seen.has(key)) return;
  seen.add(key);
  const told = SENTENCES[event]?.(data) ?? `${event}: ${JSON.stringify(data)}`;
  const when = el("time", { dateTime: new Date(at).toISOString() }, clock(at));
  const events = byId("events");
  events.prepend(el("li", {}, when, el("span", { className: KINDS[event] ?? "" }, inclusive(told))));
  while (events.children.length > 200) events.lastElementChild.remove();
}

const KINDS = { ready: "good", refused: "bad", left: "bad", unable: "bad" };

const SENTENCES = {
  joined: ({ node, device, memory_bytes, layer_ns }) =>
    `${node} joined: ${device}, ${bytes(memory_bytes)}, ${micros(layer_ns / 1e3)} a layer`,
  refused: ({ node, why }) => `${node} was turned away: ${why}`,
  left: ({ node, why }) => `${node} left: ${why}`,
  placed: (parts) => `The layers were shared out: ${list(parts.map((part) => `${part.node} has ${layers(part.layers)}`))}`,
  rebalanced: ({ why }) => `Layers move: ${why}`,
  unplaced: ({ why }) => `Not placed: ${why}`,
  packing: ({ format, needed_bytes, why }) => `${why}: packing ${format} (${bytes(needed_bytes)})`,
  loaded: ({ node, fetched_bytes }) =>
    fetched_bytes ? `${node} has its layers, ${bytes(fetched_bytes)} were fetched` : `${node} has its layers, nothing was fetched`,
  unable: ({ node, why }) => `${node} cannot take its layers: ${why}`,
  ready: ({ token_ms }) => `Ready: a token went through every layer in ${micros(token_ms * 1e3)}`,
};

/** Replaces children where their text or look has changed: what is selected or read out stays. */
function fill(parent, children) {
  children.forEach((child, at) => {
    const old = parent.children[at];
    if (!old) parent.append(child);
    else if (!old.isEqualNode(child)) old.replaceWith(child);
  });
  while (parent.children.length > children.length) parent.lastElementChild.remove();
}
