"use strict";
// Page of a comparison. All text is set by textContent or drawn by Vega: names of runs and classes are data, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)");
const FIRST = 8; // rows whose curves are shown initially

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const palette = () => data.palettes[dark.matches ? "dark" : "light"];
const finite = (x) => typeof x === "number" && Number.isFinite(x);

// ---- state of the controls, saved for reloads of a watched page ----

const KEY = "gridlight:" + location.pathname;
let saved = {};
try { saved = JSON.parse(sessionStorage.getItem(KEY)) || {}; } catch { /* browsers may refuse storage for files */ }
function save(changes) {
  Object.assign(saved, changes);
  try { sessionStorage.setItem(KEY, JSON.stringify(saved)); } catch { /* as above */ }
}

// ---- filter: the conditions of python -m src.compare; words without an operator are looked for in the row ----

const OPERATORS = /^([^<>=!]+)(<=|>=|!=|==|<|>|=)(.+)$/s;
const GROUPS = ["model", "datamodule", "optimizer", "scheduler", "trainer"];

function parseValue(text) {
  if (/^[-+]?[\d.]+(e[-+]?\d+)?$/i.test(text)) return Number(text);
  if (/^(true|false|null)$/i.test(text)) return JSON.parse(text.toLowerCase());
  if (/^\[.+\]$/.test(text)) return text.slice(1, -1).split(",").map((part) => parseValue(part.trim()));
  return text;
}

/** Return whether a text matches a pattern with *, ? and [characters]. */
function matchesPattern(text, pattern) {
  const source = pattern.replace(/\[(!?)([^\]]+)\]|[\s\S]/g, (part, not, set) => {
    if (set) return `[${not ? "^" : ""}${set.replace(/[\\^\]]/g, "\\$&")}]`;
    return part === "*" ? "[\\s\\S]*" : part === "?" ? "[\\s\\S]" : part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  });
  return new RegExp(`^${source}$`).test(text);
}

function equal(value, expected) {
  if (Array.isArray(value) && !Array.isArray(expected)) return value.some((item) => equal(item, expected));
  if (Array.isArray(expected)) return Array.isArray(value) && value.length === expected.length && value.every((item, i) => equal(item, expected[i]));
  if (typeof value === "boolean" || typeof expected === "boolean" || value === null || expected === null) return value === expected;
  if (finite(value) && finite(expected)) return Math.abs(value - expected) <= 1e-9 * Math.max(Math.abs(value), Math.abs(expected));
  return matchesPattern(String(value), String(expected));
}

/** Return the full name of a key, metric or column from the part that was typed. */
function resolveName(name, view) {
  const names = view.names;
  if (names.includes(name)) return name;
  if (names.includes(name + ".name")) return name + ".name";
  const candidates = names.filter((each) => each.endsWith("." + name) || each.endsWith("/" + name));
  const shown = candidates.filter((each) => view.keys.includes(each));
  if (candidates.length > 1 && shown.length !== 1) throw new Error(`${name}: which one? ${candidates.slice(0, 10).join(", ")}`);
  if (!candidates.length) throw new Error(`${name}: there is no such key, metric or column`);
  return candidates.length > 1 ? shown[0] : candidates[0];
}

