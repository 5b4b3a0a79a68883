// The slide explorer: a deep-zoom viewer with tiles drawn over the slide, coloured by a column.
// `mountExplorer` is called by explorer_widget.js (tiles from the kernel) or explorer_static.js (tiles in the page).

const HX_STEP = 0.1;        // of opacity, per key press
const HX_DASH_PX = 6;       // tiles without a value are dashed above this size, left blank below
const HX_GRID_PX = 24;      // tiles larger than this on screen get a hairline

function hxDecode(text, Kind) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Kind(bytes.buffer);
}

function hxElement(tag, name, parent, properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  if (name) element.className = name;
  if (parent) parent.append(element);
  return element;
}

const HX_ICONS = {
  out: "M3 8h10", in: "M3 8h10M8 3v10", home: "M2.5 8 8 3l5.5 5M4.2 7v6h7.6V7",
  full: "M3 6.2V3h3.2M9.8 3H13v3.2M13 9.8V13H9.8M6.2 13H3V9.8",
};

function hxDrawIcon(path) {
  const space = "http" + "://www.w3.org/2000/svg";   // a name, never fetched
  const icon = document.createElementNS(space, "svg"), line = document.createElementNS(space, "path");
  for (const [name, value] of Object.entries({ viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": true })) icon.setAttribute(name, value);
  for (const [name, value] of Object.entries({ d: path, fill: "none", stroke: "currentColor", "stroke-width": 1.6 })) line.setAttribute(name, value);
  icon.append(line);
  return icon;
}

function hxFormat(value) {
  if (!Number.isFinite(value)) return "no value";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  return size >= 1e5 || (size > 0 && size < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function hxLength(um) {
  return um >= 1000 ? `${um / 1000} mm` : `${um} µm`;
}

// ---- the tiles as typed arrays, with an index of places for the pointer

function hxReadTiles(packed) {
  if (!packed) return null;
  const x = hxDecode(packed.x, Int32Array), y = hxDecode(packed.y, Int32Array);
  const columns = packed.columns.map((column) => ({
    ...column,
    label: column.name.replaceAll("_", " "),
    codes: hxDecode(column.codes, Uint8Array),
    values: column.values ? hxDecode(column.values, Float32Array) : null,
  }));
  const [width, height] = packed.edge, cells = new Map();
  for (let i = 0; i < x.length; i++) {
    for (const key of hxCells(x[i], y[i], width, height)) {
      if (!cells.has(key)) cells.set(key, []);
      cells.get(key).push(i);
    }
  }
  return { x, y, width, height, columns, cells };
}

function hxCells(x, y, width, height) {
  const left = Math.floor(x / width), top = Math.floor(y / height), keys = new Set();
  for (const column of [left, Math.floor((x + width - 1) / width)])
    for (const row of [top, Math.floor((y + height - 1) / height)]) keys.add(`${column},${row}`);
  return keys;
}

function hxFindTile(tiles, x, y) {
  const near = tiles.cells.get(`${Math.floor(x / tiles.width)},${Math.floor(y / tiles.height)}`) || [];
  let best = -1, least = Infinity;
  for (const i of near) {
    const dx = x - tiles.x[i], dy = y - tiles.y[i];
    if (dx < 0 || dy < 0 || dx >= tiles.width || dy >= tiles.height) continue;
    const far = Math.abs(dx - tiles.width / 2) + Math.abs(dy - tiles.height / 2);
    if (far < least) [best, least] = [i, far];
  }
  return best;
}

function hxTellValue(column, i) {
  if (column.kind === "number") return hxFormat(column.values[i]);
  if (column.texts) return column.texts[i] ?? "no value";
  return column.codes[i] ? column.categories[column.codes[i] - 1] : "no value";
}

// ---- pixels

function hxMakeSource(OSD, slide, fetchTile) {
  const top = slide.n_levels - 1;                  // OpenSeadragon counts levels from the coarsest
  return new OSD.TileSource({
    width: slide.width, height: slide.height, tileSize: slide.tile_px, tileOverlap: 0,
    minLevel: 0, maxLevel: top - slide.finest,
    getLevelScale: (level) => 1 / 2 ** (top - level),
    getTileUrl: (level, x, y) => `histobook:${slide.id}/${top - level}/${x}_${y}`,
    hasTransparency: () => false,
    downloadTileStart(job) {
      const { level, x, y } = job.tile;
      const fetched = fetchTile(top - level, x, y);
      job.userData.fetched = fetched;
      fetched.blob.then((blob) => job.finish(blob, null, "rasterBlob"), (error) => job.fail(error.message, null));
    },
    downloadTileAbort(job) { job.userData.fetched?.cancel(); },
  });
}

// ---- the viewer

function mountExplorer(root, payload, fetchTile, OSD) {
  const slide = payload.slide, tiles = hxReadTiles(payload.tiles);
  const outlines = payload.outlines.map((line) => hxDecode(line, Float32Array));
  const state = { column: payload.column, opacity: payload.opacity, outlines: true, hover: -1, touched: false };
  const ui = hxBuild(root, payload, tiles, outlines.length > 0);
  const viewer = OSD({
    element: ui.stage, tileSources: hxMakeSource(OSD, slide, fetchTile), drawer: "canvas",
    showNavigationControl: false, showNavigator: true, navigatorPosition: "TOP_RIGHT", navigatorSizeRatio: 0.16,
    navigatorAutoFade: false, navigatorBackground: "#fff", navigatorBorderColor: "#888", navigatorDisplayRegionColor: "#0072B2",
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, animationTime: 0.5, springStiffness: 9,
    maxZoomPixelRatio: slide.max_zoom, minZoomImageRatio: 0.7, visibilityRatio: 0.3, immediateRender: true,
    timeout: 600000, tileRetryMax: 1, imageLoaderLimit: 6, placeholderFillStyle: "#f3f3f3",
  });
  viewer.Point = OSD.Point;
  const draw = () => hxDraw(viewer, ui, slide, tiles, outlines, state);
  viewer.addHandler("open", () => { viewer.canvas.append(ui.canvas); draw(); });
  viewer.addHandler("update-viewport", draw);
  viewer.addHandler("resize", () => { if (!state.touched) requestAnimationFrame(() => viewer.viewport?.goHome(true)); draw(); });
  for (const event of ["pointerdown", "wheel", "keydown"]) root.addEventListener(event, () => { state.touched = true; });
  viewer.addHandler("tile-load-failed", (event) => ui.say(event.message));
  hxConnect(root, viewer, ui, tiles, state, draw);
  return () => { viewer.destroy(); root.replaceChildren(); };
}

function hxBuild(root, payload, tiles, hasOutlines) {
  root.replaceChildren();
  root.classList.add("hx");
  root.tabIndex = -1;
  root.dataset.lmSuppressShortcuts = "true";       // JupyterLab's one-letter commands stay out of the viewer
  const bar = hxElement("div", "hx-bar", root), ui = { bar };
  hxElement("span", "hx-name", bar, { textContent: payload.slide.slide_id, title: payload.slide.about });
  if (tiles?.columns.length) {
    const label = hxElement("label", "", bar, { textContent: "colour " });
    ui.select = hxElement("select", "", label, { title: "column that colours the tiles (key c)" });
    tiles.columns.forEach((column, i) => ui.select.append(new Option(column.label, i, false, i === payload.column)));
    const slide = hxElement("label", "", bar, { textContent: "opacity " });
    ui.opacity = hxElement("input", "", slide, { type: "range", min: 0, max: 1, step: 0.05, title: "keys [ and ]" });
    ui.opacity.value = payload.opacity;
  }
  if (hasOutlines) {
    const label = hxElement("label", "", bar, { title: "outline of the tissue (key o)" });
    ui.outlines = hxElement("input", "", label, { type: "checkbox", checked: true });
    label.append(" outline");
  }
  const buttons = hxElement("span", "hx-buttons", bar);
  const titles = { out: "zoom out (key -)", in: "zoom in (key +)", home: "whole slide (key 0)", full: "full screen (key f)" };
  for (const [name, title] of Object.entries(titles)) {
    ui[name] = hxElement("button", "", buttons, { type: "button", title, ariaLabel: title });
    ui[name].append(hxDrawIcon(HX_ICONS[name]));
  }
  const frame = hxElement("div", "hx-frame", root);
  frame.style.height = `${payload.height_px}px`;
  ui.frame = frame;
  ui.stage = hxElement("div", "hx-stage", frame);
  ui.canvas = hxElement("canvas", "hx-overlay");
  ui.scale = hxElement("div", "hx-scale", frame);
  ui.legend = hxElement("div", "hx-legend", frame);
  ui.tip = hxElement("div", "hx-tip", frame, { hidden: true });
  ui.note = hxElement("div", "hx-note", frame, { textContent: payload.note, hidden: !payload.note });
  ui.message = hxElement("div", "hx-message", frame, { hidden: true, role: "status" });
  ui.say = (text) => { ui.message.textContent = text; ui.message.hidden = !text; };
  return ui;
}

function hxConnect(root, viewer, ui, tiles, state, draw) {
  const change = (step) => { Object.assign(state, step); draw(); };
  const pick = (i) => { ui.select.value = i; change({ column: i }); hxDrawLegend(ui, tiles.columns[i]); };
  const fade = (value) => { ui.opacity.value = value; change({ opacity: Number(ui.opacity.value) }); };
  const zoom = (factor) => { viewer.viewport.zoomBy(factor); viewer.viewport.applyConstraints(); };
  const full = () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen());
  if (ui.select) {
    hxDrawLegend(ui, tiles.columns[state.column]);
    ui.select.addEventListener("change", () => pick(Number(ui.select.value)));
    ui.opacity.addEventListener("input", () => fade(ui.opacity.value));
  }
  ui.outlines?.addEventListener("change", () => change({ outlines: ui.outlines.checked }));
  ui.in.addEventListener("click", () => zoom(1.6));
  ui.out.addEventListener("click", () => zoom(1 / 1.6));
  ui.home.addEventListener("click", () => viewer.viewport.goHome());
  ui.full.addEventListener("click", full);
  const keys = {
    f: full, "0": () => viewer.viewport.goHome(), Home: () => viewer.viewport.goHome(),
    "+": () => zoom(1.6), "=": () => zoom(1.6), "-": () => zoom(1 / 1.6), _: () => zoom(1 / 1.6),
    c: () => ui.select && pick((state.column + 1) % tiles.columns.length),
    "[": () => ui.opacity && fade(state.opacity - HX_STEP), "]": () => ui.opacity && fade(state.opacity + HX_STEP),
    o: () => { if (ui.outlines) { ui.outlines.checked = !state.outlines; change({ outlines: !state.outlines }); } },
  };
  viewer.addHandler("canvas-key", (event) => {
    if (!event.originalEvent.ctrlKey && !event.originalEvent.metaKey && keys[event.originalEvent.key]) event.preventDefaultAction = true;
  });
  root.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.ctrlKey || event.metaKey || event.altKey || !ui.stage.contains(event.target)) return;
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
  viewer.addHandler("canvas-scroll", (event) => {  // the wheel scrolls the page until the viewer is clicked
    const mine = root.contains(document.activeElement) || document.fullscreenElement === root || event.originalEvent.ctrlKey;
    event.preventDefaultAction = !mine;
    event.preventDefault = mine;
  });
  viewer.addHandler("canvas-press", () => viewer.canvas.focus({ preventScroll: true }));
  ui.stage.addEventListener("pointermove", (event) => hxHover(event, viewer, ui, tiles, state, draw));
  ui.stage.addEventListener("pointerleave", () => { ui.tip.hidden = true; change({ hover: -1 }); });
}

function hxHover(event, viewer, ui, tiles, state, draw) {
  const item = viewer.world.getItemAt(0);
  if (!item || !tiles) return;
  const frame = ui.stage.getBoundingClientRect();
  const at = { x: event.clientX - frame.left, y: event.clientY - frame.top };
  const place = hxPlace(viewer, item);
  const found = hxFindTile(tiles, (at.x - place.left) / place.scale, (at.y - place.top) / place.scale);
  if (found !== state.hover) { state.hover = found; draw(); hxTell(ui, tiles, state); }
  ui.tip.hidden = found < 0 || event.buttons > 0;
  const beyond = at.x + 18 + ui.tip.offsetWidth > frame.width;
  ui.tip.style.left = `${Math.max(4, beyond ? at.x - 14 - ui.tip.offsetWidth : at.x + 14)}px`;
  ui.tip.style.top = `${Math.max(4, Math.min(at.y + 10, frame.height - ui.tip.offsetHeight - 4))}px`;
}

function hxTell(ui, tiles, state) {
  const i = state.hover;
  if (i < 0) return;
  ui.tip.replaceChildren(hxElement("b", "", null, { textContent: `tile ${i}` }), ` at ${tiles.x[i]}, ${tiles.y[i]} px`);
  const table = hxElement("table", "", ui.tip);
  tiles.columns.forEach((column, k) => {
    const row = hxElement("tr", k === state.column ? "hx-current" : "", table);
    hxElement("td", "", row, { textContent: column.label });
    hxElement("td", "", row, { textContent: hxTellValue(column, i) });
  });
}

// ---- drawing over the slide

function hxPlace(viewer, item) {
  const start = item.imageToViewerElementCoordinates(new viewer.Point(0, 0));
  const end = item.imageToViewerElementCoordinates(new viewer.Point(1000, 0));
  return { left: start.x, top: start.y, scale: (end.x - start.x) / 1000 };   // screen px per level-0 px
}

function hxDraw(viewer, ui, slide, tiles, outlines, state) {
  const item = viewer.world.getItemAt(0);
  if (!item) return;
  const ratio = window.devicePixelRatio || 1, width = ui.stage.clientWidth, height = ui.stage.clientHeight;
  const canvas = ui.canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  }
  const pen = canvas.getContext("2d"), place = hxPlace(viewer, item);
  if (!(place.scale > 0 && Number.isFinite(place.scale))) return;   // not laid out yet
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const view = { left: place.left * ratio, top: place.top * ratio, scale: place.scale * ratio, width: canvas.width, height: canvas.height, ratio };
  if (tiles) hxDrawTiles(pen, view, tiles, state);
  if (state.outlines) for (const line of outlines) hxDrawLine(pen, view, line);
  if (tiles && state.hover >= 0) hxDrawBox(pen, view, tiles, state.hover);
  hxDrawScale(ui.scale, place.scale / slide.mpp_x);
}

function hxEdges(view, tiles, i) {                 // whole px, so that neighbours neither overlap nor leave a gap
  const left = Math.round(view.left + tiles.x[i] * view.scale), top = Math.round(view.top + tiles.y[i] * view.scale);
  const right = Math.round(view.left + (tiles.x[i] + tiles.width) * view.scale);
  const bottom = Math.round(view.top + (tiles.y[i] + tiles.height) * view.scale);
  return [left, top, Math.max(1, right - left), Math.max(1, bottom - top)];
}

function hxDrawTiles(pen, view, tiles, state) {
  const column = tiles.columns[state.column], size = tiles.width * view.scale / view.ratio;
  const grid = size > HX_GRID_PX, dashed = size > HX_DASH_PX;
  pen.lineWidth = view.ratio;
  for (let i = 0; i < tiles.x.length; i++) {
    const [left, top, width, height] = hxEdges(view, tiles, i);
    if (left > view.width || top > view.height || left + width < 0 || top + height < 0) continue;
    const colour = column && column.codes[i] ? column.colours[column.codes[i] - 1] : null;
    if (colour) {
      pen.globalAlpha = state.opacity;
      pen.fillStyle = colour;
      pen.fillRect(left, top, width, height);
    }
    if (grid || (dashed && !colour)) {
      pen.globalAlpha = grid ? 0.75 : 0.4;
      pen.strokeStyle = colour || "#555";
      pen.setLineDash(colour ? [] : [3 * view.ratio, 3 * view.ratio]);
      pen.strokeRect(left + 0.5, top + 0.5, width - 1, height - 1);
    }
  }
  pen.globalAlpha = 1;
  pen.setLineDash([]);
}

function hxDrawLine(pen, view, line) {
  pen.beginPath();
  for (let i = 0; i < line.length; i += 2) pen.lineTo(view.left + line[i] * view.scale, view.top + line[i + 1] * view.scale);
  pen.closePath();
  for (const [colour, width] of [["rgba(255,255,255,0.75)", 3.2], ["#111", 1.4]]) {
    Object.assign(pen, { strokeStyle: colour, lineWidth: width * view.ratio });
    pen.stroke();
  }
}

function hxDrawBox(pen, view, tiles, i) {
  const box = hxEdges(view, tiles, i);
  for (const [colour, width] of [["#fff", 4], ["#000", 2]]) {
    Object.assign(pen, { strokeStyle: colour, lineWidth: width * view.ratio });
    pen.strokeRect(...box);
  }
}

function hxDrawScale(element, pxPerUm) {
  const rough = 110 / pxPerUm, power = 10 ** Math.floor(Math.log10(rough));
  const um = [5, 2, 1].map((step) => step * power).find((length) => length <= rough * 1.001);
  element.textContent = hxLength(Number(um.toPrecision(1)));
  element.style.width = `${um * pxPerUm}px`;
}

function hxDrawLegend(ui, column) {
  const box = ui.legend;
  box.replaceChildren();
  hxElement("div", "hx-title", box, { textContent: column.label });
  if (column.kind === "number" && column.high > column.low) {
    const stops = column.colours.filter((_, i) => i % 16 === 0 || i === column.colours.length - 1);
    hxElement("div", "hx-ramp", box).style.background = `linear-gradient(to right, ${stops.join(",")})`;
    const ends = hxElement("div", "hx-ends", box);
    hxElement("span", "", ends, { textContent: (column.below ? "≤ " : "") + hxFormat(column.low) });
    hxElement("span", "", ends, { textContent: (column.above ? "≥ " : "") + hxFormat(column.high) });
  } else if (column.kind === "number") {
    if (column.codes.some((code) => code)) hxSwatch(box, column.colours[127], `all ${hxFormat(column.low)}`, "");
  } else {
    column.categories.forEach((name, i) => hxSwatch(box, column.colours[i], name, column.counts[i]));
  }
  if (column.n_missing) hxSwatch(box, "", "no value", column.n_missing);
}

function hxSwatch(box, colour, name, count) {
  const row = hxElement("div", "hx-row", box);
  hxElement("span", colour ? "hx-swatch" : "hx-swatch hx-none", row).style.background = colour;
  hxElement("span", "", row, { textContent: name });
  hxElement("span", "hx-count", row, { textContent: String(count) });
}
