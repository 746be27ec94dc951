// The chat page: what is typed, what comes back, and the conversations beside it.

import * as kept from "/pages/conversations.js";
import { Computing, showState, watch } from "/pages/events.js";
import { byId, copyButton, download, el, say } from "/pages/dom.js";
import { count, list, micros, rate } from "/pages/format.js";
import { generate, sentence } from "/pages/generate.js";
import { Markdown } from "/pages/markdown.js";
import { Speaker } from "/pages/speaker.js";

const DEFAULTS = { temperature: 0.7, length: 256, system: "" };

const log = byId("log");
const text = byId("text");
const speaker = new Speaker(byId("spoken"));
const computing = new Computing((names) => {
  busy = names;
  showFigures();
});

let topology = null;
let settings = kept.settings(DEFAULTS);
let conversation = kept.find(kept.current() ?? "") ?? kept.fresh();
/** The answer that is coming: `{abort, message, view, ..}`. */
let running = null;
/** Names of the nodes that computed a moment ago. */
let busy = [];
/** Conversations that were seen in this browser's storage. One that is there no more was deleted. */
const stored = new Set();

// The conversation

/** Shows the whole conversation anew. */
function show() {
  byId("messages").replaceChildren();
  conversation.messages.forEach((message) => append(message));
  hideProblem();
  showTools();
  showEmpty();
  scrollDown(true);
}

/** One message's element, with what is needed to change it. */
function append(message) {
  const isUser = message.role === "user";
  const body = el("div", { className: "body" });
  const foot = el("div", { className: "foot" });
  const who = el("h2", { className: "who" }, isUser ? (message.plain ? "Text" : "You") : message.model ?? "Answer");
  const item = el("li", { className: isUser ? "user" : "answer" }, who, body, foot);
  const markdown = isUser ? null : new Markdown(body);
  const view = {
    item,
    foot,
    show() {
      if (markdown) markdown.show(message.content);
      else body.textContent = message.content;
    },
  };
  view.show();
  if (!isUser) footOf(message, view);
  byId("messages").append(item);
  return view;
}

/** What stands below an answer: its figures, and what can be done with it. */
function footOf(message, view) {
  const { tokens, tokens_per_second, first_token_us, nodes, reason } = message.figures ?? {};
  const parts = [
    tokens && count(tokens, "token"),
    tokens_per_second && `${rate(tokens_per_second)} tok/s`,
    first_token_us && `first after ${micros(first_token_us)}`,
    nodes?.length && `on ${list(nodes)}`,
    ENDS[reason],
  ];
  view.foot.replaceChildren(el("span", { className: "fine" }, parts.filter(Boolean).join(" · ")));
  if (message.content) view.foot.append(copyButton("Copy", () => message.content));
}

const ENDS = { length: "cut at the length set", context: "the context is full", stopped: "stopped" };

/** Regenerate and Continue stand at the last answer only. */
function showTools() {
  for (const button of log.querySelectorAll(".last")) button.remove();
  const last = conversation.messages.at(-1);
  const foot = byId("messages").lastElementChild?.querySelector(".foot");
  if (running || !last || !foot) return;
  const button = (label, onclick) => el("button", { type: "button", className: "quiet last", onclick }, label);
  foot.append(button(last.role === "user" ? "Answer" : "Regenerate", regenerate));
  if (last.role === "assistant" && last.plain && last.content) foot.append(button("Continue", goOn));
}

function regenerate() {
  const isAnswer = conversation.messages.at(-1)?.role === "assistant";
  if (isAnswer) byId("messages").lastElementChild.remove();
  answer(undefined, isAnswer ? conversation.messages.pop() : undefined);
}

/** Plain text only: what the model wrote becomes part of what it continues. */
function goOn() {
  answer(conversation.messages.at(-1));
}

// An answer

