"""The plot of a learn run, drawn anew after each round: errors against labels, bad frames expected, halts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equimd.plots import TRAIN, VAL, new_figure, save_figure

PLOT_FILE = "learn.png"
ALARM = "#c0392b"


def draw(rounds: Sequence[dict[str, Any]], claimed_share: float, out: Path) -> Path:
    """Three panels over the labels trained on, of the rows of :func:`equimd.tasks.learn.report.rows`."""
    figure, axes = new_figure(12, 3.8, 3)
    labels = [row["train_labels"] for row in rounds]
    panels = (
        ("val_forces_mae_meV_per_A", "validation force MAE (meV/Å)", 1.0),
        ("expected_bad", "bad frames expected (%)", 100.0),
    )
    for ax, (key, title, factor) in zip(axes, panels, strict=False):
        known = [(n, factor * row[key]) for n, row in zip(labels, rounds, strict=True) if row[key] is not None]
        ax.plot(*zip(*known, strict=True) if known else ([], []), color=VAL, marker="o", markersize=4)
        ax.set(xlabel="labels for training", ylabel=title, ylim=(0, None))
    axes[1].axhline(100 * claimed_share, color=ALARM, linewidth=0.8)
    temperatures = list(next((row["halts"] for row in rounds if row["halts"]), {}))
    for k, name in enumerate(temperatures):
        halts = [(row["halts"] or {}).get(name, 0) for row in rounds]
        shade = [TRAIN, VAL, ALARM][min(k, 2)]
        axes[2].plot(labels, halts, color=shade, marker="o", markersize=4, label=name)
    axes[2].set(xlabel="labels for training", ylabel="replicas halted", ylim=(0, None))
    if temperatures:
        axes[2].legend(frameon=False)
    save_figure(figure, out)
    return out
