// Conversations, kept in this browser and nowhere else.
//
// Each is an entry of its own in localStorage, so that a long one does not slow the others down, and two open pages do
// not overwrite each other's.

const PREFIX = "syn1.conversation.";
const SETTINGS = "syn1.settings";
const CURRENT = "syn1.current";

/** A conversation: `{id, created, updated, messages: [{role, content, ..}]}`. Not stored before it has a message. */
export function fresh() {
  const now = Date.now();
  // randomUUID is not there on pages that came over http.
  const id = `${now.toString(36)}-${Math.random().toString(36).slice(2, 8)}`;
  return { id, created: now, updated: now, messages: [] };
}

/** What it is called: how it begins. */
export function title(conversation) {
  const text = (conversation.messages[0]?.content ?? "").replace(/[\s#*`>]+/g, " ").trim();
  return text.length > 60 ? `${text.slice(0, 59)}…` : text || "New conversation";
}

/** All of them, the latest first. What cannot be read is left alone. */
export function all() {
  const found = [];
  try {
    for (let at = 0; at < localStorage.length; at += 1) {
      const key = localStorage.key(at);
      if (key?.startsWith(PREFIX)) found.push(read(key));
    }
  } catch {
    // A browser that keeps nothing for this page has nothing to show.
  }
  return found.filter((conversation) => conversation !== null).sort((a, b) => b.updated - a.updated);
}

export const find = (id) => read(PREFIX + id);

/** Stores a conversation; says whether there was room. */
export const store = (conversation) => write(PREFIX + conversation.id, conversation);

export function remove(id) {
  try {
    localStorage.removeItem(PREFIX + id);
  } catch {
    // It was not stored either.
  }
}

/** Temperature, length and system prompt, with `defaults` for what was never set. */
export const settings = (defaults) => ({ ...defaults, ...read(SETTINGS) });

export const storeSettings = (settings) => write(SETTINGS, settings);

/** Which conversation this tab shows, over a reload. */
export function current(id) {
  try {
    if (id === undefined) return sessionStorage.getItem(CURRENT);
    sessionStorage.setItem(CURRENT, id);
  } catch {
    // Then a reload shows a new one.
  }
  return null;
}

/** A conversation as a Markdown file. */
export function markdown(conversation) {
  const part = ({ role, content }) => `## ${role === "user" ? "You" : "Answer"}\n\n${content}\n`;
  return `# ${title(conversation)}\n\n${conversation.messages.map(part).join("\n")}`;
}

/** Calls `on` when another tab has changed what is stored. */
export function onChange(on) {
  addEventListener("storage", (event) => {
    if (event.key === null || event.key.startsWith(PREFIX)) on();
  });
}

function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
