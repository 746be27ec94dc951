// The Worker of a browser's node: loads the WebAssembly module and answers syn1.js.

import init, { Tab, bench, fusion } from "./node.js";

const loaded = init({ module_or_path: new URL("./node_bg.wasm", import.meta.url) });

let tab = null;
let isToEnd = false;
let ticking = 0;
let lastTokens = "";

// What the browser says of its GPU. The name is put together of what there is; most browsers hide the rest.
async function support() {
  const found = {
    webgpu: false,
    adapter: null,
    features: [],
    shader_f16: false,
    subgroups: false,
    software: false,
    cpu: await loaded.then(() => true, () => false),
    opfs: await keepsFiles(),
    reason: null,
  };
  try {
    if (!isSecureContext) {
      found.reason =
        "this page did not come over https, so the browser gives it no GPU: open the coordinator's https address";
    } else if (!navigator.gpu) {
      found.reason = "this browser has no WebGPU: recent versions of Chrome, Edge, Safari and Firefox do";
    } else {
      const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
      if (!adapter) {
        found.reason = "this browser has WebGPU, but finds no GPU that it would use here";
      } else {
        const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info;
        found.webgpu = true;
        found.adapter = description || [vendor, device || architecture].filter(Boolean).join(" ") || "a GPU without a name";
        found.features = [...adapter.features].sort();
        found.shader_f16 = adapter.features.has("shader-f16");
        found.subgroups = adapter.features.has("subgroups");
        found.software = Boolean(isFallbackAdapter) || /swiftshader|llvmpipe|basic render/i.test(found.adapter);
      }
    }
  } catch (error) {
    found.reason = `WebGPU does not work here: ${error.message ?? error}`;
  }
  return found;
}

async function keepsFiles() {
  try {
    await navigator.storage.getDirectory();
    return "createSyncAccessHandle" in FileSystemFileHandle.prototype;
  } catch {
    return false;
  }
}

function tokens() {
  const now = tab?.tokens() ?? lastTokens;
  if (now !== lastTokens) {
    lastTokens = now;
    postMessage({ event: JSON.parse(now) });
  }
}

async function start(options) {
  const can = await support();
  postMessage({ event: { event: "support", ...can } });
  await loaded;
  const told = (event) => {
    if (event.event === "stopped") {
      tokens();
      clearInterval(ticking);
      tab = null;
    }
    postMessage({ event });
  };
  if (isToEnd) return told({ event: "stopped", cause: "stopped", error: false });
  try {
    tab = new Tab(JSON.stringify({ ...options, adapter: can.adapter ?? "", noGpu: can.reason }), (event) => told(JSON.parse(event)));
  } catch (error) {
    // Another attempt would be told the same.
    return told({ event: "stopped", cause: String(error?.message ?? error), error: true });
  }
  lastTokens = tab.tokens();
  ticking = setInterval(tokens, 250);
}

// What nobody caught is the end of this Worker: its owner hears of errors only.
addEventListener("unhandledrejection", ({ reason }) => {
  setTimeout(() => {
    throw reason;
  });
});

// A measurement, with what it tells as it goes on.
const measure = (what) => async (options, id) => {
  const can = await support();
  await loaded;
  const told = (progress) => postMessage({ id, progress: JSON.parse(progress) });
  return JSON.parse(await what(JSON.stringify({ ...options, adapter: can.adapter ?? "", noGpu: can.reason }), told));
};

const calls = {
  support,
  start,
  stop: async () => {
    // What has not begun yet is not to begin.
    isToEnd = true;
    tab?.stop();
  },
  hurry: async () => tab?.hurry(),
  bench: measure(bench),
  fusion: measure(fusion),
};

onmessage = async ({ data: { id, call, options } }) => {
  try {
    postMessage({ id, result: await calls[call](options, id) });
  } catch (error) {
    postMessage({ id, error: String(error?.message ?? error) });
  }
};
