// The explorer in a page without a kernel: a part of the pyramid lies in the page.

async function hxInflate(text) {
  const stream = new Blob([hxDecode(text, Uint8Array)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

async function hxLoadLibrary(text) {               // once for all explorers of a page
  window.histobookOpenSeadragon ??= hxInflate(text).then((code) => {
    const library = { exports: {} };
    new Function("module", "exports", "define", code).call(window, library, library.exports, undefined);
    return library.exports;
  });
  return window.histobookOpenSeadragon;
}

async function hxStart(root) {
  const part = (name) => root.querySelector(`script.hx-${name}`).textContent;
  const payload = JSON.parse(part("payload")), pixels = JSON.parse(part("pixels"));
  const OSD = await hxLoadLibrary(part("library"));
  const fetchTile = (level, column, row) => {
    const text = pixels[`${level}/${column}_${row}`];
    const blob = text ? Promise.resolve(new Blob([hxDecode(text, Uint8Array)], { type: "image/jpeg" })) : Promise.reject(new Error("tile not in the page"));
    return { blob, cancel: () => {} };
  };
  const place = document.createElement("div");
  root.querySelector(".hx-fallback").replaceWith(place);
  mountExplorer(place, payload, fetchTile, OSD);
}

for (const root of document.querySelectorAll(".histobook-explorer:not([data-mounted])")) {
  root.dataset.mounted = "true";
  hxStart(root).catch((error) => {
    delete root.dataset.mounted;
    root.querySelector(".hx-fallback p").textContent = `The viewer could not start: ${error.message}`;
  });
}
