"use strict";
// Page of a comparison. All text is set by textContent: names of runs and classes are data, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
for (const view of data.views) for (const row of view.rows) if (row.curves) Object.setPrototypeOf(row.curves, null); // a metric may be called "constructor"
const dark = matchMedia("(prefers-color-scheme: dark)");
const LIGHT = ["#0b62b5", "#c2410c", "#0f7a4d", "#a21caf", "#a16207", "#0e7490", "#be123c", "#6d28d9", "#4d7c0f", "#475569"];
const DARK = ["#6cb2ff", "#ff9d5c", "#4fd19a", "#e58bf2", "#e6c04a", "#55cfe6", "#ff8aa5", "#b79bff", "#a8d64a", "#b4c0d0"];
const DASHES = ["", "7 4", "2 3", "10 3 2 3"];
const FIRST = 8; // rows whose curves are shown initially

// ---- small helpers ----

function el(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "circle", "rect", "text", "title", "desc"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const colour = (row) => (dark.matches ? DARK : LIGHT)[row % 10];
const dash = (row) => DASHES[Math.floor(row / 10) % DASHES.length];
const finite = (x) => typeof x === "number" && Number.isFinite(x);
function short(x) {
  if (!finite(x)) return "–";
  const size = Math.abs(x);
  return x !== 0 && (size < 1e-3 || size >= 1e5) ? x.toExponential(2).replace("e+", "e").replace(/\.?0+e/, "e") : String(+x.toPrecision(4));
}

const tip = document.getElementById("tip");
function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(6, Math.min(x + 14, innerWidth - box.width - 6)) + "px";
  tip.style.top = (y + box.height + 22 > innerHeight ? Math.max(6, y - box.height - 12) : y + 14) + "px";
}
const hideTip = () => { tip.hidden = true; };

function scale(low, high, from, to, log) { // vertical if `from` is the larger coordinate
  if (low === high) { low = log ? low / 2 : low - (Math.abs(low) || 1) * 0.1; high = log ? high * 2 : high + (Math.abs(high) || 1) * 0.1; }
  const f = log ? Math.log10 : (x) => x;
  const a = f(low), b = f(high);
  const at = (x) => from + ((f(x) - a) / (b - a)) * (to - from);
  at.ticks = ticks(low, high, log, Math.abs(to - from) / (to < from ? 40 : 64));
  return at;
}

function ticks(low, high, log, available) {
  const maxTicks = Math.max(2, Math.floor(available));
  if (log) {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high)), decades = Math.log10(high / low);
    const step = Math.max(1, Math.ceil((last - first) / maxTicks));
    const digits = step > 1 || decades > 2.5 ? [1] : decades > 1.3 ? [1, 2, 5] : [1, 1.5, 2, 3, 5, 7];
    const result = [];
    for (let power = first; power <= last; power += step)
      for (const digit of digits) {
        const tick = +(digit * 10 ** power).toPrecision(3);
        if (tick >= low * 0.999 && tick <= high * 1.001) result.push(tick);
      }
    return result.length ? result : [low, high];
  }
  const raw = (high - low) / maxTicks, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= raw);
  const result = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-9; tick += step) {
    if (result.length > 2 * maxTicks || tick + step === tick) return [low, high]; // a step changes no number of this size
    result.push(+tick.toPrecision(10));
  }
  return result;
}

/** Use the values as ticks if there are few of them. */
function fewTicks(at, values) {
  const unique = [...new Set(values)].sort((a, b) => a - b);
  if (unique.length > 1 && unique.length <= 6) at.ticks = unique;
}

