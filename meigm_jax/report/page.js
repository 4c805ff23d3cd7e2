// Draws the curves from the JSON in the page; what is not a curve is HTML already. No library and no network.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const view = {measure: "", x: "steps", seeds: false, band: true, hidden: new Set()};
const MARGIN = {left: 52, right: 26, top: 10, bottom: 42};
const SVG = "http://www.w3.org/2000/svg";

// -- Elements ---------------------------------------------------------------------------------------------------------

function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function coloured(node, line) {
  node.classList.add("line");
  node.style.setProperty("--light", line.colours[0]);
  node.style.setProperty("--dark", line.colours[1]);
  return node;
}

function sample(line) {
  const stroke = svg("line", {class: "mean", x1: 2, y1: 6, x2: 32, y2: 6, "stroke-dasharray": line.dashes});
  return coloured(svg("svg", {class: "sample", viewBox: "0 0 34 12", "aria-hidden": "true"}, stroke), line);
}

function seedsOf(line) {
  return `${line.seeds.length} seed${line.seeds.length > 1 ? "s" : ""}`;
}

// -- Numbers ----------------------------------------------------------------------------------------------------------

function short(value) {
  if (value === null) return "–";
  const size = Math.abs(value);
  if (size >= 1e4 || (size > 0 && size < 1e-3)) return value.toExponential(2).replace("e+", "e");
  return String(Number(value.toPrecision(3)));
}

function steps(value) {
  const [unit, name] = value >= 1e6 ? [1e6, " M"] : value >= 1e3 ? [1e3, " k"] : [1, ""];
  return Number((value / unit).toPrecision(4)) + name;
}

function timeUnit(seconds) {
  return seconds >= 7200 ? [3600, "h"] : seconds >= 180 ? [60, "min"] : [1, "s"];
}

function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) if (value !== null) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return [low, high];
}

function nearest(values, wanted) {
  let best = 0;
  values.forEach((value, k) => { if (Math.abs(value - wanted) < Math.abs(values[best] - wanted)) best = k; });
  return best;
}

// -- One chart --------------------------------------------------------------------------------------------------------

