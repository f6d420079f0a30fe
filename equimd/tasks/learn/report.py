"""What learn tells: its settings as YAML, a line and a row a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equimd.plots import TRAIN, VAL, new_figure, save_figure
from equimd.progress import duration
from equimd.tasks.learn.journal import Journal
from equimd.tasks.learn.settings import LearnSettings
from equimd.tasks.learn.work import label_counts


def settings_text(settings: LearnSettings | None = None) -> str:
    """The settings as YAML, each with its meaning beside it; without ``settings``, the template of defaults."""
    import yaml

    settings, lines = settings or LearnSettings(), []
    for key, field in LearnSettings.model_fields.items():
        value = yaml.safe_dump(getattr(settings, key), default_flow_style=True, width=1000).removesuffix("\n...\n")
        lines.append(f"{f'{key}: {value}'.strip():<40}  # {field.description}")
    return "\n".join(lines) + "\n"


def rows(journal: Journal) -> list[dict[str, Any]]:
    """One row a trained model: its labels, validation errors, coverage of the labels after it, halts."""
    found, results = [], journal.results
    number = 0
    while (trained := results.get(f"train-{number}")) is not None:
        calibrated = results.get(f"calibrate-{number}", {})
        covered = results.get(f"coverage-{number}", {})
        found.append(
            {
                "model": number,
                "train_labels": trained["frames"],
                "epochs": trained["epochs"],
                "training_seconds": trained["seconds"],
                "val_energy_mae_meV": _milli(trained.get("val_energy_mae")),
                "val_forces_mae_meV_per_A": _milli(trained.get("val_forces_mae")),
                "zms": calibrated.get("zms"),
                "expected_bad": journal.decision(f"next-{number}").get("expected_bad"),
                "coverage_90": covered.get("covered"),
                "halts": results.get(f"explored-{number}", {}).get("halts"),
            }
        )
        number += 1
    return found


def _milli(value: float | None) -> float | None:
    return None if value is None else 1e3 * value


HEAD = ("model", "train", "calibr", "audit", "failed", "val E", "val F", "covered", "bad exp.", "halted", "time")
WIDTHS = (5, 6, 7, 6, 7, 7, 7, 8, 9, 10, 7)
UNITS = (
    "labels by use; validation errors E in meV, F in meV/A; covered: new labels",
    "within their 90 % bounds, of the batch before; halted: runs, by temperature",
)


def table_head() -> list[str]:
    """What stands above the rows of :func:`table_row`."""
    return [*UNITS, "".join(f"{name:>{width}}" for name, width in zip(HEAD, WIDTHS, strict=True))]


def table_row(journal: Journal, number: int) -> str:
    """A model in a line: labels so far by use, errors, honest coverage of the labels that came before it, halts by
    temperature, time."""
    row, labels = rows(journal)[number], label_counts(journal)
    covered = journal.result(f"coverage-{number - 1}") or {}
    cells = [
        str(number),
        *(str(labels[use]) for use in ("train", "calibrate", "audit", "failed")),
        _cell(row["val_energy_mae_meV"]),
        _cell(row["val_forces_mae_meV_per_A"]),
        _percent(covered.get("covered")),
        _percent(row["expected_bad"]),
        "/".join(str(n) for n in (row["halts"] or {}).values()),
        duration(journal.seconds),
    ]
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def _cell(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3g} %"


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
