// The explorer in a live notebook: tiles are asked of the kernel by message and come back as JPEG bytes.

const HX_SLOW_MS = 2500;

function hxAsk(model, say) {
  const waiting = new Map();
  let last = 0;
  const slow = () => {
    const oldest = Math.min(...[...waiting.values()].map((job) => job.since));
    say(waiting.size && performance.now() - oldest > HX_SLOW_MS ? "waiting for the kernel: it may be busy with a cell, or gone" : "");
  };
  const timer = setInterval(slow, 1000);
  const hear = (content, buffers) => {
    const job = waiting.get(content.request);
    if (!job) return;
    waiting.delete(content.request);
    if (content.kind === "tile") job.resolve(new Blob([buffers[0]], { type: "image/jpeg" }));
    else job.reject(new Error(content.text));
  };
  model.on("msg:custom", hear);
  const fetchTile = (level, column, row) => {
    const request = `${hxAsk.view}-${++last}`;
    const blob = new Promise((resolve, reject) => waiting.set(request, { resolve, reject, since: performance.now() }));
    model.send({ kind: "tile", request, level, column, row });
    return { blob, cancel: () => { if (waiting.delete(request)) model.send({ kind: "cancel", request }); } };
  };
  return { fetchTile, stop: () => { clearInterval(timer); model.off("msg:custom", hear); } };
}

export default {
  render({ model, el }) {
    hxAsk.view = `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 6)}`;  // two views of one model never share a request
    const root = hxElement("div", "", el);
    const say = (text) => { const line = root.querySelector(".hx-message"); if (line) Object.assign(line, { textContent: text, hidden: !text }); };
    const { fetchTile, stop } = hxAsk(model, say);
    const unmount = mountExplorer(root, model.get("payload"), fetchTile, OpenSeadragon);
    return () => { stop(); unmount(); };
  },
};
