// Markdown to DOM nodes: the part of it that models write. Nothing that is not understood is lost: it stays text.
//
// No HTML is ever parsed, links go only to http, https and mailto, and pictures are shown as links, so that no text can
// make the page load anything.

import { copyButton, el } from "/pages/dom.js";

/** Renders text that grows: blocks that have not changed keep their nodes, so selections and scroll positions stay. */
export class Markdown {
  #shown = [];

  constructor(root) {
    this.root = root;
  }

  show(text) {
    const blocks = split(text.replace(/\r\n?/g, "\n"));
    blocks.forEach((source, at) => {
      const shown = this.#shown[at];
      if (shown?.source === source) return;
      const node = block(source);
      if (shown) shown.node.replaceWith(node);
      else this.root.append(node);
      this.#shown[at] = { source, node };
    });
    for (const { node } of this.#shown.splice(blocks.length)) node.remove();
  }
}

/** Quotes and lists in one another: deeper than anybody reads, far from what a stack holds. */
const DEEPEST = 12;

/** Characters of a paragraph in which emphasis and links are looked for. */
const LONGEST = 20_000;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(?:\s+(.*)|\s*)$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** Cuts text into the sources of its blocks. */
export function split(text) {
  const lines = text.split("\n");
  const blocks = [];
  let at = 0;
  const take = (end) => {
    blocks.push(lines.slice(at, end).join("\n"));
    at = end;
  };
  while (at < lines.length) {
    if (!lines[at].trim()) at += 1;
    else take(endOf(lines, at));
  }
  return blocks;
}

/** One behind the last line of the block that begins at `at`. */
function endOf(lines, at) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  let end = at + 1;
  if (fence) {
    while (end < lines.length && !closes(lines[end], fence[1])) end += 1;
    return Math.min(end + 1, lines.length);
  }
  if (HEADING.test(line) || RULE.test(line)) return end;
  if (QUOTE.test(line)) {
    while (end < lines.length && lines[end].trim() && (QUOTE.test(lines[end]) || !begins(lines, end))) end += 1;
    return end;
  }
  if (ITEM.test(line)) return endOfList(lines, at);
  if (isTable(lines, at)) {
    while (end < lines.length && lines[end].includes("|")) end += 1;
    return end;
  }
  while (end < lines.length && lines[end].trim() && !begins(lines, end)) end += 1;
  return end;
}

/** A list goes on over blank lines as long as what follows is an item of its kind or indented. */
function endOfList(lines, at) {
  const kind = kindOf(ITEM.exec(lines[at])[2]);
  let end = at + 1;
  let fence = null;
  while (end < lines.length) {
    const line = lines[end];
    if (fence) {
      if (closes(line, fence)) fence = null;
      end += 1;
      continue;
    }
    if (!line.trim()) {
      const next = lines.findIndex((other, index) => index > end && other.trim());
      if (next < 0 || !(continues(lines[next], kind) || /^\s{2,}/.test(lines[next]))) return end;
      end = next;
      continue;
    }
    const item = ITEM.exec(line);
    if (item && item[1].length < 2 && kindOf(item[2]) !== kind) return end;
    if (!item && !/^\s{2,}/.test(line) && begins(lines, end)) return end;
    fence = FENCE.exec(line.trimStart())?.[1] ?? null;
    end += 1;
  }
  return end;
}

const kindOf = (marker) => (/\d/.test(marker) ? "ol" : "ul");
const continues = (line, kind) => {
  const item = ITEM.exec(line);
  return item !== null && kindOf(item[2]) === kind;
};
const closes = (line, fence) => {
  const text = line.trim();
  return text.length >= fence.length && text === fence[0].repeat(text.length);
};
const isTable = (lines, at) => lines[at].includes("|") && at + 1 < lines.length && TABLE_RULE.test(lines[at + 1]);
const begins = (lines, at) =>
  [FENCE, HEADING, RULE, QUOTE].some((rule) => rule.test(lines[at])) || /^ {0,3}([-*+]|1[.)])\s+\S/.test(lines[at]);

/** The node of one block, which stands in `depth` others. */
function block(source, depth = 0) {
  const lines = source.split("\n");
  if (depth > DEEPEST) return el("p", {}, source);
  const fence = FENCE.exec(lines[0]);
  if (fence) return code(lines, fence);
  const heading = lines.length === 1 && HEADING.exec(lines[0]);
  // A page has one h1, and it is not the model's.
  if (heading) return el(`h${Math.min(heading[1].length + 2, 6)}`, {}, inline(heading[2] ?? ""));
  if (lines.length === 1 && RULE.test(lines[0])) return el("hr");
  if (QUOTE.test(lines[0])) {
    const inner = lines.map((line) => QUOTE.exec(line)?.[1] ?? line).join("\n");
    return el("blockquote", {}, blocks(inner, depth + 1));
  }
  if (ITEM.test(lines[0])) return items(lines, depth + 1);
  if (isTable(lines, 0)) return table(lines);
  return el("p", {}, inline(lines.map((line) => line.trimStart()).join("\n")));
}