/** Answers the conversation, in a new message, which takes the place of `old`, or at the end of `message`. */
async function answer(message, old) {
  if (running) return;
  hideProblem();
  const ask = question(message);
  const isNew = message === undefined;
  if (isNew) {
    message = { role: "assistant", content: "", plain: !topology?.chat, model: topology?.model };
    conversation.messages.push(message);
  }
  if (!isNew) byId("messages").lastElementChild.remove();
  const view = append(message);
  const of = conversation;
  running = { abort: new AbortController(), message, view, of, nodes: new Set(), tokens: 0, begun: performance.now() };
  const run = running;
  view.item.classList.add("coming");
  view.item.setAttribute("aria-busy", "true");
  showRunning();
  speaker.begin(message.content.length);
  let problem = null;
  try {
    await generate(ask, run.abort.signal, (line) => (problem = take(run, line) ?? problem));
  } catch (error) {
    if (run.abort.signal.aborted) finish(run, { reason: "stopped" });
    else problem = error.message;
  }
  if (problem) finish(run, {});
  view.show();
  view.item.classList.remove("coming");
  view.item.removeAttribute("aria-busy");
  footOf(message, view);
  speaker.end(message.content);
  if (!message.content && !message.figures?.tokens) {
    // Nothing came: what was asked stays, ready to be asked again, and so does what was answered before.
    of.messages.splice(of.messages.indexOf(message), 1, ...(old ? [old] : []));
    if (old && view.item.isConnected) append(old);
    view.item.remove();
  }
  running = null;
  keepOn(of);
  showRunning();
  // Who went to another conversation and came back has seen the answer as it was then.
  if (of === conversation && !view.item.isConnected) show();
  showTools();
  if (problem && of === conversation) showProblem(problem, isNew ? regenerate : () => answer(message));
  scrollDown();
}

/** What the coordinator is asked for. */
function question(message) {
  const { temperature, length, system } = settings;
  const ask = { max_tokens: length, sampling: { temperature } };
  if (topology?.chat) {
    const messages = conversation.messages.map(({ role, content }) => ({ role, content }));
    if (system.trim()) messages.unshift({ role: "system", content: system });
    return { ...ask, messages };
  }
  const asked = conversation.messages.findLast(({ role }) => role === "user");
  return { ...ask, prompt: (asked?.content ?? "") + (message?.content ?? "") };
}

/** Takes one line of the answer; gives what went wrong, if it says so. */
function take(run, line) {
  const { message, view } = run;
  if (line.token) {
    run.tokens += 1;
    run.first ??= performance.now();
    message.content += line.token.text;
    // Many tokens may come in one frame of the screen.
    run.frame ??= requestAnimationFrame(() => {
      run.frame = undefined;
      view.show();
      speaker.hear(message.content);
      showFigures();
      scrollDown();
    });
    if (performance.now() - (run.kept ?? 0) > 1000) {
      run.kept = performance.now();
      keepOn(run.of);
    }
    return null;
  }
  if (line.finished) {
    message.content += line.finished.text;
    finish(run, line.finished);
    return null;
  }
  return line.failed ? sentence(line.failed.error) : null;
}

/** The figures of an answer: those of the coordinator where it came to an end by itself. */
function finish(run, { reason, tokens_per_second }) {
  const seconds = (performance.now() - run.first) / 1000;
  const own = run.tokens > 1 ? (run.tokens - 1) / seconds : undefined;
  run.message.figures = {
    tokens: run.tokens,
    tokens_per_second: tokens_per_second ?? own,
    first_token_us: run.first && (run.first - run.begun) * 1000,
    nodes: [...run.nodes],
    reason,
  };
}

/** Keeps a conversation that an answer has changed, unless it was deleted meanwhile, here or in another tab. */
function keepOn(of) {
  if (stored.has(of.id) && !kept.find(of.id)) showList();
  else keep(of);
}

function keep(of) {
  of.updated = Date.now();
  const stored = of.messages.length === 0 || kept.store(of);
  const words = stored
    ? "Conversations are kept in this browser only."
    : "This browser has no room left for this page: save this conversation as a file, or delete others.";
  say(byId("kept"), words);
  byId("kept").classList.toggle("bad-text", !stored);
  showList();
}

// What is shown around it

function showRunning() {
  byId("send").hidden = running !== null;
  byId("stop").hidden = running === null;
  showFigures();
}

