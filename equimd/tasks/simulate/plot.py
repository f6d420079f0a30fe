"""The plot of a simulation: energies, temperature and sigma against time, with the threshold and the halts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.md.trajectory import Columns, read_columns
from equimd.plots import TRAIN, TRUE, VAL, save_figure

if TYPE_CHECKING:
    from equimd.guard.flags import SuspectFrame
    from equimd.guard.judge import Judge

BINS = 800  # points of a line: more than the plot has pixels for
ALARM, FLAG = "#c5221f", "#e8a600"


def simulation(paths: Mapping[int, Path], out: Path, *, judge: Judge, halts: Sequence[SuspectFrame] = ()) -> None:
    """Write the plot as PNG; nothing if there are no frames.

    Args:
        paths: trajectories by replica.
        judge: of the run: a panel for its score, if it has a threshold.
    """
    columns = {replica: read_columns(path) for replica, path in paths.items()}
    if not columns:
        return
    scored = judge.threshold is not None
    figure, axes = _panels(3 if scored else 2)
    single = len(columns) == 1
    alpha = 1.0 if single else max(0.3, 1.0 / len(columns) ** 0.5)
    look = {"color": VAL, "alpha": alpha, "linewidth": 1.0 if single else 0.8}
    for c in columns.values():
        for name, colour in (("potential_energy", VAL), ("conserved", TRUE)):
            values = c.observables[name]
            axes[0].plot(*c.thinned(values - values[0], BINS), **{**look, "color": colour})
        axes[1].plot(*c.thinned(c.observables["temperature"], BINS), **look)
        if scored:
            _score(axes[2], c, judge, look)
    axes[0].set(ylabel="energy from the start (eV)")
    for label, colour in (("potential", VAL), ("conserved quantity", TRUE)):
        axes[0].plot([], [], color=colour, label=label)
    axes[1].set(ylabel="temperature (K)")
    mean = float(np.concatenate([c.observables["temperature"] for c in columns.values()]).mean())
    axes[1].axhline(mean, color=TRAIN, linewidth=0.9, linestyle="--", label=f"mean {mean:.0f} K")
    _halts(axes, columns, halts, judge)
    if scored:
        _threshold(axes[2], judge, columns)
    axes[-1].set(xlabel="time (ps)")
    for ax in axes:
        ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    save_figure(figure, out)


def _panels(rows: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 1.2 + 2.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=True)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, which="major", color="#e3e5e8", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, axes


def _score(ax: Any, c: Columns, judge: Judge, look: Mapping[str, Any]) -> None:
    values = c.observables[judge.name.replace(" ", "_")]
    ax.plot(*c.thinned(values, BINS, "max"), **look)
    flagged = c.observables["flagged"] > 0
    if flagged.any():
        ax.plot(c.time[flagged] / 1000, values[flagged], ".", color=FLAG, markersize=3, zorder=3)


def _threshold(ax: Any, judge: Judge, columns: Mapping[int, Columns]) -> None:
    does = {"halt": "halts", "flag": "flags"}[judge.action]
    ax.axhline(judge.threshold, color=ALARM, linewidth=1.1, linestyle="--", label=f"{does} above {judge.threshold:.3g}")
    if judge.flag is not None:
        ax.axhline(judge.flag, color=FLAG, linewidth=1.1, linestyle="--", label=f"flags above {judge.flag:.3g}")
    n_flagged = sum(int((c.observables["flagged"] > 0).sum()) for c in columns.values())
    if n_flagged:
        ax.plot([], [], ".", color=FLAG, label=f"{n_flagged} saved frames flagged")
    ax.set(ylabel=f"{judge.name} ({judge.unit.replace('/A', '/Å')})", ylim=(0, None))


def _halts(axes: Any, columns: Mapping[int, Columns], halts: Sequence[SuspectFrame], judge: Judge) -> None:
    """A cross at each refused frame: at its score where it was the score, else at the last temperature."""
    early = sum(h.replica not in columns for h in halts)
    label: str | None = f"{len(halts)} halted" + (f", {early} before the first frame" if early else "")
    for h in halts:
        c = columns.get(h.replica)
        if c is None or len(c.time) < 2:
            continue
        time = h.step * (c.time[-1] - c.time[0]) / (1000 * (c.step[-1] - c.step[0]))
        scored = judge.threshold is not None and h.code == judge.name and np.isfinite(h.score)
        ax, y = (axes[2], h.score) if scored else (axes[1], c.observables["temperature"][-1])
        if scored:
            last = c.observables[judge.name.replace(" ", "_")][-1]
            ax.plot([c.time[-1] / 1000, time], [last, y], color=ALARM, linewidth=0.8)
        ax.plot(time, y, "x", color=ALARM, markersize=7, markeredgewidth=1.6, zorder=4, label=label)
        label = None
    if halts and label is not None:
        axes[1].plot([], [], "x", color=ALARM, label=label)