/** Return functions from a row to whether it matches, one for each condition or word of a text. */
function parseFilter(text, view) {
  const terms = text.match(/(?:[^\s"']|"[^"]*"|'[^']*')+/g) || [];
  return terms.map((quoted) => {
    const term = quoted.replace(/"([^"]*)"|'([^']*)'/g, (_, a, b) => a ?? b);
    const match = OPERATORS.exec(term);
    if (!match) {
      if (/[<>=!]/.test(term)) throw new Error(`${term}: a condition is key=value, key!=value, key<number, <=, > or >=`);
      const word = term.toLowerCase();
      return (row) => row.text.includes(word);
    }
    let [, key, operator, typed] = match;
    key = resolveName(GROUPS.includes(key) ? key + ".name" : key, view);
    const expected = parseValue(typed);
    const get = (row) => (Object.hasOwn(row.values, key) ? row.values[key] : view.shared[key]);
    if (/[<>]/.test(operator)) {
      if (!finite(expected)) throw new Error(`${term}: ${operator} compares numbers`);
      const compare = { "<": (v) => v < expected, "<=": (v) => v <= expected, ">": (v) => v > expected, ">=": (v) => v >= expected }[operator];
      return (row) => finite(get(row)) && compare(get(row));
    }
    const choices = typeof expected === "string" ? expected.split(",").filter(Boolean).map(parseValue) : [expected];
    const is = (row) => choices.some((choice) => equal(get(row), choice));
    return (row) => get(row) !== undefined && (operator === "!=" ? !is(row) : is(row));
  });
}

// ---- charts: specifications from Python, drawn by Vega when they come into sight ----

class Chart {
  /**
   * @param {object} spec Vega-Lite specification without data.
   * @param {() => object} datasets returns the named data sets.
   * @param {object} options fit: use the width of the column; label: name for screen readers.
   */
  constructor(spec, datasets, options = {}) {
    this.spec = spec;
    this.datasets = datasets;
    this.options = options;
    this.visible = this.drawn = false;
    this.node = el("div", { class: "chart", role: "group", "aria-label": options.label, tabindex: options.tabindex });
    this.node.chart = this;
  }

  async draw() {
    this.drawn = true;
    const config = structuredClone(data.themes[dark.matches ? "dark" : "light"]);
    config.background = "transparent";
    const width = this.node.clientWidth;
    if (this.options.fit) config.legend.labelLimit = Math.max(120, width - 60);
    const spec = { ...this.spec, datasets: { ...this.spec.datasets, ...this.datasets() } };
    if (this.options.fit) Object.assign(spec, { width: Math.max(this.options.minimum ?? 200, width - 8), autosize: { type: "fit-x", contains: "padding" } });
    if (touch.matches && spec.params) spec.params = spec.params.filter((param) => !/^(zoom|brush\d*)$/.test(param.name)); // a drag scrolls the page
    const { view } = await vegaEmbed(this.node, spec, {
      ast: true, config, renderer: "canvas", logLevel: 1, tooltip: { theme: dark.matches ? "dark" : "light" },
      actions: { export: true, source: false, compiled: false, editor: false },
    });
    this.view = view;
    view.addEventListener("pointermove", (_, item) => state.highlight(rowOf(item)));
    this.node.addEventListener("pointerleave", () => state.highlight(-1));
    this.options.ready?.(view);
    this.options.updated?.(view);
    view.runAsync();
  }

  /** Show new data, at once if the chart is in sight. */
  update() {
    if (!this.view) return;
    if (!this.visible) { this.stale = true; return; }
    this.stale = false;
    for (const [name, records] of Object.entries(this.datasets())) this.view.data(name, records);
    this.options.updated?.(this.view);
    this.view.runAsync();
  }

  redraw() {
    this.view?.finalize();
    this.view = null;
    this.drawn = false;
    if (this.visible) this.draw();
  }

  signal(name, value) {
    if (this.view && this.visible && this.spec.params?.some((param) => param.name === name)) this.view.signal(name, value).runAsync();
  }
}

/** Return the row that a mark shows; -1 for none. */
function rowOf(item) {
  const datum = item?.datum?.datum ?? item?.datum;
  return Number.isInteger(datum?.row) ? datum.row : -1;
}

const sight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const chart = target.chart;
    chart.visible = isIntersecting;
    if (isIntersecting && !chart.drawn) chart.draw();
    else if (isIntersecting && chart.stale) chart.update();
  }
}, { rootMargin: "200px" });

// ---- one comparison ----

let state = null;