function showFigures() {
  const figures = byId("figures");
  if (running) {
    const { tokens, first } = running;
    const seconds = (performance.now() - first) / 1000;
    const speed = tokens > 1 ? `${rate((tokens - 1) / seconds)} tok/s` : null;
    const who = busy.length ? `${list(busy)} computing` : null;
    figures.textContent = [speed ?? waitingFor(), who].filter(Boolean).join(" · ");
  } else {
    figures.textContent = busy.length && topology?.running ? `${list(busy)} computing for others` : "";
  }
}

function waitingFor() {
  if (topology && !topology.ready) return `waiting: ${topology.waiting_for}`;
  return topology?.queued ? `waiting behind ${count(topology.queued, "request")}` : "waiting for the first token";
}

function showProblem(problem, onclick) {
  const again = el("button", { type: "button", onclick }, "Try again");
  byId("problem").replaceChildren(problem, " ", again);
  byId("problem").hidden = false;
}

const hideProblem = () => (byId("problem").hidden = true);

/** What stands where nothing has been said yet. */
function showEmpty() {
  const empty = byId("empty");
  empty.hidden = conversation.messages.length > 0;
  if (empty.hidden) return;
  if (!topology) {
    empty.replaceChildren(el("p", {}, "Asking the coordinator what it serves …"));
    return;
  }
  const { model, chat, ready, waiting_for } = topology;
  const about = chat
    ? "runs on the devices of this swarm. What you write goes through each of them: they can read it."
    : "is no chat model: it has no chat template, so it does not answer. It continues the text that you give it, on the devices of this swarm: they can read it.";
  const begin = (prompt) => {
    text.value = prompt;
    grow();
    text.focus();
  };
  const example = (prompt) => el("li", {}, el("button", { type: "button", onclick: () => begin(prompt) }, prompt));
  empty.replaceChildren(
    el("h2", {}, model),
    el("p", {}, `${model} ${about}`),
    ready ? "" : notReady(waiting_for),
    el("ul", { className: "examples" }, EXAMPLES[chat ? "chat" : "plain"].map(example)),
  );
}

function notReady(waiting_for) {
  return el(
    "p",
    { className: "notice" },
    `The model is not ready: ${waiting_for}. `,
    el("a", { href: "/join" }, "Bring in a device"),
    " or ",
    el("a", { href: "/swarm" }, "see what is going on"),
    ".",
  );
}

const EXAMPLES = {
  chat: ["Explain ownership in Rust in three sentences.", "Write a limerick about a slow network.", "What can you do?"],
  plain: ["# Ownership\n\nIn Rust, every value has", "A `HashMap` is", "How do I read a file line by line?"],
};

/** The list of conversations. */
function showList() {
  const all = kept.all();
  all.forEach(({ id }) => stored.add(id));
  const entries = all.map((one) => {
    const open = el("button", { type: "button", className: "open", onclick: () => openOne(one.id) }, kept.title(one));
    if (one.id === conversation.id) open.setAttribute("aria-current", "true");
    const remove = el("button", { type: "button", className: "quiet", onclick: () => removeOne(one) }, "Delete");
    remove.setAttribute("aria-label", `Delete: ${kept.title(one)}`);
    return el("li", {}, open, remove);
  });
  byId("conversations").replaceChildren(...entries);
  byId("tools").hidden = entries.length === 0;
}

function openOne(id) {
  const found = kept.find(id);
  if (!found) return showList();
  stop();
  conversation = running?.of.id === id ? running.of : found;
  kept.current(id);
  toggle("show-history", "history", false);
  show();
  showList();
  return text.focus();
}

function removeOne(one) {
  if (running?.of.id === one.id) stop();
  kept.remove(one.id);
  if (one.id === conversation.id) begin();
  showList();
  const undo = byId("undo");
  undo.hidden = false;
  undo.querySelector("button").onclick = () => {
    kept.store(one);
    undo.hidden = true;
    openOne(one.id);
  };
  setTimeout(() => (undo.hidden = true), 10_000);
}