const blocks = (text, depth) => split(text).map((source) => block(source, depth));

function code(lines, [, fence, language]) {
  const closed = lines.length > 1 && closes(lines.at(-1), fence);
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  const head = el("div", { className: "code-head" }, el("span", {}, language || "code"), copyButton("Copy", () => text));
  // Keyboards scroll what they can focus.
  return el("div", { className: "code" }, head, el("pre", { tabIndex: 0 }, el("code", {}, text)));
}

function items(lines, depth) {
  const [, , marker] = ITEM.exec(lines[0]);
  const list = el(kindOf(marker));
  if (list.tagName === "OL") list.start = Number.parseInt(marker, 10);
  const bodies = [];
  let indent = 0;
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && (bodies.length === 0 || item[1].length < indent)) {
      indent = item[1].length + item[2].length + 1;
      bodies.push([item[3] ?? ""]);
    } else {
      bodies.at(-1).push(line.slice(Math.min(indent, line.length - line.trimStart().length)));
    }
  }
  for (const body of bodies) {
    const nodes = blocks(body.join("\n"), depth);
    // An item of one paragraph is that text.
    const first = nodes[0]?.tagName === "P" ? [...nodes.shift().childNodes] : [];
    list.append(el("li", {}, first, nodes));
  }
  return list;
}

function table(lines) {
  const cells = (line) => {
    const parts = line.trim().replace(/^\|/, "").replace(/(^|[^\\])\|$/, "$1").split(/(?<!\\)\|/);
    return parts.map((cell) => cell.trim().replaceAll("\\|", "|"));
  };
  const row = (line, tag) => el("tr", {}, cells(line).map((cell) => el(tag, {}, inline(cell))));
  const body = el("tbody", {}, lines.slice(2).map((line) => row(line, "td")));
  return el("div", { className: "scroll", tabIndex: 0 }, el("table", {}, el("thead", {}, row(lines[0], "th")), body));
}

/** What can stand in a line; the first alternative that matches wins. */
const INLINE = new RegExp(
  [
    "\\\\(?<escaped>[!-/:-@\\[-`{-~])",
    "(?<ticks>`+)(?<code>[\\s\\S]*?[^`])\\k<ticks>(?!`)",
    "!?\\[(?<label>(?:[^\\[\\]\\\\]|\\\\.|\\[[^\\[\\]]*\\])*)\\]\\((?<target>[^\\s()<>]*(?:\\([^\\s()]*\\)[^\\s()]*)*)(?:\\s+\"[^\"]*\")?\\)",
    "<(?<auto>(?:https?://|mailto:)[^\\s<>]+)>",
    "(?<bare>https?://[^\\s<>()\\[\\]]+[^\\s<>()\\[\\].,:;!?'\"*_`])",
    "\\*\\*(?=\\S)(?<strong>[\\s\\S]*?\\S)\\*\\*(?!\\*)",
    "(?<![\\p{L}\\p{N}_])__(?=\\S)(?<strong2>[\\s\\S]*?\\S)__(?![\\p{L}\\p{N}_])",
    "\\*(?=[^\\s*])(?<em>(?:[^*]|\\*\\*)*?[^\\s*])\\*(?!\\*)",
    "(?<![\\p{L}\\p{N}_])_(?=[^\\s_])(?<em2>[^_]*?[^\\s_])_(?![\\p{L}\\p{N}_])",
    "~~(?=\\S)(?<struck>[\\s\\S]*?\\S)~~",
    "(?<hard> {2,}\\n)",
  ].join("|"),
  "gu",
);

/** The nodes of a line's text, which stands in `depth` others. */
function inline(text, depth = 0) {
  if (depth > DEEPEST || text.length > LONGEST) return [text];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > end) nodes.push(text.slice(end, match.index));
    nodes.push(piece(match.groups, match[0], depth));
    end = match.index + match[0].length;
  }
  if (end < text.length) nodes.push(text.slice(end));
  return nodes;
}

function piece(of, source, depth) {
  const inner = (text) => inline(text, depth + 1);
  if (of.escaped !== undefined) return of.escaped;
  if (of.code !== undefined) return el("code", {}, of.code.replace(/^ (.*\S.*) $/s, "$1"));
  if (of.label !== undefined) return link(of.target, inner(of.label || of.target)) ?? source;
  if (of.auto !== undefined) return link(of.auto, [of.auto]) ?? source;
  if (of.bare !== undefined) return link(of.bare, [of.bare]) ?? source;
  if (of.hard !== undefined) return el("br");
  if (of.struck !== undefined) return el("s", {}, inner(of.struck));
  const strong = of.strong ?? of.strong2;
  return strong === undefined ? el("em", {}, inner(of.em ?? of.em2)) : el("strong", {}, inner(strong));
}

/** A link to another site, or null where it would go anywhere else. */
function link(target, label) {
  let url;
  try {
    url = new URL(target);
  } catch {
    return null;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  return el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, label);
}