class State {
  constructor(view) {
    this.view = view;
    this.charts = [];
    this.curves = view.rows.flatMap((row, number) => (row.curve ? [number] : []));
    this.shown = new Set(saved.shown ? this.curves.filter((n) => saved.shown.includes(view.rows[n].label)) : this.curves.slice(0, FIRST));
    this.matching = new Set(view.rows.keys());
    this.brush = null; // the rows within the rectangle that was drawn in a chart
    this.lines = [];
    this.boxes = [];
    this.highlighted = -1;
  }

  chart(spec, datasets, options) {
    const chart = new Chart(spec, datasets, options);
    this.charts.push(chart);
    return chart;
  }

  /** Return the records of the rows that the filter and the rectangle leave. */
  select(records, chart) {
    const within = (row) => this.matching.has(row) && (!this.brush || this.brush.chart === chart || this.brush.rows.has(row));
    return records.filter((record) => within(record.row));
  }

  update() {
    for (const entry of this.lines) entry.line.hidden = !(this.matching.has(entry.number) && (!this.brush || this.brush.rows.has(entry.number)));
    const visible = this.lines.filter((entry) => !entry.line.hidden).length;
    this.count.textContent = `${visible < this.lines.length ? `${visible} of ` : ""}${this.lines.length} ${this.lines.length === 1 ? "row" : "rows"}`;
    this.clear.hidden = !this.brush;
    this.updateCharts();
  }

  /** Update one chart in each frame, so that the table reacts at once. */
  updateCharts() {
    cancelAnimationFrame(this.updating);
    const waiting = [...this.charts];
    const next = () => {
      waiting.shift()?.update();
      if (waiting.length) this.updating = requestAnimationFrame(next);
    };
    this.updating = requestAnimationFrame(next);
  }

  show(numbers) {
    this.shown = new Set(numbers);
    for (const number of this.curves) this.boxes[number].checked = this.shown.has(number);
    save({ shown: [...this.shown].map((number) => this.view.rows[number].label) });
    this.updateCharts();
  }

  highlight(row) {
    if (row === this.highlighted) return;
    this.highlighted = row;
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => {
      for (const entry of this.lines) entry.line.classList.toggle("lit", entry.number === row);
      for (const chart of this.charts) chart.signal("highlighted_row", row);
    });
  }

  /** Keep only the rows within a rectangle of a chart; null for all. */
  selectRows(chart, rows) {
    this.brush = rows && { chart, rows };
    cancelAnimationFrame(this.brushed);
    this.brushed = requestAnimationFrame(() => this.update());
  }
}

