"use strict";
/* Plots: uPlot makes axes, zoom and cursors; the layers of a plot are drawn here, so that points, densities, bars of
   error and marks can be of any x. */

const colours = { of: (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim() };

function extent(layers, axis) {
  let low = Infinity, high = -Infinity;
  const take = (v) => { if (v !== null && Number.isFinite(v)) { low = Math.min(low, v); high = Math.max(high, v); } };
  for (const l of layers) {
    if (l.kind === "density") { take(l.low); take(l.low + l.n * l.step); }
    if (l[axis]) l[axis].forEach(take);
    if (axis === "y" && l.low && l.high) { l.low.forEach(take); l.high.forEach(take); }
    if (l.kind === (axis === "y" ? "level" : "upright")) take(l.at);
  }
  return low <= high ? [low, high] : [0, 1];
}

function padded([low, high], axis) {
  if (axis.log) return [Math.max(low, 1e-12) / 1.15, high * 1.15];
  if (axis.from !== undefined) low = Math.min(axis.from, low);
  if (axis.to !== undefined) high = Math.max(axis.to, high);
  const more = 0.04 * (high - low || Math.abs(high) || 1);
  return [low === axis.from ? low : low - more, high === axis.to ? high + more / 2 : high + more];
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

class Plot {
  constructor(box, spec) {
    this.box = box; this.spec = spec; this.replica = null; this.now = null;
    this.legend = box.parentElement.querySelector(".legend");
    this.here = document.createElement("span");
    this.here.className = "here";
    this.ranges = { x: padded(extent(spec.layers, "x"), spec.x), y: padded(extent(spec.layers, "y"), spec.y) };
    if (spec.square) {
      const low = Math.min(this.ranges.x[0], this.ranges.y[0]), high = Math.max(this.ranges.x[1], this.ranges.y[1]);
      this.ranges = { x: [low, high], y: [low, high] };
    }
    this.make();
  }

  size() {
    const width = Math.max(240, Math.floor(this.box.clientWidth));
    if (this.spec.square) return { width, height: Math.min(width, 440) };
    return { width, height: this.spec.group ? 210 : Math.min(300, Math.round(0.72 * width)) };
  }

  axis(side) {
    const about = this.spec[side], font = "12px system-ui, sans-serif";
    const made = {
      label: about.label, labelFont: font, font, stroke: () => colours.of("soft"),
      labelSize: 22, size: side === "y" ? 56 : 34, gap: 4,
      grid: { stroke: () => colours.of("grid"), width: 1 }, ticks: { stroke: () => colours.of("grid"), size: 4 },
      values: (_, ticks) => ticks.map((v) => (v === null ? null : shown(v))),
    };
    if (about.log) {
      const digit = (v) => Math.round(v / 10 ** Math.floor(Math.log10(v) + 1e-9));
      made.splits = (u) => {
        const { min, max } = u.scales[side], found = [];
        for (let power = 10 ** Math.floor(Math.log10(min)); power <= max; power *= 10) {
          for (let k = 1; k < 10; k++) if (k * power >= min && k * power <= max) found.push(k * power);
        }
        return found;
      };
      made.filter = (_, ticks) => ticks;
      made.values = (u, ticks) => {
        const wide = u.scales[side].max / u.scales[side].min;
        const named = wide > 300 ? [1] : wide > 6 ? [1, 2, 5] : [1, 2, 3, 4, 5, 6, 7, 8, 9];
        return ticks.map((v) => (named.includes(digit(v)) ? shown(v) : ""));
      };
    }
    return made;
  }

  make() {
    const spec = this.spec, [x, y] = [this.ranges.x, this.ranges.y];
    const scale = (axis) => ({ time: false, distr: axis.log ? 3 : 1, range: (_, low, high) => [low, high] });
    const options = {
      ...this.size(), padding: [10, 14, 0, 0], legend: { show: false },
      scales: { x: scale(spec.x), y: scale(spec.y) },
      series: [{}, { stroke: "transparent", points: { show: false } }],
      axes: [this.axis("x"), this.axis("y")],
      cursor: {
        drag: { x: true, y: true, uni: 24, dist: 6 }, points: { show: false },
        sync: spec.group ? { key: spec.group, scales: ["x", null] } : undefined,
      },
      hooks: { draw: [(u) => this.paint(u)], setCursor: [(u) => this.tell(u)] },
    };
    this.u = new uPlot(options, [x, y], this.box);
    if (spec.view) this.clicks();
    this.explain();
  }

  resize() { this.u.setSize(this.size()); }

  redraw() { this.u.redraw(false, true); this.explain(); }

  visible(layer) { return layer.replica === undefined || this.replica === null || layer.replica === this.replica; }

  explain() {
    const names = new Map();
    for (const l of this.spec.layers) if (l.name && this.visible(l)) names.set(l.name, l);
    this.legend.replaceChildren(...[...names].map(([name, l]) => {
      const entry = document.createElement("span");
      entry.textContent = name;
      entry.className = l.kind === "points" || l.kind === "density" ? (l.mark || "dot") : l.dash ? "dash" : "line";
      entry.style.setProperty("--mark", colours.of(l.colour));
      return entry;
    }), this.here);
  }

  paint(u) {
    const c = u.ctx, ratio = devicePixelRatio || 1;
    c.save();
    c.beginPath();
    c.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    c.clip();
    const order = [...this.spec.layers].sort((a, b) => this.visible(a) - this.visible(b));
    for (const l of order) {
      c.globalAlpha = this.visible(l) ? 1 : 0.13;
      c.strokeStyle = c.fillStyle = colours.of(l.colour);
      c.lineWidth = (l.dash || l.kind === "diagonal" ? 1.2 : 1.6) * ratio;
      c.setLineDash(l.dash ? [6 * ratio, 4 * ratio] : []);
      this["draw_" + l.kind](u, c, l, ratio);
    }
    if (this.now !== null) {
      c.globalAlpha = 0.8; c.setLineDash([]); c.lineWidth = 1.5 * ratio; c.strokeStyle = colours.of("ink");
      this.draw_upright(u, c, { at: this.now });
    }
    c.restore();
  }

  path(u, c, x, y) {
    let pen = false;
    c.beginPath();
    for (let k = 0; k < x.length; k++) {
      if (x[k] === null || y[k] === null) { pen = false; continue; }
      c[pen ? "lineTo" : "moveTo"](u.valToPos(x[k], "x", true), u.valToPos(y[k], "y", true));
      pen = true;
    }
    c.stroke();
  }

  draw_line(u, c, l) { this.path(u, c, l.x, l.y); }
  draw_level(u, c, l) { this.path(u, c, [u.scales.x.min, u.scales.x.max], [l.at, l.at]); }
  draw_upright(u, c, l) { this.path(u, c, [l.at, l.at], [u.scales.y.min, u.scales.y.max]); }

  draw_diagonal(u, c) {
    const low = Math.max(u.scales.x.min, u.scales.y.min), high = Math.min(u.scales.x.max, u.scales.y.max);
    this.path(u, c, [low, high], [low, high]);
  }

  draw_points(u, c, l, ratio) {
    const many = l.x.length > 300, size = (l.mark === "cross" ? 5 : l.x.length < 60 ? 3.2 : 2) * ratio;
    if (many) c.globalAlpha *= 0.55;
    for (let k = 0; k < l.x.length; k++) {
      if (l.x[k] === null || l.y[k] === null) continue;
      const x = u.valToPos(l.x[k], "x", true), y = u.valToPos(l.y[k], "y", true);
      c.beginPath();
      if (l.mark === "cross") {
        c.lineWidth = 2 * ratio;
        c.moveTo(x - size, y - size); c.lineTo(x + size, y + size);
        c.moveTo(x - size, y + size); c.lineTo(x + size, y - size);
        c.stroke();
      } else { c.arc(x, y, size, 0, 2 * Math.PI); c.fill(); }
      if (l.low) { c.lineWidth = 1.2 * ratio; this.path(u, c, [l.x[k], l.x[k]], [l.low[k], l.high[k]]); }
    }
  }

  draw_density(u, c, l) {
    const top = Math.log1p(Math.max(...l.counts));
    l.cells.forEach((cell, k) => {
      const x = l.low + Math.floor(cell / l.n) * l.step, y = l.low + (cell % l.n) * l.step;
      const left = u.valToPos(x, "x", true), bottom = u.valToPos(y, "y", true);
      c.globalAlpha = 0.3 + 0.7 * Math.log1p(l.counts[k]) / top;
      const width = u.valToPos(x + l.step, "x", true) - left, height = bottom - u.valToPos(y + l.step, "y", true);
      c.fillRect(left, bottom - height, Math.max(width, 1) + 0.5, Math.max(height, 1) + 0.5);
    });
  }

  tell(u) {
    if (u.cursor.left === undefined || u.cursor.left < 0) { this.here.textContent = ""; return; }
    const x = u.posToVal(u.cursor.left, "x"), found = [`${shown(x)}`];
    for (const l of this.spec.layers) {
      if (l.kind !== "line" || !l.x.length || !this.visible(l)) continue;
      let near = 0;
      l.x.forEach((v, k) => { if (Math.abs(v - x) < Math.abs(l.x[near] - x)) near = k; });
      found.push(`${l.name ? l.name + " " : ""}${shown(l.y[near])}`);
      if (found.length > 3) break;
    }
    if (found.length === 1) found.push(shown(u.posToVal(u.cursor.top, "y")));
    this.here.textContent = found.join(" · ");
  }

  clicks() {
    let from = null;
    this.u.over.style.cursor = "pointer";
    this.u.over.addEventListener("mousedown", (e) => { from = [e.clientX, e.clientY]; });
    this.u.over.addEventListener("click", (e) => {
      if (from && Math.hypot(e.clientX - from[0], e.clientY - from[1]) > 5) return; // the end of a drag
      const box = this.u.over.getBoundingClientRect();
      this.onpick(this.u.posToVal(e.clientX - box.left, "x"), (t) => Math.abs(this.u.valToPos(t, "x") - (e.clientX - box.left)));
    });
  }
}
