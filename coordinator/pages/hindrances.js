// What stands between a browser and computing, in sentences with a remedy.

import { el } from "/pages/dom.js";
import { sentence } from "/pages/generate.js";

/**
 * What hinders here, the worst first: `{title, text, extra?, stops}`; `stops` where the device cannot join at all.
 *
 * `bundle` says whether the node's own files are there, `able` is what its `support()` found, `secure` whether the page
 * may use the device's GPU by its address, and `invitation` what `/api/join` answered, or null.
 */
export function hindrances({ bundle, able, secure, invitation }) {
  if (!bundle) {
    return [
      {
        title: "This coordinator was built without the browser's node",
        text: "Build it and start the coordinator again:",
        extra: el("code", {}, "cargo xtask web && cargo build --release"),
        stops: true,
      },
    ];
  }
  if (!able.webgpu && !able.cpu) {
    const title = "This browser cannot compute";
    const text = "It has neither WebGPU nor WebAssembly with SIMD. A current Chrome, Edge, Firefox or Safari has.";
    return [{ title, text: because(able.reason, text), stops: true }];
  }
  const found = [];
  if (!able.webgpu && !secure) {
    const https = invitation?.url?.startsWith("https:") ? invitation.url : null;
    found.push({
      title: "This page came over http",
      text: "Browsers give their graphics chip only to https pages, so this device would compute with its processor, which is much slower.",
      extra: https
        ? el("a", { href: https }, "Open this page over https")
        : el("span", {}, "Start the coordinator with ", el("code", {}, "--tls auto"), " and open the link that it prints."),
      stops: false,
    });
  } else if (!able.webgpu) {
    const text = "This device computes with its processor, which is slower.";
    found.push({ title: "No WebGPU here", text: because(able.reason, text), stops: false });
  } else if (able.software) {
    const text = "This browser's WebGPU computes on the processor: fine for trying it out, slower than a graphics chip.";
    found.push({ title: "No graphics chip", text, stops: false });
  }
  if (!able.opfs) {
    const text = "In a private window, or over http, pages may keep no files: the weights come anew at every visit.";
    found.push({ title: "Nothing can be kept for the next visit", text, stops: false });
  }
  return found;
}

/** What the browser's node found, where it said so, and what that means. */
const because = (reason, text) => (reason ? `${sentence(reason)} ${text}` : text);