function begin() {
  stop();
  conversation = kept.fresh();
  kept.current(conversation.id);
  show();
  showList();
}

const stop = () => running?.abort.abort();

/** Follows the text, unless the reader has scrolled away from its end. */
let following = true;
function scrollDown(always = false) {
  if (always) following = true;
  if (following) log.scrollTop = log.scrollHeight;
}

function grow() {
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight + 2, innerHeight * 0.4)}px`;
}

function toggle(button, panel, open) {
  byId(panel).classList.toggle("open", open);
  if (panel === "settings") byId(panel).hidden = !open;
  byId(button).setAttribute("aria-expanded", String(open));
}

// What people do

log.addEventListener("scroll", () => (following = log.scrollHeight - log.scrollTop - log.clientHeight < 40));

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const content = text.value;
  if (running || !content.trim()) return;
  text.value = "";
  grow();
  const message = { role: "user", content, plain: !topology?.chat };
  conversation.messages.push(message);
  kept.current(conversation.id);
  append(message);
  keep(conversation);
  showEmpty();
  scrollDown(true);
  answer();
});

text.addEventListener("input", grow);
text.addEventListener("keydown", (event) => {
  // On a phone Enter is the only way to a new line.
  const typed = !matchMedia("(pointer: coarse)").matches;
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && typed) {
    event.preventDefault();
    byId("composer").requestSubmit();
  }
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) stop();
});

byId("stop").addEventListener("click", () => {
  stop();
  text.focus();
});
byId("fresh").addEventListener("click", () => {
  begin();
  toggle("show-history", "history", false);
  text.focus();
});
byId("show-history").addEventListener("click", () => {
  const open = !byId("history").classList.contains("open");
  toggle("show-history", "history", open);
  if (open) byId("fresh").focus();
});
byId("show-settings").addEventListener("click", () => toggle("show-settings", "settings", byId("settings").hidden));
byId("save").addEventListener("click", () => {
  download("conversation.md", "text/markdown", kept.markdown(conversation));
});
byId("save-all").addEventListener("click", () => {
  download("conversations.json", "application/json", JSON.stringify(kept.all(), null, 1));
});
byId("remove-all").addEventListener("click", () => {
  if (!confirm(`Delete ${count(kept.all().length, "conversation")} from this browser?`)) return;
  stop();
  kept.all().forEach(({ id }) => kept.remove(id));
  begin();
});

for (const [id, key] of [["temperature", "temperature"], ["length", "length"], ["system", "system"]]) {
  const field = byId(id);
  field.value = settings[key];
  field.addEventListener("input", () => {
    const value = field.type === "range" ? field.valueAsNumber : field.type === "number" ? Math.trunc(field.valueAsNumber) : field.value;
    if (typeof value === "number" && !(value >= Number(field.min))) return;
    settings = { ...settings, [key]: value };
    kept.storeSettings(settings);
    byId("temperature-now").textContent = settings.temperature.toFixed(2);
  });
}
byId("temperature-now").textContent = settings.temperature.toFixed(2);

kept.onChange(showList);
addEventListener("pagehide", () => running && keepOn(running.of));

watch((event) => {
  showState(byId("state"), event);
  if (event.event === "topology") {
    const first = topology === null;
    const changed = !first && (topology.ready !== event.data.ready || topology.chat !== event.data.chat);
    topology = event.data;
    if (first || changed) {
      document.title = `${topology.model} · syn1`;
      byId("system-field").hidden = !topology.chat;
      byId("length-limit").textContent = `The context holds ${topology.max_positions.toLocaleString("en")}, prompt included.`;
      text.placeholder = topology.chat ? `Ask ${topology.model}` : "Text to continue";
      say(byId("text-label"), topology.chat ? "Message" : "Text to continue");
      showEmpty();
    }
  } else if (event.event === "figures") {
    busy = computing.take(event.data);
    if (topology) topology = { ...topology, queued: event.data.queued, running: event.data.running };
    if (running) for (const name of busy) running.nodes.add(name);
  }
  showFigures();
});

show();
showList();
grow();