/** Axes of a chart: grid, ticks and names; returns the scales. */
function axes(svg, box, x, y, names) {
  for (const tick of y.ticks) {
    const at = y(tick);
    svg.append(el("line", { class: "grid", x1: box.left, x2: box.right, y1: at, y2: at }));
    svg.append(el("text", { x: box.left - 7, y: at + 4, "text-anchor": "end" }, short(tick)));
  }
  const marks = names.places ? names.places.map((name, place) => [place, name]) : x.ticks.map((tick) => [tick, short(tick)]);
  const crowded = names.places && names.places.join("").length * 7 + names.places.length * 12 > box.right - box.left;
  for (const [place, name] of marks) {
    const at = x(place);
    if (crowded) svg.append(el("text", { x: at, y: box.bottom + 14, "text-anchor": "end", transform: `rotate(-28 ${at} ${box.bottom + 14})` }, name.slice(0, 16)));
    else svg.append(el("text", { x: at, y: box.bottom + 17, "text-anchor": "middle" }, name));
  }
  svg.append(el("line", { class: "frame", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  if (names.y) svg.append(el("text", { x: 2, y: box.top - 10 }, names.y));
  if (names.x) svg.append(el("text", { x: (box.left + box.right) / 2, y: box.bottom + 36, "text-anchor": "middle" }, names.x));
}

// Viridis: from dark blue over green to yellow, readable by lightness alone
const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
function heat(share) {
  const at = Math.max(0, Math.min(1, share)) * (STOPS.length - 1), low = Math.min(Math.floor(at), STOPS.length - 2), rest = at - low;
  const rgb = STOPS[low].map((from, i) => Math.round(from + (STOPS[low + 1][i] - from) * rest));
  const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return { fill: `rgb(${rgb})`, text: luminance > 0.18 ? "#000" : "#fff" };
}

/** Return a function from a row to its quality by rank, from 0 (worst) to 1 (best): a diverged run does not flatten the others. */
function goodness(view) {
  const ranked = view.rows.filter((row) => row.rank).length;
  return (row) => (ranked > 1 ? 1 - (row.rank - 1) / (ranked - 1) : 1);
}

// ---- state of the controls, saved for reloads of a watched page ----

const KEY = "gridlight:" + location.pathname;
let saved = {};
try { saved = JSON.parse(sessionStorage.getItem(KEY)) || {}; } catch { /* browsers may refuse storage for files */ }
function save(changes) {
  Object.assign(saved, changes);
  try { sessionStorage.setItem(KEY, JSON.stringify(saved)); } catch { /* as above */ }
}

// ---- the table ----

function table(view, state) {
  const section = el("section", { id: "table", "aria-labelledby": "h-table" });
  const search = el("input", { type: "search", placeholder: "filter rows", "aria-label": "Filter rows", value: saved.search || null });
  const count = el("span", { class: "soft", role: "status" });
  section.append(el("div", { class: "bar" }, el("h2", { id: "h-table" }, "Ranking"), count, search));
  section.append(el("p", { class: "soft" }, view.title));
  const heads = view.heads, body = el("tbody");
  const row0 = el("tr");
  row0.append(el("th", { scope: "col" }, el("span", {}, "curve")));
  heads.forEach((head, place) => {
    const th = el("th", { scope: "col", class: head.number ? "num" : "", title: head.title });
    th.append(el("button", { type: "button", onclick: () => sort(place) }, head.name));
    row0.append(th);
  });
  const lines = view.rows.map((row, number) => {
    const line = el("tr", { class: row.rank === 1 ? "first" : null });
    const box = el("input", { type: "checkbox", "aria-label": `Curve of ${row.label}`, disabled: !row.curves });
    box.checked = state.shown.has(number);
    box.addEventListener("change", () => state.toggle(number, box.checked));
    line.append(el("td", {}, el("span", { class: "pick" }, box, row.curves ? swatch(number) : null)));
    row.cells.forEach((cell, place) => line.append(el("td", { class: (heads[place].number ? "num" : "") + (heads[place].key === "run" ? " run" : ""), title: heads[place].key === "run" ? row.place : null }, cell.text)));
    line.addEventListener("pointerenter", () => state.light(number));
    line.addEventListener("pointerleave", () => state.light(null));
    state.boxes[number] = box;
    return { line, row, text: row.cells.map((cell) => cell.text).join(" ").toLowerCase(), number };
  });
  body.append(...lines.map((entry) => entry.line));
  section.append(el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Ranking, scrolls sideways" }, el("table", {}, el("caption", { hidden: true }, view.title), el("thead", {}, row0), body)));
  section.append(el("p", { class: "soft", style: "margin:8px 0 0" }, view.notes.join(" · ")));

  let sorted = { place: null, down: false };
  function sort(place, down) {
    down = down ?? (sorted.place === place ? !sorted.down : false);
    sorted = { place, down };
    const value = (entry) => entry.row.cells[place].value;
    lines.sort((a, b) => {
      const x = value(a), y = value(b), none = (v) => v === null || v === undefined;
      if (none(x) || none(y)) return none(x) - none(y);
      const order = finite(x) && finite(y) ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
      return down ? -order : order;
    });
    body.append(...lines.map((entry) => entry.line));
    row0.querySelectorAll("th").forEach((th, i) => (i === place + 1 ? th.setAttribute("aria-sort", down ? "descending" : "ascending") : th.removeAttribute("aria-sort")));
    save({ sort: [heads[place].key, down] });
  }
  function filter() {
    const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let visible = 0;
    for (const entry of lines) {
      const matches = terms.every((term) => entry.text.includes(term));
      entry.line.hidden = !matches;
      visible += matches;
    }
    count.textContent = `${terms.length ? `${visible} of ` : ""}${lines.length} ${lines.length === 1 ? "row" : "rows"}`;
    save({ search: search.value });
  }
  search.addEventListener("input", filter);
  filter();
  const sortColumn = saved.sort ? heads.findIndex((head) => head.key === saved.sort[0]) : -1;
  if (sortColumn >= 0) sort(sortColumn, saved.sort[1]);
  state.lines = Object.fromEntries(lines.map((entry) => [entry.number, entry.line]));
  return section;
}

function swatch(number) {
  const style = ["solid", "dashed", "dotted", "double"][Math.floor(number / 10) % 4];
  const node = el("span", { class: "swatch" });
  node.style.borderTopColor = colour(number);
  node.style.borderTopStyle = style;
  return node;
}

// ---- curves ----

function curves(view, state) {
  const section = el("section", { id: "curves", "aria-labelledby": "h-curves" });
  const metric = el("select", { "aria-label": "Metric" }, ...view.metrics.map((name) => el("option", {}, name)));
  if (view.metrics.includes(saved.metric)) metric.value = saved.metric;
  const log = el("input", { type: "checkbox" });
  const far = view.rows.flatMap((row) => (row.curves && row.curves[metric.value] ? row.curves[metric.value].mean : [])).filter(finite);
  log.checked = saved.log ?? (view.mode === "min" && Math.min(...far) > 0 && Math.max(...far) / Math.min(...far) > 10);
  const buttons = [["best 8", () => state.choose(FIRST)], ["all", () => state.choose(Infinity)], ["none", () => state.choose(0)]];
  const group = el("div", { role: "group", "aria-label": "Curves shown", style: "display:flex;gap:6px" }, ...buttons.map(([name, act]) => el("button", { type: "button", onclick: act }, name)));
  section.append(el("div", { class: "bar" }, el("h2", { id: "h-curves" }, "Learning curves"), el("label", {}, "metric", metric), el("label", {}, log, "log"), group));
  const chart = el("div", { class: "chart", tabindex: 0, role: "application", "aria-label": "Learning curves: left and right move by an epoch, up and down by a run" });
  const legend = el("ul", { class: "legend", "aria-label": "Curves shown" });
  section.append(chart, legend, el("p", { class: "soft", style: "margin:8px 0 0" }, view.curveNote));

  let drawn = [], x = null, y = null, box = null, cursor = null, at = null;
  function draw() {
    const width = Math.max(300, chart.clientWidth || 900), height = width < 500 ? 300 : 380;
    box = { left: 62, right: width - 10, top: 28, bottom: height - 44 };
    const name = metric.value;
    drawn = [...state.shown].filter((n) => view.rows[n].curves && view.rows[n].curves[name]).sort((a, b) => a - b).map((n) => ({ number: n, curve: view.rows[n].curves[name], row: view.rows[n] }));
    const values = drawn.flatMap((d) => [...(d.curve.low || d.curve.mean), ...(d.curve.high || d.curve.mean)]).filter(finite).filter((v) => !log.checked || v > 0);
    const epochs = drawn.flatMap((d) => [d.curve.epochs[0], d.curve.epochs.at(-1)]);
    const svg = el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name} by epoch of ${drawn.length} rows` });
    chart.replaceChildren(svg);
    if (!values.length) {
      svg.append(el("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, drawn.length ? "no finite value" : "no curve is selected"));
      legend.replaceChildren();
      x = null;
      return;
    }
    // a diverged run must not flatten the others: the axis ends at the 95th percentile if the remaining values are far above
    const sorted = [...values].sort((a, b) => a - b);
    let low = sorted[0], high = sorted.at(-1);
    const reach = sorted[Math.floor(0.95 * (sorted.length - 1))];
    const cut = !log.checked && view.mode === "min" && high - low > 6 * (reach - low) && reach > low;
    if (cut) high = reach + 0.1 * (reach - low);
    x = scale(Math.min(...epochs), Math.max(...epochs), box.left, box.right, false);
    y = scale(low, high, box.bottom, box.top, log.checked);
    x.ticks = x.ticks.filter(Number.isInteger);
    axes(svg, box, x, y, { x: "epoch", y: name + (log.checked ? " (log)" : "") });
    if (cut) svg.append(el("text", { x: box.right, y: box.top + 10, "text-anchor": "end" }, "higher values are cut off"));
    const inside = (v) => (log.checked && v <= 0 ? null : Math.max(box.top - 4, y(v)));
    const path = (xs, ys) => xs.map((e, i) => (finite(ys[i]) && inside(ys[i]) !== null ? `${i && finite(ys[i - 1]) ? "L" : "M"}${x(e).toFixed(1)},${inside(ys[i]).toFixed(1)}` : "")).join("");
    for (const d of drawn) {
      const g = el("g", { "data-row": d.number });
      if (d.curve.low) {
        const ok = d.curve.epochs.map((_, i) => i).filter((i) => finite(d.curve.low[i]) && inside(d.curve.low[i]) !== null);
        const up = ok.map((i) => `${x(d.curve.epochs[i]).toFixed(1)},${inside(d.curve.high[i]).toFixed(1)}`);
        const back = ok.reverse().map((i) => `${x(d.curve.epochs[i]).toFixed(1)},${inside(d.curve.low[i]).toFixed(1)}`);
        if (up.length > 1) g.append(el("path", { class: "area", fill: colour(d.number), d: `M${up.join("L")}L${back.join("L")}Z` }));
      }
      if (d.curve.epochs.length === 1) g.append(el("circle", { cx: x(d.curve.epochs[0]), cy: inside(d.curve.mean[0]), r: 4, fill: colour(d.number) }));
      g.append(el("path", { class: "curve", stroke: colour(d.number), "stroke-dasharray": dash(d.number), d: path(d.curve.epochs, d.curve.mean) }));
      svg.append(g);
      d.node = g;
    }
    cursor = el("g", {});
    svg.append(cursor);
    legend.replaceChildren(...drawn.map((d) => el("li", {}, el("button", { type: "button", title: "hide this curve", onclick: () => state.toggle(d.number, false), onpointerenter: () => state.light(d.number), onpointerleave: () => state.light(null), onfocus: () => state.light(d.number), onblur: () => state.light(null) }, swatch(d.number), `${d.row.rank ? d.row.rank + ". " : ""}${d.row.label}`))));
  }
  function point(epoch, number, place) {
    const d = drawn.find((each) => each.number === number);
    const i = d.curve.epochs.indexOf(epoch);
    if (i < 0 || !finite(d.curve.mean[i])) return;
    at = { epoch, number };
    const cx = x(epoch), cy = Math.max(box.top, y(d.curve.mean[i]));
    cursor.replaceChildren(el("line", { class: "cursor", x1: cx, x2: cx, y1: box.top, y2: box.bottom }), el("circle", { cx, cy, r: 5, fill: colour(number), stroke: "var(--card)", "stroke-width": 2 }));
    state.light(number);
    const range = d.curve.low && d.curve.low[i] !== d.curve.high[i] ? `  (${short(d.curve.low[i])} to ${short(d.curve.high[i])})` : "";
    const frame = chart.getBoundingClientRect(), factor = frame.width / Math.max(300, chart.clientWidth || 900);
    showTip(`epoch ${epoch}: ${metric.value} ${short(d.curve.mean[i])}${range}\n${d.row.rank ? d.row.rank + ". " : ""}${d.row.label}`, place ? place.x : frame.left + cx * factor, place ? place.y : frame.top + cy * factor);
  }
  function leave() {
    if (cursor) cursor.replaceChildren();
    at = null;
    state.light(null);
    hideTip();
  }
  chart.addEventListener("pointermove", (event) => {
    if (!x || !drawn.length) return;
    const frame = chart.getBoundingClientRect(), factor = Math.max(300, chart.clientWidth || 900) / frame.width;
    const px = (event.clientX - frame.left) * factor, py = (event.clientY - frame.top) * factor;
    let best = null;
    for (const d of drawn) {
      const i = d.curve.epochs.reduce((near, e, k) => (Math.abs(x(e) - px) < Math.abs(x(d.curve.epochs[near]) - px) ? k : near), 0);
      if (!finite(d.curve.mean[i]) || (log.checked && d.curve.mean[i] <= 0)) continue;
      const far = Math.abs(x(d.curve.epochs[i]) - px) * 3 + Math.abs(Math.max(box.top, y(d.curve.mean[i])) - py);
      if (!best || far < best.far) best = { far, epoch: d.curve.epochs[i], number: d.number };
    }
    if (best) point(best.epoch, best.number, { x: event.clientX, y: event.clientY });
  });
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("blur", leave);
  chart.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Escape") return leave();
    if (!moves[event.key] || !x || !drawn.length) return;
    event.preventDefault();
    const [de, dr] = moves[event.key];
    let place = at ? drawn.findIndex((d) => d.number === at.number) : 0;
    place = Math.max(0, Math.min(drawn.length - 1, place + dr));
    const epochs = drawn[place].curve.epochs;
    let i = at ? epochs.reduce((near, e, k) => (Math.abs(e - at.epoch) < Math.abs(epochs[near] - at.epoch) ? k : near), 0) : epochs.length - 1;
    i = Math.max(0, Math.min(epochs.length - 1, i + (at ? de : 0)));
    point(epochs[i], drawn[place].number, null);
  });
  metric.addEventListener("change", () => { save({ metric: metric.value }); draw(); });
  log.addEventListener("change", () => { save({ log: log.checked }); draw(); });
  state.onlight.push((number) => { for (const d of drawn) if (d.node) { d.node.classList.toggle("dim", number !== null && d.number !== number); d.node.classList.toggle("lit", d.number === number); } });
  state.redraw.push(draw);
  return section;
}

// ---- hyperparameters ----

function response(view, axis, state) {
  const width = 360, height = 264, box = { left: 58, right: width - 10, top: 24, bottom: height - 56 };
  const svg = el("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${view.metric} against ${axis.key}` });
  const points = view.rows.map((row, number) => ({ row, number, x: axis.values[number], y: row.value })).filter((p) => p.row.rank && finite(p.y) && finite(p.x));
  if (!points.length) return null;
  const ys = points.map((p) => p.y), log = Math.min(...ys) > 0 && Math.max(...ys) / Math.min(...ys) > 5;
  const places = axis.names.length ? axis.names : null;
  const xs = points.map((p) => p.x);
  const x = places ? scale(-0.5, places.length - 0.5, box.left, box.right, false) : scale(Math.min(...xs), Math.max(...xs), box.left + 8, box.right - 8, axis.log);
  const y = scale(Math.min(...ys), Math.max(...ys), box.bottom - 6, box.top + 6, log);
  if (!places) fewTicks(x, xs);
  axes(svg, box, x, y, { x: axis.key + (axis.log ? " (log)" : ""), y: view.metric + (log ? " (log)" : ""), places });
  const good = goodness(view);
  for (const p of points.reverse()) {
    const text = `${view.metric} ${short(p.y)}\n${p.row.rank}. ${p.row.label}`;
    const dot = el("circle", { class: "dot", cx: x(p.x), cy: y(p.y), r: 5, fill: colour(0), "fill-opacity": (0.3 + 0.7 * good(p.row)).toFixed(2), role: "img", "aria-label": text });
    dot.addEventListener("pointerenter", (event) => { state.light(p.number); showTip(text, event.clientX, event.clientY); });
    dot.addEventListener("pointerleave", () => { state.light(null); hideTip(); });
    svg.append(dot);
  }
  return el("div", {}, svg);
}

function bars(view) {
  const importance = view.importance;
  const width = 360, line = 30, height = importance.keys.length * line + 40;
  const svg = el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Importance: " + importance.keys.map((key, i) => `${key} ${short(importance.loss[i])}`).join(", ") });
  const longest = Math.max(...importance.loss.map((v, i) => v + importance.deviation[i]), 1e-9), left = 8, right = width - 60;
  importance.keys.forEach((key, i) => {
    const top = i * line + 6, value = Math.max(0, importance.loss[i]);
    svg.append(el("text", { x: left, y: top + 9 }, key));
    svg.append(el("rect", { x: left, y: top + 13, width: Math.max(1, (value / longest) * (right - left)), height: 9, rx: 2, fill: colour(0) }));
    svg.append(el("text", { x: left + (value / longest) * (right - left) + 6, y: top + 22 }, `${short(+value.toPrecision(2))} ± ${short(+importance.deviation[i].toPrecision(2))}`));
  });
  return el("div", {}, el("h3", {}, "Importance"), svg, el("p", { class: "soft" }, importance.note));
}

function parallel(view, state) {
  const all = [...view.axes, { key: view.metric, values: view.rows.map((row) => row.value), names: [], log: view.logMetric }];
  const rows = view.rows.map((row, number) => ({ row, number })).filter(({ row, number }) => row.rank && all.every((axis) => finite(axis.values[number])));
  if (rows.length < 2 || all.length < 3) return null;
  const width = Math.max(all.length * 150, document.getElementById("main").clientWidth - 74), height = 340, top = 54, bottom = height - 18;
  const svg = el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Parallel coordinates of ${rows.length} rows over ${all.map((axis) => axis.key).join(", ")}`, style: `min-width:${all.length * 150}px` });
  const at = (i) => 60 + (i * (width - 120)) / (all.length - 1);
  const scales = all.map((axis) => {
    const values = rows.map(({ number }) => axis.values[number]);
    if (axis.names.length) return scale(-0.3, axis.names.length - 0.7, bottom, top, false);
    const at = scale(Math.min(...values), Math.max(...values), bottom, top, axis.log);
    if (axis.key !== view.metric) fewTicks(at, values);
    return at;
  });
  const good = goodness(view);
  for (const { row, number } of [...rows].reverse()) {
    const g = el("g", { "data-row": number });
    const spot = (i) => `${at(i).toFixed(1)},${scales[i](all[i].values[number]).toFixed(1)}`;
    const d = all.map((_, i) => { if (!i) return `M${spot(0)}`; const middle = (at(i - 1) + at(i)) / 2; const [a, b] = [spot(i - 1).split(",")[1], spot(i).split(",")[1]]; return `C${middle.toFixed(1)},${a} ${middle.toFixed(1)},${b} ${spot(i)}`; }).join("");
    g.append(el("path", { class: "curve", d, style: `stroke:color-mix(in srgb, var(--accent) ${Math.round(100 * good(row))}%, var(--faint))`, "stroke-opacity": rows.length > 60 ? 0.6 : 0.9 }));
    g.addEventListener("pointermove", (event) => { state.light(number); showTip(`${view.metric} ${short(row.value)}\n${row.rank}. ${row.label}`, event.clientX, event.clientY); });
    g.addEventListener("pointerleave", () => { state.light(null); hideTip(); });
    svg.append(g);
    state.onlight.push((lit) => { g.classList.toggle("dim", lit !== null && lit !== number); g.classList.toggle("lit", lit === number); if (lit === number) g.parentNode.insertBefore(g, svg.querySelector(".axis")); });
  }
  all.forEach((axis, i) => {
    const g = el("g", { class: "axis" });
    g.append(el("line", { class: "frame", x1: at(i), x2: at(i), y1: top, y2: bottom }));
    const [x, anchor] = !i ? [4, "start"] : i === all.length - 1 ? [width - 4, "end"] : [at(i), "middle"];
    g.append(el("text", { class: "title", x, y: i % 2 && all.length > 6 ? 12 : 28, "text-anchor": anchor }, axis.key.length > 24 ? "…" + axis.key.slice(-23) : axis.key));
    const marks = axis.names.length ? axis.names.map((name, place) => [place, name.slice(0, 14)]) : scales[i].ticks.map((tick) => [tick, short(tick)]);
    for (const [place, name] of marks) {
      const label = el("text", { x: at(i) + 6, y: scales[i](place) - 5, "paint-order": "stroke", stroke: "var(--card)", "stroke-width": 4 }, name);
      g.append(label);
    }
    svg.append(g);
  });
  return el("div", {}, el("h3", {}, "Parallel coordinates"), el("div", { class: "scroll", style: "border:0;max-height:none", tabindex: 0, role: "region", "aria-label": "Parallel coordinates, scroll sideways" }, svg), el("p", { class: "soft" }, "One line for each row; bluer is better."));
}

function heatmap(view) {
  if (view.axes.length < 2) return null;
  const pick = (label, chosen) => { const node = el("select", { "aria-label": label }, ...view.axes.map((axis, i) => el("option", { value: i }, axis.key))); node.value = chosen; return node; };
  const order = view.importance ? view.importance.keys.map((key) => view.axes.findIndex((axis) => axis.key === key)) : [0, 1];
  const down = pick("Down", order[0]), across = pick("Across", order[1]);
  const place = el("div", { class: "scroll", style: "border:0", tabindex: 0, role: "region", "aria-label": "Heat map" });
  function bins(axis) {
    if (axis.names.length) return { of: (v) => v, names: axis.names };
    const unique = [...new Set(axis.values.filter(finite))].sort((a, b) => a - b);
    if (unique.length <= 12) return { of: (v) => unique.indexOf(v), names: unique.map(short) };
    const f = axis.log ? Math.log10 : (v) => v, back = axis.log ? (v) => 10 ** v : (v) => v;
    const low = f(unique[0]), step = (f(unique.at(-1)) - low) / 8;
    return { of: (v) => Math.min(7, Math.floor((f(v) - low) / step)), names: Array.from({ length: 8 }, (_, i) => `${short(+back(low + i * step).toPrecision(2))} –`) };
  }
  function draw() {
    const a = view.axes[down.value], b = view.axes[across.value], rows = bins(a), columns = bins(b), cells = new Map();
    view.rows.forEach((row, n) => {
      if (!row.rank || !finite(row.value)) return;
      const key = rows.of(a.values[n]) + ":" + columns.of(b.values[n]);
      cells.set(key, [...(cells.get(key) || []), row.value]);
    });
    const means = new Map([...cells].map(([key, values]) => [key, values.reduce((s, v) => s + v, 0) / values.length]));
    const sorted = [...means.values()].sort((p, q) => (view.mode === "min" ? q - p : p - q));
    const head = el("tr", {}, el("td", { class: "soft corner" }, `${a.key} ↓ ${b.key} →`), ...columns.names.map((name) => el("th", { scope: "col" }, name)));
    const body = rows.names.map((name, i) => el("tr", {}, el("th", { scope: "row" }, name), ...columns.names.map((_, j) => {
      const value = means.get(i + ":" + j);
      if (value === undefined) return el("td", { class: "soft" }, "");
      const look = heat(sorted.length > 1 ? sorted.indexOf(value) / (sorted.length - 1) : 1);
      return el("td", { style: `background:${look.fill};color:${look.text}`, title: `mean of ${cells.get(i + ":" + j).length} rows` }, short(value));
    })));
    place.replaceChildren(el("table", { class: "heat" }, el("thead", {}, head), el("tbody", {}, ...body)));
  }
  down.addEventListener("change", draw);
  across.addEventListener("change", draw);
  draw();
  return el("div", {}, el("h3", {}, "Two hyperparameters"), el("div", { class: "bar" }, el("label", {}, "down", down), el("label", {}, "across", across)), place, el("p", { class: "soft" }, `Mean ${view.metric} over the rows of a cell; yellow is best, coloured by rank.`));
}

function hyperparameters(view, state) {
  if (!view.axes.length || view.rows.filter((row) => row.rank).length < 2) return null;
  const section = el("section", { id: "hyperparameters", "aria-labelledby": "h-hyper" });
  section.append(el("div", { class: "bar" }, el("h2", { id: "h-hyper" }, "Hyperparameters")));
  const grid = el("div", { class: "grid2" });
  const order = view.importance ? view.importance.keys.map((key) => view.axes.find((axis) => axis.key === key)) : view.axes;
  if (view.importance) grid.append(bars(view));
  grid.append(...order.slice(0, 8).map((axis) => response(view, axis, state)).filter(Boolean));
  section.append(grid);
  for (const part of [parallel(view, state), heatmap(view)]) if (part) section.append(el("div", { style: "margin-top:20px" }, part));
  return section;
}

// ---- predictions ----

function confusionMatrix(record) {
  const totals = record.confusion.map((row) => row.reduce((s, v) => s + v, 0));
  const head = el("tr", {}, el("td", { class: "soft corner" }, "true ↓ predicted →"), ...record.classes.map((name) => el("th", { scope: "col" }, name)));
  const body = record.confusion.map((row, i) => el("tr", {}, el("th", { scope: "row" }, record.classes[i]), ...row.map((count, j) => {
    const share = totals[i] ? count / totals[i] : 0, cell = el("td", { title: `${record.classes[i]} predicted as ${record.classes[j]}: ${count} of ${totals[i]}` }, count ? String(count) : "");
    if (count) {
      const base = i === j ? "var(--accent)" : "var(--bad)";
      cell.style.background = `color-mix(in srgb, ${base} ${Math.round(12 + 33 * Math.sqrt(share))}%, var(--card))`;
      cell.style.color = "var(--text)";
    }
    return cell;
  })));
  const correct = record.confusion.reduce((s, row, i) => s + row[i], 0), all = totals.reduce((s, v) => s + v, 0);
  return el("div", {}, el("h3", {}, "Confusion matrix of the test split"), el("p", { class: "soft" }, `${correct} of ${all} correct`), el("div", { class: "scroll", style: "border:0", tabindex: 0, role: "region", "aria-label": "Confusion matrix" }, el("table", { class: "heat" }, el("thead", {}, head), el("tbody", {}, ...body))));
}

function predictionPlot(record) {
  const width = 480, height = 414, box = { left: 58, right: width - 10, top: 24, bottom: height - 46 };
  const pairs = record.true.flatMap((row, i) => row.map((value, j) => [value, record.predicted[i][j]])).filter(([a, b]) => finite(a) && finite(b));
  const all = pairs.flat(), low = Math.min(...all), high = Math.max(...all);
  const x = scale(low, high, box.left, box.right, false), y = scale(low, high, box.bottom, box.top, false);
  const svg = el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Predictions against target, ${pairs.length} numbers` });
  axes(svg, box, x, y, { x: "target", y: "prediction" });
  svg.append(el("line", { class: "cursor", x1: x(low), y1: y(low), x2: x(high), y2: y(high) }));
  for (const [a, b] of pairs) svg.append(el("circle", { cx: x(a).toFixed(1), cy: y(b).toFixed(1), r: 3, fill: colour(0), "fill-opacity": 0.55 }));
  return el("div", {}, el("h3", {}, "Predictions against target, test split"), svg);
}

function predictions(view) {
  const rows = view.rows.filter((row) => row.predictions || (row.images && row.images.length));
  if (!rows.length) return null;
  const section = el("section", { id: "predictions", "aria-labelledby": "h-predictions" });
  const choice = el("select", { "aria-label": "Row" }, ...rows.map((row, i) => el("option", { value: i }, `${row.rank ? row.rank + ". " : ""}${row.label}`)));
  const grid = el("div", { class: "grid2 wide" });
  section.append(el("div", { class: "bar" }, el("h2", { id: "h-predictions" }, "Predictions"), el("label", {}, "row", choice)), grid);
  function draw() {
    const row = rows[choice.value];
    const parts = [];
    if (row.predictions && row.predictions.confusion) parts.push(confusionMatrix(row.predictions));
    if (row.predictions && row.predictions.true) parts.push(predictionPlot(row.predictions));
    for (const image of row.images || []) parts.push(el("figure", { class: "whole" }, el("h3", {}, image.name), el("img", { src: image.data, alt: image.name, loading: "lazy" })));
    grid.replaceChildren(...parts);
  }
  choice.addEventListener("change", draw);
  draw();
  return section;
}

// ---- the whole page ----

function show(view) {
  const drawable = view.rows.map((row, n) => (row.curves ? n : -1)).filter((n) => n >= 0);
  const state = {
    shown: new Set(saved.shown ? drawable.filter((n) => saved.shown.includes(view.rows[n].label)) : drawable.slice(0, FIRST)),
    boxes: {}, lines: {}, onlight: [], redraw: [],
    toggle(number, on) { on ? state.shown.add(number) : state.shown.delete(number); state.boxes[number].checked = on; state.changed(); },
    choose(count) { state.shown = new Set(drawable.slice(0, count)); for (const n of drawable) state.boxes[n].checked = state.shown.has(n); state.changed(); },
    changed() { save({ shown: [...state.shown].map((n) => view.rows[n].label) }); state.redraw.forEach((draw) => draw()); },
    light(number) { for (const [n, line] of Object.entries(state.lines)) line.classList.toggle("lit", Number(n) === number); state.onlight.forEach((act) => act(number)); },
  };
  const parts = [table(view, state), drawable.length ? curves(view, state) : null, hyperparameters(view, state), predictions(view)].filter(Boolean);
  const names = { table: "Ranking", curves: "Learning curves", hyperparameters: "Hyperparameters", predictions: "Predictions" };
  document.getElementById("nav").replaceChildren(...parts.map((part) => el("a", { href: "#" + part.id }, names[part.id])));
  document.getElementById("best").replaceChildren(...(view.best ? ["Best: ", el("strong", {}, `${view.metric} ${view.best.score}`), ` with ${view.best.label}`] : ["No run has a value yet."]));
  const footer = el("footer", { class: "soft" }, `Written ${data.written} by python -m src.compare. Colours follow the system's light or dark setting.`);
  document.getElementById("main").replaceChildren(...parts, footer);
  state.redraw.forEach((draw) => draw());
  current = state;
}

