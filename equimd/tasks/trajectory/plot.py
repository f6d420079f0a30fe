"""The figure of an analysis: energy, temperature and sigma against time, bonds, torsions, h(r), vibrations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from equimd.plots import TRAIN, VAL, new_figure, save_figure
from equimd.tasks.trajectory.measure import Curve, Measured, Torsion
from equimd.tasks.trajectory.source import Source

POINTS = 800  # of a line
MOST_TORSIONS, MOST_NAMES = 4, 24
SEEN = 4500.0  # 1/cm
FLAG, ALARM = "#e8a600", "#c5221f"
TITLES = {
    "potential_energy": "energy from the start (eV)",
    "temperature": "temperature (K)",
    "force_sigma": "largest force sigma (eV/Å)",
}


def figure(source: Source, found: Measured, path: Path) -> None:
    """Write the figure as PNG: a panel for each quantity that is known."""
    panels: list[Callable[[Any], None]] = [
        partial(_against_time, source=source, found=found, name=name) for name in found.means
    ]
    if found.bonds:
        panels.append(partial(_bonds, found=found))
    panels += [partial(_torsion, torsion=each) for each in found.torsions[:MOST_TORSIONS]]
    if found.distances is not None:
        panels.append(partial(_distances, h=found.distances))
    if found.vibrations is not None:
        panels.append(partial(_vibrations, density=found.vibrations))
    rows = -(-len(panels) // 2)
    drawn, axes = new_figure(11.0, 3.1 * rows, 2, rows)
    for ax, panel in zip(axes, panels, strict=False):
        panel(ax)
    for ax in axes[len(panels) :]:
        ax.remove()
    save_figure(drawn, path)


def _against_time(ax: Any, source: Source, found: Measured, name: str) -> None:
    """All replicas, thin; the mean dashed. Frames are counted where times are not known."""
    many = len(source.runs)
    look = {"color": VAL, "linewidth": 0.9, "alpha": 1.0 if many == 1 else max(0.3, 1 / many**0.5)}
    shift = 0.0
    for run in source.runs.values():
        c, values = run.columns, run.columns.observables[name]
        shift = float(values[0]) if name == "potential_energy" else 0.0
        time, y = c.thinned(values - shift, POINTS, "max" if name == "force_sigma" else "mean")
        ax.plot(time if found.time_ps is not None else np.linspace(0, len(run) - 1, len(y)), y, **look)
    if name == "force_sigma":
        _sigma(ax, source, found)
    if name == "temperature":
        mean = found.means[name].mean
        ax.axhline(mean, color=TRAIN, linewidth=0.9, linestyle="--", label=f"mean {mean:.0f} K")
    ax.set(xlabel="frame" if found.time_ps is None else "time (ps)", ylabel=TITLES[name])
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8)


def _sigma(ax: Any, source: Source, found: Measured) -> None:
    """Flagged frames, and the threshold that the guard spoke at."""
    label = f"{len(found.flagged)} saved frames flagged"
    for run in source.runs.values() if found.flagged and found.time_ps is not None else []:
        c = run.columns
        rows = c.observables["flagged"] > 0
        ax.plot(c.time[rows] / 1000, c.observables["force_sigma"][rows], ".", color=FLAG, markersize=3, label=label)
        label = ""
    limits = [e["threshold"] for e in found.events if e.get("code") == "force sigma"]
    if limits:
        ax.axhline(limits[0], color=ALARM, linewidth=1.1, linestyle="--", label=f"threshold {limits[0]:.3g}")
    ax.set_ylim(0, None)


def _bonds(ax: Any, found: Measured) -> None:
    at = np.arange(len(found.bonds))
    ax.errorbar(at, [b.length.mean for b in found.bonds], [b.length.std for b in found.bonds], fmt="o", color=VAL,
                markersize=4, capsize=2, linewidth=1, label="mean and standard deviation")  # fmt: skip
    if len(at) <= MOST_NAMES:
        ax.set_xticks(at, [b.name for b in found.bonds], rotation=60, fontsize=8)
    ax.set(ylabel="bond length (Å)", xlabel="" if len(at) <= MOST_NAMES else "bond, as numbered in bonds.csv")
    ax.grid(visible=False, axis="x")
    ax.legend(frameon=False, fontsize=8)


def _torsion(ax: Any, torsion: Torsion) -> None:
    ax.fill_between(torsion.angle, 100 * torsion.share, color=VAL, alpha=0.25, linewidth=0)
    ax.plot(torsion.angle, 100 * torsion.share, color=VAL, linewidth=1)
    if torsion.share_model is not None:
        _band(ax, torsion.angle, 100 * torsion.share, 100 * torsion.share_model)
    top = 100 * float(torsion.share.max())
    for w in torsion.wells:
        place = min(max(w.centre, -165), 165)
        ax.text(place, 1.05 * top, f"{100 * w.population.mean:.0f} %", ha="center", fontsize=8)
        if len(torsion.wells) > 1:
            ax.axvline(w.high, color=TRAIN, linewidth=0.8, linestyle=":")
    ax.set(xlabel=f"torsion {torsion.name} (°)", ylabel="frames in 5° (%)", xlim=(-180, 180), ylim=(0, 1.15 * top))
    ax.set_xticks(range(-180, 181, 60))


def _distances(ax: Any, h: Curve) -> None:
    ax.plot(h.x, h.y, color=VAL, linewidth=1)
    if h.model is not None:
        _band(ax, h.x, h.y, h.model)
    ax.set(xlabel="distance of two atoms (Å)", ylabel="h(r) (1/Å)", ylim=(0, None))


def _band(ax: Any, x: np.ndarray, y: np.ndarray, model: np.ndarray) -> None:
    """What the error of the model makes of a curve, one standard deviation to both sides."""
    ax.fill_between(x, np.clip(y - model, 0, None), y + model, color=TRAIN, alpha=0.4, linewidth=0, label="± model")
    ax.legend(frameon=False, fontsize=8)


def _vibrations(ax: Any, density: Curve) -> None:
    seen = density.x <= SEEN
    ax.plot(density.x[seen], 1e3 * density.y[seen], color=VAL, linewidth=1)
    ax.set(
        xlabel="wavenumber (1/cm)", ylabel="density of states (10⁻³ cm)", ylim=(0, None), xlim=(0, density.x[seen][-1])
    )