class Chart {
  constructor(environment, k) {
    this.environment = environment;
    this.clip = `clip${k}`;
    const counts = new Set(environment.lines.map(seedsOf));
    this.seeds = counts.size === 1 ? `, ${[...counts][0]}` : "";  // in the title, where all lines have as many
    this.what = element("span");
    this.plot = element("div", {class: "plot", tabindex: 0, role: "group"});
    this.tip = element("div", {class: "tip", role: "status", hidden: ""});
    this.legend = element("div", {class: "legend", role: "group", "aria-label": `Algorithms in ${environment.name}`});
    const title = element("h3", {}, environment.name);
    this.figure = element("figure", {class: "chart"}, element("figcaption", {}, title, this.what), this.plot, this.legend);
    this.legend.append(...environment.lines.map((line) => this.toggle(line)));
    this.plot.addEventListener("pointermove", (event) => this.pointed(event));
    this.plot.addEventListener("pointerleave", () => this.point(null));
    this.plot.addEventListener("blur", () => this.point(null));
    this.plot.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => { if (this.plot.clientWidth !== this.width) this.draw(); }).observe(this.plot);
  }

  toggle(line) {
    const button = element("button", {type: "button", "aria-pressed": "true"}, sample(line), line.name);
    if (!this.seeds) button.append(element("span", {class: "few"}, seedsOf(line)));
    button.dataset.line = line.name;
    button.addEventListener("click", () => {
      if (!view.hidden.delete(line.name)) view.hidden.add(line.name);
      drawAll();
    });
    return button;
  }

  // What is drawn now: each visible line with its values at `x`.
  series() {
    const {environment} = this;
    const measure = view.measure || environment.measure;
    const axes = environment.axes[measure.slice(0, measure.lastIndexOf(": "))];
    const curves = environment.curves[measure] || [];
    return environment.lines
      .map((line, k) => ({line, x: axes?.[k][view.x], ...curves[k]}))
      .filter((each) => each.mean && each.x.every((x) => x !== null) && !view.hidden.has(each.line.name));
  }

  draw() {
    const {environment, plot} = this;
    const measure = view.measure || environment.measure;
    for (const button of this.legend.children) button.setAttribute("aria-pressed", !view.hidden.has(button.dataset.line));
    this.what.textContent = measure.replace(/^(.*): (.*)$/, (_, rows, metric) => `${metric.replaceAll("_", " ")}, ${rows}${this.seeds}`);
    this.width = plot.clientWidth;
    this.height = Math.round(Math.max(220, Math.min(380, this.width * 0.5)));
    this.lines = this.series();
    if (!this.lines.length) {
      const why = environment.curves[measure]?.some(Boolean) ? "Every line is switched off." : "Nothing was measured.";
      plot.replaceChildren(element("p", {class: "empty"}, why), this.tip);
      return;
    }
    this.scale(measure);
    this.cursor = svg("g");
    const content = svg("g", {"clip-path": `url(#${this.clip})`}, ...this.layers());
    const box = {x: MARGIN.left, y: 0, width: this.width - MARGIN.left - MARGIN.right + 4, height: this.bottom + 3};
    const clip = svg("clipPath", {id: this.clip}, svg("rect", box));
    const size = {viewBox: `0 0 ${this.width} ${this.height}`, height: this.height, "aria-hidden": "true"};
    plot.setAttribute("aria-label", this.summary());
    plot.replaceChildren(svg("svg", size, clip, ...this.grid(), content, this.cursor), this.tip);
    this.point(null);
  }

  scale(measure) {
    const [, last] = extent(this.lines.flatMap((each) => each.x));
    const [unit, name] = view.x === "seconds" ? timeUnit(last) : [1, "env steps per seed"];
    this.unit = unit;
    this.xTitle = view.x === "seconds" ? `wall time (${name})` : name;
    this.xEnd = last || 1;
    this.yRange = measure.endsWith(": win_rate") ? [0, 1] : this.range();
    this.bottom = this.height - MARGIN.bottom;
    const inner = this.width - MARGIN.left - MARGIN.right;
    const [low, high] = this.yRange;
    this.toX = (x) => MARGIN.left + inner * x / this.xEnd;
    this.fromX = (pixels) => (pixels - MARGIN.left) / inner * this.xEnd;
    this.toY = (y) => this.bottom - (this.bottom - MARGIN.top) * (y - low) / (high - low);
  }

  // Every seed; the bands too, as long as they leave the curves half of the height.
  range() {
    const [low, high] = extent(this.lines.flatMap((each) => each.seeds.flat()));
    const [bandLow, bandHigh] = extent(view.band ? this.lines.flatMap((each) => [...each.low, ...each.high]) : [low]);
    const room = (high - low || Math.abs(high) || 1) / 2;
    const bottom = Math.min(low, Math.max(bandLow, low - room)), top = Math.max(high, Math.min(bandHigh, high + room));
    const edge = (top - bottom || room) * 0.04;
    return [bottom - edge, top + edge];
  }

  grid() {
    const {width, bottom, yRange, xEnd, unit} = this, parts = [];
    for (const y of ticks(...yRange, 5)) {
      parts.push(svg("line", {class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: this.toY(y), y2: this.toY(y)}));
      parts.push(svg("text", {x: MARGIN.left - 8, y: this.toY(y) + 4, "text-anchor": "end"}, short(y)));
    }
    for (const x of ticks(0, xEnd / unit, Math.max(2, Math.min(8, width / 90)))) {
      const label = view.x === "seconds" ? short(x) : steps(x);
      parts.push(svg("line", {class: "axis", x1: this.toX(x * unit), x2: this.toX(x * unit), y1: bottom, y2: bottom + 4}));
      parts.push(svg("text", {x: this.toX(x * unit), y: bottom + 18, "text-anchor": "middle"}, label));
    }
    parts.push(svg("line", {class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom}));
    const middle = (MARGIN.left + width - MARGIN.right) / 2;
    parts.push(svg("text", {x: middle, y: bottom + 37, "text-anchor": "middle"}, this.xTitle));
    return parts;
  }

  // Bands below, means on top.
  layers() {
    const bands = ({x, low, high}) => [svg("path", {class: "band", d: this.area(x, low, high)})];
    const seeds = ({x, seeds}) => seeds.map((seed) => svg("path", {class: "seed", d: this.path(x, seed)}));
    const means = ({line, x, mean}) => [svg("path", {class: "mean", d: this.path(x, mean), "stroke-dasharray": line.dashes})];
    const layers = [...(view.band ? [bands] : []), ...(view.seeds ? [seeds] : []), means];
    return layers.flatMap((layer) => this.lines.map((each) => {
      const group = coloured(svg("g", {}, ...layer(each)), each.line);
      group.dataset.line = each.line.name;
      return group;
    }));
  }

  // Gaps stay gaps; a point on its own is a dot, the round cap of a line without length.
  path(x, y) {
    let path = "", pen = "M";
    y.forEach((value, k) => {
      if (value !== null) path += `${pen}${this.toX(x[k]).toFixed(1)},${this.toY(value).toFixed(1)}${pen === "M" ? "h0" : ""}`;
      pen = value === null ? "M" : "L";
    });
    return path;
  }

  area(x, low, high) {
    let path = "", there = [];
    const at = (k, values) => `${this.toX(x[k]).toFixed(1)},${this.toY(values[k]).toFixed(1)}`;
    for (let k = 0; k <= low.length; k++) {
      if (k < low.length && low[k] !== null && high[k] !== null) there.push(k);
      else if (there.length) {
        path += `M${[...there.map((i) => at(i, high)), ...there.reverse().map((i) => at(i, low))].join("L")}Z`;
        there = [];
      }
    }
    return path;
  }

  summary() {
    const ends = this.lines.map(({line, mean}) => `${line.name} ends at ${short(mean.findLast((y) => y !== null) ?? null)}`);
    return `${this.environment.name}, ${this.what.textContent} over ${this.xTitle}: ${ends.join("; ")}`;
  }

  // -- The cursor -----------------------------------------------------------------------------------------------------

  pointed(event) {
    if (!this.lines.length) return;
    const wanted = this.fromX(event.clientX - this.plot.getBoundingClientRect().left);
    const places = this.lines.map(({x}) => x[nearest(x, wanted)]);
    this.point(places[nearest(places, wanted)]);
  }

  key(event) {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (event.key === "Escape") this.point(null);
    if (!by || !this.lines.length) return;
    event.preventDefault();
    const places = [...new Set(this.lines.flatMap(({x}) => x))].sort((a, b) => a - b);
    const now = this.at === null ? (by > 0 ? -1 : places.length) : nearest(places, this.at);
    this.point(places[Math.max(0, Math.min(places.length - 1, now + by))]);
  }

  // Show all lines' values at `x`: those of their nearest points, unless they end before. null: no cursor.
  point(x) {
    this.at = x;
    this.tip.hidden = x === null;
    this.cursor?.replaceChildren();
    if (x === null) return;
    const shown = this.lines.filter((each) => x <= each.x.at(-1) && x >= each.x[0]).map((each) => ({...each, k: nearest(each.x, x)}));
    shown.sort((a, b) => b.mean[b.k] - a.mean[a.k]);
    const pixels = this.toX(x);
    this.cursor.append(svg("line", {class: "cursor", x1: pixels, x2: pixels, y1: MARGIN.top, y2: this.bottom}));
    for (const {line, x: places, mean, k} of shown) {
      if (mean[k] === null) continue;
      this.cursor.append(coloured(svg("g", {}, svg("circle", {class: "dot", cx: this.toX(places[k]), cy: this.toY(mean[k]), r: 4})), line));
    }
    const [unit, name] = timeUnit(this.xEnd);
    const place = view.x === "seconds" ? `${short(x / unit)} ${name}` : `${steps(x)} env steps`;
    this.tip.replaceChildren(element("strong", {}, place), element("table", {}, ...shown.map((each) => this.row(each))));
    const right = pixels > this.width / 2;
    this.tip.style.left = right ? "auto" : `${Math.min(pixels + 12, this.width - this.tip.offsetWidth)}px`;
    this.tip.style.right = right ? `${Math.min(this.width - pixels + 12, this.width - this.tip.offsetWidth)}px` : "auto";
  }

  row({line, mean, low, high, seeds, k}) {
    const cells = [element("th", {scope: "row"}, sample(line), " ", line.name), element("td", {class: "number"}, short(mean[k]))];
    if (view.band) cells.push(element("td", {class: "interval"}, low[k] === null ? "" : `[${short(low[k])}, ${short(high[k])}]`));
    const single = seeds.map((seed) => seed[k]);
    const told = single.length > 6 ? extent(single).map(short).join(" to ") : single.map(short).join(" ");
    if (view.seeds) cells.push(element("td", {class: "interval"}, told));
    return element("tr", {}, ...cells);
  }
}

