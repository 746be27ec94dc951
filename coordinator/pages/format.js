// Numbers for people: three figures, a unit, and no more.

const three = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

export function bytes(count) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (count >= size) return `${three(count / size)} ${unit}`;
  }
  return `${count.toFixed(0)} B`;
}

export function micros(us) {
  if (us >= 1e6) return `${three(us / 1e6)} s`;
  return us >= 1e3 ? `${three(us / 1e3)} ms` : `${us.toFixed(0)} µs`;
}

export const rate = (perSecond) => (perSecond >= 100 ? Math.round(perSecond).toLocaleString("en") : three(perSecond));

/** `1 token`, `2 tokens`. */
export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** `layers 0 to 3 of 8`: a range's end is one behind its last. */
export function layers([first, end], of) {
  const which = end - first === 1 ? `layer ${first}` : `layers ${first} to ${end - 1}`;
  return of === undefined ? which : `${which} of ${of}`;
}

/** `a`, `a and b`, `a, b and c`. */
export function list(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });
