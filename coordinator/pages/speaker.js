// What a screen reader hears of text that streams: whole sentences as they are finished, never single tokens.

export class Speaker {
  #heard = 0;

  /** `region` is an element with role="status". */
  constructor(region) {
    this.region = region;
  }

  /** An answer begins; its first `length` characters were heard before. */
  begin(length) {
    this.#heard = length;
    this.region.textContent = "The model is answering.";
  }

  /** Takes all of the text so far. */
  hear(text) {
    const rest = text.slice(this.#heard);
    // Sentences come faster than they can be spoken: a few at a time interrupt less often.
    if (rest.length < 120) return;
    const ends = [...rest.matchAll(/[.!?:]\s|\n/g)].map((match) => match.index + match[0].length);
    if (ends.length === 0) return;
    const last = ends.at(-1);
    this.#speak(rest.slice(0, last));
  }

  /** The answer is complete. */
  end(text) {
    this.#speak(text.slice(this.#heard) || "The answer is complete.");
  }

  #speak(text) {
    this.#heard += text.length;
    this.region.textContent = text;
  }
}