function table(view) {
  const section = el("section", { id: "table", "aria-labelledby": "h-table" });
  const search = el("input", { type: "search", placeholder: "filter: lr<0.1 model=mlp", "aria-label": "Filter rows", "aria-describedby": "filter-error", value: saved.search || null });
  const error = el("p", { id: "filter-error", class: "soft", role: "alert", hidden: true });
  state.count = el("span", { class: "soft", role: "status" });
  state.clear = el("button", { type: "button", hidden: true, onclick: () => { state.selectRows(null, null); state.charts.forEach((chart) => chart.options.brush && chart.redraw()); } }, "clear the selection");
  section.append(el("div", { class: "bar" }, el("h2", { id: "h-table" }, "Ranking"), state.clear, state.count, search), error, el("p", { class: "soft" }, view.title));
  const heads = view.heads, body = el("tbody"), head = el("tr", {}, el("th", { scope: "col" }, el("span", {}, "curve")));
  heads.forEach((column, place) => head.append(el("th", { scope: "col", class: column.number ? "num" : "", title: column.title }, el("button", { type: "button", onclick: () => sort(place) }, column.name))));
  const lines = view.rows.map((row, number) => {
    const box = el("input", { type: "checkbox", "aria-label": `Curve of ${row.label}`, disabled: !row.curve });
    box.checked = state.shown.has(number);
    box.addEventListener("change", () => state.show(state.curves.filter((n) => (n === number ? box.checked : state.shown.has(n)))));
    state.boxes[number] = box;
    const line = el("tr", { class: row.rank === 1 ? "first" : null }, el("td", {}, el("span", { class: "pick" }, box, row.curve ? swatch(state.curves.indexOf(number)) : null)));
    row.cells.forEach((cell, place) => line.append(el("td", { class: (heads[place].number ? "num" : "") + (heads[place].key === "run" ? " run" : ""), title: heads[place].key === "run" ? row.place : null }, cell.text)));
    line.addEventListener("pointerenter", () => state.highlight(number));
    line.addEventListener("pointerleave", () => state.highlight(-1));
    row.text = row.cells.map((cell) => cell.text).join(" ").toLowerCase();
    return { line, row, number };
  });
  state.lines = lines;
  body.append(...lines.map((entry) => entry.line));
  section.append(el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Ranking, scrolls sideways" }, el("table", {}, el("caption", { hidden: true }, view.title), el("thead", {}, head), body)));
  section.append(el("p", { class: "soft", style: "margin:8px 0 0" }, view.notes.join(" · ")));

  let sorted = { place: null, down: false };
  function sort(place, down = sorted.place === place ? !sorted.down : false) {
    sorted = { place, down };
    const none = (v) => v === null || v === undefined, value = (entry) => entry.row.cells[place].value;
    const order = new Intl.Collator(undefined, { numeric: true });
    lines.sort((a, b) => {
      const x = value(a), y = value(b);
      if (none(x) || none(y)) return none(x) - none(y);
      const difference = finite(x) && finite(y) ? x - y : order.compare(String(x), String(y));
      return down ? -difference : difference;
    });
    body.append(...lines.map((entry) => entry.line));
    head.querySelectorAll("th").forEach((th, i) => (i === place + 1 ? th.setAttribute("aria-sort", down ? "descending" : "ascending") : th.removeAttribute("aria-sort")));
    save({ sort: [heads[place].key, down] });
  }
  function filter() {
    save({ search: search.value });
    error.hidden = true;
    try {
      const conditions = parseFilter(search.value, view);
      state.matching = new Set(lines.filter(({ row }) => conditions.every((condition) => condition(row))).map((entry) => entry.number));
    } catch (problem) {
      error.textContent = problem.message;
      error.hidden = false;
    }
    state.update();
  }
  search.addEventListener("input", filter);
  filter();
  const column = saved.sort ? heads.findIndex((each) => each.key === saved.sort[0]) : -1;
  if (column >= 0) sort(column, saved.sort[1]);
  return section;
}

function swatch(place) {
  const node = el("span", { class: "swatch" });
  node.style.borderTopColor = palette()[place % palette().length];
  return node;
}

function learningCurves(view) {
  const names = view.curves.map((curve) => curve.name);
  if (!names.length) return null;
  const section = el("section", { id: "curves", "aria-labelledby": "h-curves" });
  const metric = el("select", { "aria-label": "Metric" }, ...names.map((name, i) => el("option", { value: i }, name)));
  metric.value = Math.max(0, names.indexOf(saved.metric));
  const log = el("input", { type: "checkbox" });
  const buttons = [[`best ${FIRST}`, () => state.show(state.curves.slice(0, FIRST))], ["all", () => state.show(state.curves)], ["none", () => state.show([])]];
  const group = el("div", { role: "group", "aria-label": "Curves shown", class: "buttons" }, ...buttons.map(([name, act]) => el("button", { type: "button", onclick: act }, name)));
  const place = el("div"), status = el("p", { class: "soft", role: "status" });
  section.append(el("div", { class: "bar" }, el("h2", { id: "h-curves" }, "Learning curves"), el("label", {}, "metric", metric), el("label", {}, log, "log"), group), place, status, el("p", { class: "soft" }, view.curveNote));
  let chart = null, records = [], at = null;
  function draw() {
    const curve = view.curves[metric.value], spec = structuredClone(curve.spec);
    records = curve.records;
    spec.params.find((param) => param.name === "logarithmic").value = log.checked;
    for (const layer of spec.layer) {
      const scale = layer.encoding?.y?.scale;
      if (scale && log.checked !== (scale.type === "log")) { scale.type = log.checked ? "log" : "linear"; delete scale.domainMin; delete scale.domainMax; }
    }
    if (chart) { sight.unobserve(chart.node); chart.view?.finalize(); state.charts.splice(state.charts.indexOf(chart), 1); }
    chart = state.chart(spec, () => ({ curves: state.select(records).filter((record) => state.shown.has(record.row)) }), {
      fit: true, tabindex: 0, updated, label: `${names[metric.value]} by epoch; left and right move by an epoch, up and down by a row`,
    });
    const labels = new Map(records.map((record) => [record.row, record.label]));
    function updated(view_) { view_.signal("labels", state.curves.filter((n) => state.shown.has(n) && labels.has(n)).map((n) => labels.get(n))); }
    chart.node.addEventListener("keydown", move);
    chart.node.addEventListener("blur", () => point(null));
    place.replaceChildren(chart.node);
    sight.observe(chart.node);
  }
  function point(place) { // the row and the epoch that the keyboard has reached
    at = place;
    status.textContent = place ? `epoch ${place.epoch}: ${place.mean}, ${place.label}` : "";
    state.highlight(place ? place.row : -1);
    chart.signal("highlighted_epoch", place ? place.epoch : -1);
  }
  function move(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Escape") return point(null);
    const lines = chart.datasets().curves.filter((record) => record.split === view.curves[metric.value].first);
    if (!steps[event.key] || !lines.length) return;
    event.preventDefault();
    const [epochs, rows] = steps[event.key];
    const place = at ? lines.findIndex((line) => line.row === at.row) + rows : 0;
    const line = lines[Math.max(0, Math.min(lines.length - 1, place))];
    let i = line.epoch.length - 1;
    if (at) i = line.epoch.reduce((best, epoch, k) => (Math.abs(epoch - at.epoch) < Math.abs(line.epoch[best] - at.epoch) ? k : best), 0) + epochs;
    i = Math.max(0, Math.min(line.epoch.length - 1, i));
    point({ row: line.row, label: line.label, epoch: line.epoch[i], mean: line.mean[i] });
  }
  function choose() { log.checked = saved.log ?? view.curves[metric.value].log; draw(); }
  metric.addEventListener("change", () => { save({ metric: names[metric.value], log: null }); choose(); });
  log.addEventListener("change", () => { save({ log: log.checked }); draw(); });
  choose();
  return section;
}

function hyperparameters(view) {
  if (!view.responses.length) return null;
  const section = el("section", { id: "hyperparameters", "aria-labelledby": "h-hyper" });
  section.append(el("div", { class: "bar" }, el("h2", { id: "h-hyper" }, "Hyperparameters")), el("p", { class: "soft" }, touch.matches ? "Bluer is better." : "Bluer is better. Draw a rectangle in a chart to see its rows alone in the table and in the other charts."));
  const grid = el("div", { class: "grid" });
  if (view.importance) {
    const chart = state.chart(view.importance.spec, () => ({}), { fit: true, label: "Importance of each hyperparameter" });
    grid.append(el("div", {}, el("h3", {}, "Importance"), chart.node, el("p", { class: "soft" }, view.importance.note)));
  }
  view.responses.forEach(({ spec, key }, index) => {
    const chart = state.chart(spec, () => ({ rows: state.select(view.records, chart) }), { fit: true, label: `${view.metric} against ${key}`, brush: true, ready });
    function ready(view_) {
      if (touch.matches) return;
      view_.addSignalListener(`brush${index}`, (_, brush) => {
        const ranges = Object.entries(brush);
        const within = (value, range) => (typeof range[0] === "number" ? value >= Math.min(...range) && value <= Math.max(...range) : range.includes(value));
        const rows = view.records.filter((record) => ranges.every(([field, range]) => within(record[field], range))).map((record) => record.row);
        state.selectRows(chart, ranges.length ? new Set(rows) : null);
      });
    }
    grid.append(el("div", {}, chart.node));
  });
  section.append(grid);
  for (const [name, spec] of [["Parallel coordinates", view.parallel], ["Two hyperparameters", view.heatMap]]) {
    if (!spec) continue;
    const chart = state.chart(spec, () => ({ rows: state.select(view.records) }), { label: name, fit: spec === view.parallel, minimum: spec.width });
    section.append(el("h3", {}, name), el("div", { class: "sideways", tabindex: 0, role: "region", "aria-label": `${name}, scrolls sideways` }, chart.node));
  }
  return section;
}

function predictions(view) {
  const rows = view.rows.filter((row) => row.prediction || row.images?.length);
  if (!rows.length) return null;
  const section = el("section", { id: "predictions", "aria-labelledby": "h-predictions" });
  const choice = el("select", { "aria-label": "Row" }, ...rows.map((row, i) => el("option", { value: i }, `${row.rank}. ${row.label}`)));
  const place = el("div");
  section.append(el("div", { class: "bar" }, el("h2", { id: "h-predictions" }, "Predictions"), el("label", {}, "row", choice)), place);
  function draw() {
    const row = rows[choice.value], parts = [];
    if (row.prediction) {
      const chart = new Chart(row.prediction.spec, () => row.prediction.datasets, { label: "Predictions of the test split" });
      parts.push(el("p", { class: "soft" }, row.prediction.note), el("div", { class: "sideways", tabindex: 0, role: "region", "aria-label": "Predictions, scrolls sideways" }, chart.node));
      sight.observe(chart.node);
    }
    for (const image of row.images || []) parts.push(el("figure", {}, el("h3", {}, image.name), el("img", { src: image.data, alt: image.name, loading: "lazy" })));
    place.replaceChildren(...parts);
  }
  choice.addEventListener("change", draw);
  draw();
  return section;
}

function show(view) {
  sight.disconnect();
  for (const chart of state?.charts || []) chart.view?.finalize();
  state = new State(view);
  const parts = [table(view), learningCurves(view), hyperparameters(view), predictions(view)].filter(Boolean);
  const names = { table: "Ranking", curves: "Learning curves", hyperparameters: "Hyperparameters", predictions: "Predictions" };
  document.getElementById("nav").replaceChildren(...parts.map((part) => el("a", { href: "#" + part.id }, names[part.id])));
  document.getElementById("best").replaceChildren(...(view.best ? ["Best: ", el("strong", {}, `${view.metric} ${view.best.score}`), ` with ${view.best.label}`] : ["No run has a value yet."]));
  const footer = el("footer", { class: "soft" }, `Written ${data.written} by python -m src.compare. Colours follow the system's light or dark setting. In the learning curves, drag to move, turn the wheel with Ctrl to zoom, double-click to reset.`);
  document.getElementById("main").replaceChildren(...parts, footer);
  for (const node of document.querySelectorAll(".chart")) sight.observe(node);
}

function start() {
  document.title = data.title;
  const chosen = data.views.length > 1 ? el("select", { "aria-label": "What is compared" }, ...data.views.map((view, i) => el("option", { value: i }, view.title))) : null;
  if (chosen) {
    chosen.value = Math.min(saved.view || 0, data.views.length - 1);
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
  const current = () => data.views[chosen ? chosen.value : 0];
  show(current());
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; for (const chart of state.charts) if (chart.options.fit) chart.redraw(); } });
  dark.addEventListener("change", () => show(current()));
  if (data.reload) { // a sweep is running: reload, but not while the page is in use
    let touched = 0;
    for (const kind of ["pointermove", "keydown", "scroll", "touchstart"]) addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
    setInterval(() => { if (Date.now() - touched > 3000 && !document.hidden) location.reload(); }, data.reload * 1000);
  }
}
start();
