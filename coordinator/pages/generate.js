// Text from the coordinator, token by token.
//
// This is the coordinator's own POST /api/generate and not its OpenAI endpoint: it continues plain text and answers
// conversations alike, and its last line holds what the coordinator itself measured.

import { lines } from "/pages/events.js";
import { unlocked } from "/pages/key.js";

/**
 * Asks for text; calls `on` with `{token}`, `{finished}` or `{failed}` for each line.
 *
 * Rejects with a sentence where the coordinator does not answer or refuses; aborting `signal` ends the request there too.
 */
export async function generate(ask, signal, on) {
  let response;
  try {
    response = await unlocked("/api/generate", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(ask),
      signal,
    });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error("The coordinator does not answer: is it still running, and is this device in its network?");
  }
  if (!response.ok) throw new Error(await refusal(response));
  let ended = false;
  for await (const text of lines(response.body.pipeThrough(new TextDecoderStream()))) {
    if (!text) continue;
    const line = JSON.parse(text);
    on(line);
    ended ||= "finished" in line || "failed" in line;
  }
  if (!ended && !signal.aborted) throw new Error("The connection to the coordinator broke off.");
}

async function refusal(response) {
  const text = await response.text();
  try {
    // Who may ask, and how often, is said in the form of the OpenAI endpoints.
    const { error } = JSON.parse(text);
    return sentence(error.message ?? error);
  } catch {
    return `The coordinator answered ${response.status}: ${text.slice(0, 200)}`;
  }
}

/** An error of the coordinator as a sentence. */
export function sentence(text) {
  const end = /[.!?]$/.test(text) ? "" : ".";
  return text.charAt(0).toUpperCase() + text.slice(1) + end;
}