// -- The page ---------------------------------------------------------------------------------------------------------

const charts = data.environments.map((environment, k) => new Chart(environment, k));

function drawAll() {
  for (const chart of charts) chart.draw();
}

function fillMeasures(select) {
  select.append(element("option", {value: ""}, "win rate, else return"));
  const groups = new Map();
  for (const {id, group, label} of data.measures) {
    if (!groups.has(group)) groups.set(group, element("optgroup", {label: group}));
    groups.get(group).append(element("option", {value: id}, label));
  }
  select.append(...groups.values());
}

function listen() {
  const measure = document.getElementById("measure");
  fillMeasures(measure);
  const change = (key, value) => { view[key] = value; drawAll(); };
  measure.addEventListener("change", () => change("measure", measure.value));
  for (const box of ["band", "seeds"]) {
    const input = document.getElementById(box);
    input.addEventListener("change", () => change(box, input.checked));
  }
  for (const input of document.querySelectorAll("input[name=x]")) {
    input.addEventListener("change", () => change("x", input.value));
  }
}

listen();
document.getElementById("charts").append(...charts.map((chart) => chart.figure));
document.querySelector(".controls").hidden = document.getElementById("curves-note").hidden = false;
document.querySelector(".controls").reset();
drawAll();
if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
  for (const details of document.querySelectorAll("details.moving")) details.open = false;
}
