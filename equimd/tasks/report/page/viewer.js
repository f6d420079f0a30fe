"use strict";
/* The molecule in 3D: frames of the replicas, coloured by the force sigma of each atom, and controls to play them. */

function decoded(text, Type) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let k = 0; k < raw.length; k++) bytes[k] = raw.charCodeAt(k);
  return new Type(bytes.buffer);
}

const RAMP = [[0, 70, 130, 200], [0.5, 235, 225, 190], [1, 250, 165, 40], [2, 200, 20, 30]]; // shares of the threshold

function ramp(share) {
  const s = Math.min(Math.max(share, 0), 2);
  let k = 1;
  while (s > RAMP[k][0]) k++;
  const [a, b] = [RAMP[k - 1], RAMP[k]], w = (s - a[0]) / (b[0] - a[0]);
  return "rgb(" + [1, 2, 3].map((i) => Math.round(a[i] + w * (b[i] - a[i]))).join(",") + ")";
}

class View {
  constructor(box, spec) {
    this.box = box; this.spec = spec; this.replica = spec.replicas[0].replica; this.frame = 0; this.timer = null;
    this.stage = box.querySelector(".stage");
    this.slider = box.querySelector("input");
    this.play = box.querySelector(".play");
    this.where = box.querySelector(".where");
    this.colour = box.querySelector(".colour");
    this.onframe = () => {};
    this.play.addEventListener("click", () => this.toggle());
    this.slider.addEventListener("input", () => { this.stop(); this.show(Number(this.slider.value)); });
    box.querySelector(".back").addEventListener("click", () => { this.stop(); this.show(this.frame - 1); });
    box.querySelector(".next").addEventListener("click", () => { this.stop(); this.show(this.frame + 1); });
    this.colour.addEventListener("change", () => this.show(this.frame));
    this.scale();
    this.choose(this.replica);
    new IntersectionObserver((seen, watch) => {
      if (seen.some((s) => s.isIntersecting)) { watch.disconnect(); if (!this.viewer) this.make(); }
    }, { rootMargin: "200px" }).observe(this.stage);
  }

  frames() { return this.spec.replicas.find((r) => r.replica === this.replica); }

  choose(replica) {
    this.replica = replica;
    const f = this.frames();
    f.xyz = f.xyz || decoded(f.positions, Int16Array);
    f.values = f.values || (f.sigmas ? decoded(f.sigmas, Uint16Array) : null);
    this.slider.max = f.step.length - 1;
    this.show(0);
  }

  make() {
    try {
      this.viewer = $3Dmol.createViewer(this.stage, { backgroundColor: colours.of("card"), antialias: true });
    } catch (error) { this.viewer = null; }
    if (!this.viewer) {
      this.stage.textContent = "This browser has no WebGL, which the 3D view needs.";
      return;
    }
    const s = this.spec;
    this.model = this.viewer.addModel();
    this.model.addAtoms(s.elements.map((elem, k) => (
      { elem, x: 0, y: 0, z: 0, index: k, serial: k, bonds: s.bonds[k], bondOrder: s.bonds[k].map(() => 1) })));
    this.atoms = this.model.selectedAtoms({});
    for (const [a, b] of s.edges || []) {
      const point = ([x, y, z]) => ({ x, y, z });
      this.viewer.addLine({ start: point(a), end: point(b), color: colours.of("grey") });
    }
    this.stage.querySelector("canvas").setAttribute("aria-hidden", "true");
    this.show(this.frame);
    this.viewer.zoomTo();
    this.viewer.zoom(1.6);
    this.viewer.render();
  }

  scale() {
    const bar = this.box.querySelector(".scale canvas");
    if (!bar) return;
    const c = bar.getContext("2d");
    for (let k = 0; k < bar.width; k++) { c.fillStyle = ramp(2 * k / bar.width); c.fillRect(k, 0, 1, bar.height); }
  }

  tint(k) {
    const f = this.frames(), value = f.values ? f.values[this.frame * this.spec.elements.length + k] : 65535;
    if (this.colour.value !== "sigma") return undefined;
    return value === 65535 ? colours.of("grey") : ramp(value / 1000 / this.spec.full);
  }

  show(frame) {
    const f = this.frames(), n = this.spec.elements.length, last = f.step.length - 1;
    this.frame = frame < 0 ? last : frame > last ? 0 : frame;
    this.slider.value = this.frame;
    const k = this.frame, told = [`frame ${k + 1} of ${last + 1}`, `step ${f.step[k]}`, `${shown(f.time[k])} ps`];
    if (f.temperature[k] !== null) told.push(`${Math.round(f.temperature[k])} K`);
    if (f.sigma[k] !== null) told.push(`force sigma ${shown(f.sigma[k])} eV/Å`);
    if (f.mark[k]) told.push(f.mark[k]);
    this.where.textContent = told.join(" · ");
    this.slider.setAttribute("aria-valuetext", told.join(", "));
    if (this.model) {
      this.atoms.forEach((atom, i) => {
        for (const [axis, name] of ["x", "y", "z"].entries()) atom[name] = f.xyz[3 * (k * n + i) + axis] * f.unit;
      });
      const colour = this.colour.value === "sigma" ? { colorfunc: (atom) => this.tint(atom.index) } : { colorscheme: "Jmol" };
      this.model.setStyle({}, { stick: { radius: 0.12, ...colour }, sphere: { scale: 0.27, ...colour } });
      this.viewer.render();
    }
    this.onframe(f.time[k]);
  }

  toggle() { if (this.timer) this.stop(); else this.start(); }

  start() {
    this.play.textContent = "Pause";
    this.timer = setInterval(() => this.show(this.frame + 1), 80);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.textContent = "Play";
  }

  pick(time, apart) { // the flagged frame that was clicked at, else the nearest in time
    const f = this.frames(), near = (of) => of.reduce((a, b) => (Math.abs(f.time[b] - time) < Math.abs(f.time[a] - time) ? b : a));
    const all = [...f.time.keys()], marked = all.filter((k) => f.mark[k] && apart(f.time[k]) < 12);
    this.stop();
    this.show(near(marked.length ? marked : all));
  }

  recolour() {
    if (!this.viewer) return;
    this.viewer.setBackgroundColor(colours.of("card"));
    this.show(this.frame);
  }
}