let current = null;
function start() {
  document.title = data.title;
  const chosen = data.views.length > 1 ? el("select", { "aria-label": "What is compared" }, ...data.views.map((view, i) => el("option", { value: i }, view.title))) : null;
  const which = Math.min(saved.view || 0, data.views.length - 1);
  if (chosen) {
    chosen.value = which;
    chosen.addEventListener("change", () => { saved = {}; save({ view: Number(chosen.value) }); show(data.views[chosen.value]); });
  }
  const chips = Object.entries(data.counts).map(([status, count]) => el("li", { class: status }, `${count} ${status}`));
  document.getElementById("top").append(
    el("h1", {}, data.title),
    el("p", { class: "soft" }, data.places.join(" · ")),
    el("ul", { class: "chips", "aria-label": "Runs by status" }, ...chips),
    ...(chosen ? [el("p", { style: "margin:12px 0 0" }, el("label", {}, "comparison", chosen))] : []),
    el("p", { class: "best", id: "best" }),
    ...data.remarks.map((text) => el("p", { class: "soft" }, text)),
    el("nav", { id: "nav", "aria-label": "Sections" }),
  );
  show(data.views[which]);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; current.redraw.forEach((draw) => draw()); } });
  dark.addEventListener("change", () => show(data.views[saved.view || 0]));
  addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  addEventListener("scroll", hideTip, { passive: true });
  if (data.reload) { // a sweep is running: reload, but not while the page is in use
    let touched = 0;
    for (const kind of ["pointermove", "keydown", "scroll", "touchstart"]) addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
    setInterval(() => { if (Date.now() - touched > 3000 && !document.hidden) location.reload(); }, data.reload * 1000);
  }
}
start();
