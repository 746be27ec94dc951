// What `syn1 bench decode --json` prints, as arms of a plot.

/**
 * The arms of a report: `{name, rate, limit, origin, report}`, `limit` null where none was measured.
 *
 * Takes a bare report, and one in an envelope `{machine, report}` as this page saves it. Throws an Error whose message
 * says what is missing.
 */
export function arms(json, origin) {
  const report = json?.report ?? json;
  const { model, weights, device, tokens_per_second: rate } = report ?? {};
  if (typeof rate !== "number" || !(rate > 0)) throw new Error("it has no tokens_per_second");
  if (![model, weights, device].every((text) => typeof text === "string")) throw new Error("it does not name model, weights and device");
  const isNumber = (value) => value === undefined || value === null || typeof value === "number";
  const wrong = FIGURES.find((name) => !isNumber(report[name]));
  if (wrong) throw new Error(`its ${wrong} is no number`);
  if (report.hop_us && typeof report.hop_us.above !== "number") throw new Error("its hop_us has no number above");
  const limit = limitOf(report);
  const loop = report.in_one_dispatch ? ", tokens in one dispatch" : "";
  const where = origin === "browser" ? "this browser" : json.machine && json.machine !== device ? String(json.machine).slice(0, 60) : "file";
  const whole = { name: `${model}, ${weights}, ${device}${loop} (${where})`, rate, limit, origin, report };
  const splits = Array.isArray(report.split) ? report.split : [];
  return [whole, ...splits.filter((split) => typeof split?.tokens_per_second === "number" && split.tokens_per_second > 0).map((split) => {
    const name = `${model}, ${weights}, ${device}, over ${split.nodes} local node${split.nodes === 1 ? "" : "s"} (${where})`;
    return { name, rate: split.tokens_per_second, limit: null, origin, report: {} };
  })];
}

/** What is shown of a report beside its tokens per second, where it is there. */
const FIGURES = ["share_of_limit", "read_bytes_per_second", "limit_bytes_per_second", "weight_bytes_per_token", "first_token_ms", "prefill_tokens_per_second"];

/** Tokens per second if reading were all: the share says it exactly, the two rates too. */
function limitOf({ tokens_per_second, share_of_limit, read_bytes_per_second, limit_bytes_per_second }) {
  if (share_of_limit > 0) return tokens_per_second / share_of_limit;
  if (read_bytes_per_second > 0 && limit_bytes_per_second > 0) return (tokens_per_second * limit_bytes_per_second) / read_bytes_per_second;
  return null;
}
