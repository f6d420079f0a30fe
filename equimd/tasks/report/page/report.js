"use strict";
/* The page: plots and views in their places, replicas to choose, frames to jump to, light and dark, print. */

(() => {
  const root = document.documentElement, data = JSON.parse(document.getElementById("data").textContent);
  const plots = new Map(), views = new Map(), prefers = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");

  function theme(name) {
    root.dataset.theme = name;
    button.textContent = name === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use ${button.textContent.toLowerCase()} colours`);
    plots.forEach((p) => p.redraw());
    views.forEach((v) => v.recolour());
  }

  theme(prefers.matches ? "dark" : "light");
  button.addEventListener("click", () => theme(root.dataset.theme === "dark" ? "light" : "dark"));
  prefers.addEventListener("change", () => theme(prefers.matches ? "dark" : "light"));
  document.getElementById("print").addEventListener("click", () => print());

  for (const [id, spec] of Object.entries(data)) {
    const box = document.getElementById(id);
    if (spec.layers) plots.set(id, new Plot(box, spec));
    else views.set(id, new View(box, spec));
  }

  const seen = (id) => [...plots.values()].filter((p) => p.spec.view === id);
  views.forEach((view, id) => {
    view.onframe = (time) => seen(id).forEach((p) => { p.now = time; p.u.redraw(false, false); });
    seen(id).forEach((p) => { p.onpick = (time, apart) => view.pick(time, apart); });
  });

  function choose(select) {
    const replica = Number(select.value), id = select.dataset.view;
    if (views.has(id)) views.get(id).choose(replica);
    plots.forEach((p) => { if (p.spec.replicas === id) { p.replica = replica; p.redraw(); } });
  }

  document.querySelectorAll("select.replica").forEach((select) => {
    select.addEventListener("change", () => choose(select));
    choose(select);
  });

  document.querySelectorAll(".events button").forEach((b) => b.addEventListener("click", () => {
    const id = b.closest(".events").dataset.view, view = views.get(id), replica = Number(b.dataset.replica);
    const select = document.querySelector(`select.replica[data-view="${id}"]`);
    if (select && Number(select.value) !== replica) { select.value = replica; choose(select); }
    view.stop();
    view.show(Number(b.dataset.frame));
    view.box.scrollIntoView({ block: "nearest" });
  }));

  let waiting = null;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => plots.forEach((p) => p.resize()), 80);
  });
  let before = null;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    views.forEach((v) => { if (!v.viewer) v.make(); }); // those that nobody scrolled to
    theme("light");
    plots.forEach((p) => p.resize());
  });
  addEventListener("afterprint", () => { theme(before); plots.forEach((p) => p.resize()); });

  window.equimdReport = { plots, views };
})();
