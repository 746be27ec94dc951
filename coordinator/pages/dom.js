// Elements without innerHTML: what a model, a node or a file says is text and nothing else.

/** An element with properties and children; a child that is null or false is left out, any other value is text. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  set(element, properties);
  add(element, children);
  return element;
}

/** The same in the namespace of SVG, where everything is an attribute. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  add(element, children);
  return element;
}

function set(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
}

function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

export const byId = (id) => document.getElementById(id);

/** Sets an element's text where it has changed: a screen reader says again what is set again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Copies text; the way without a clipboard API is for pages that came over http. */
export async function copy(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Not allowed, or not focused: the other way may be.
    }
  }
  const area = el("textarea", { value: text, className: "unseen", readOnly: true });
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus?.();
  return copied;
}

/** A button that copies what `text()` gives, and says that it did. */
export function copyButton(label, text) {
  const button = el("button", { type: "button", className: "quiet" }, label);
  let back;
  button.addEventListener("click", async () => {
    button.textContent = (await copy(text())) ? "Copied" : "Not copied: select it by hand";
    clearTimeout(back);
    back = setTimeout(() => (button.textContent = label), 2000);
  });
  return button;
}

/** Offers text as a file. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
