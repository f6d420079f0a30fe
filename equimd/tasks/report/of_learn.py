"""The part of a learn run: what it reached, its rounds and labels, and the run that it ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from equimd.config import ReadingSettings, read_config
from equimd.data.content import Hashes, content_hashes
from equimd.data.dataset import ArrayDataset
from equimd.data.given import open_given
from equimd.errors import EquimdError
from equimd.progress import duration
from equimd.run import Run
from equimd.tasks.learn.settings import LearnSettings
from equimd.tasks.learn.task import SETTINGS_FILE, Learned, standing
from equimd.tasks.learn.work import DATA_FOLDER
from equimd.tasks.report import layers
from equimd.tasks.report.of_run import ReportedRun, run_part
from equimd.tasks.report.page import Page, facts, figures, folded, paragraph, prose, table
from equimd.tasks.report.settings import ReportSettings

LABELS = {"label": "labels for training", "from": 0}


def learn_part(page: Page, folder: Path, settings: ReportSettings, told: Callable[[str], None]) -> str:
    """The sections of a learn run, and those of the run that it ships.

    Args:
        told: what is computed, before it is.

    Raises:
        RunError, ConfigError: its notes or its settings are damaged.
    """
    found = standing(folder)
    asked = LearnSettings.parse(read_config(folder / SETTINGS_FILE), where=str(folder / SETTINGS_FILE))
    made = page.section("What was reached", lambda: _reached(found, asked))
    made += page.section("Rounds", lambda: _rounds(page, found, asked.share))
    if found.run is None:
        why = "no model has been calibrated yet"
        return made + page.section("The run that is shipped", lambda: page.missing("The run that is shipped", why))
    made += f"<h3>The run that is shipped</h3>\n{paragraph('Its sections follow.')}"
    return made + run_part(page, shipped(found, found.run, asked, settings), told)


def shipped(found: Learned, folder: Path, asked: LearnSettings, settings: ReportSettings) -> ReportedRun:
    """The run, with labelled frames that its model was never trained on: those of audits, else of the calibration."""
    run = Run.open(folder)
    known = Hashes.joined(run.hashes(part) for part in ("train", "val"))
    for use in ("audit", "calibration"):
        files = sorted(str(path) for path in (found.folder / DATA_FOLDER).glob(f"{use}-*.h5"))
        try:
            frames = open_given(files, ReadingSettings()).frames() if files else None
        except EquimdError:
            continue  # damaged ones are no reason to show nothing of the run
        if frames is None:
            continue
        rows = np.flatnonzero(~content_hashes(frames).within(known))
        if len(rows):
            told = f"A frame of each run of the {use}, labelled by {asked.calculator} and never trained on."
            return ReportedRun(run, settings, ArrayDataset(frames.take(rows)), told)
    return ReportedRun(run, settings)


def _reached(found: Learned, asked: LearnSettings) -> str:
    go_on = f"equimd learn --resume {found.folder} --max-time TIME"
    if found.status == "certified":
        said = f'<p class="status">{prose(found.words)}</p>\n'
    else:
        said = f'<p class="warning status">No certificate: {prose("; ".join(found.missing))}.</p>\n'
        said += paragraph(f"With more time or labels: {go_on}")
    uses = [(use, n) for use, n in found.labels.items() if use != "total" and n]
    rows: list[tuple[str, object]] = [
        ("folder", found.folder),
        ("molecule", f"{asked.molecule}, labelled by {asked.calculator}"),
        ("claim", f"fewer than {100 * asked.share:g} % of frames with a force error above {asked.error:g} eV/Å, in "
                  f"runs of {asked.run_length:,} steps at {asked.temperature:g} K"),
        ("time", duration(found.seconds)),
    ]  # fmt: skip
    labels = table(["labels by use", "number"], [*uses, ("total", found.labels["total"])])
    settings = (found.folder / SETTINGS_FILE).read_text(encoding="utf-8")
    return said + facts(rows) + labels + folded("All settings (learn.yaml)", settings)


def _rounds(page: Page, found: Learned, share: float) -> str:
    if not found.rounds:
        return page.missing("Rounds", "no model has been trained on labels yet")
    temperatures = list(next((row["halts"] for row in found.rounds if row["halts"]), {}))
    head = ["model", "labels", "epochs", "training", "energy MAE (meV)", "force MAE (meV/Å)", "bad expected",
            "labels after it in 90\N{NO-BREAK SPACE}%",
            *("halted at " + t.replace(" ", "\N{NO-BREAK SPACE}") for t in temperatures)]  # fmt: skip
    lines = [
        [row["model"], row["train_labels"], row["epochs"], duration(row["training_seconds"]),
         _number(row["val_energy_mae_meV"]), _number(row["val_forces_mae_meV_per_A"]), _percent(row["expected_bad"]),
         _percent(row["coverage_90"]), *((row["halts"] or {}).get(t, "–") for t in temperatures)]
        for row in found.rounds
    ]  # fmt: skip
    told = "A row a model. Errors are of validation labels; bad frames are those that its calibrated sigmas expect."
    return paragraph(told) + table(head, lines) + figures(*_plots(page, found.rounds, share, temperatures))


def _plots(page: Page, rounds: list[dict[str, Any]], share: float, temperatures: list[str]) -> list[str]:
    labels = np.array([row["train_labels"] for row in rounds], float)
    panels: tuple[tuple[str, str, str, float, list[layers.Layer]], ...] = (
        ("val_forces_mae_meV_per_A", "Force error", "validation force MAE (meV/Å)", 1.0, []),
        ("expected_bad", "Bad frames expected", "share (%)", 100.0, [layers.level(100 * share, "red", "claim")]),
    )
    made = []
    for key, title, label, factor, more in panels:
        y = np.array([np.nan if row[key] is None else factor * row[key] for row in rounds])
        if np.isfinite(y).any():
            drawn = [layers.line(labels, y, "blue"), layers.points(labels, y, "blue"), *more]
            made.append(page.plot(title, LABELS, {"label": label, "from": 0}, drawn))
    colours = ("grey", "blue", "red", "violet", "green")
    halts = [
        layers.points(labels, [(row["halts"] or {}).get(t, np.nan) for row in rounds], colours[k % 5], t)
        for k, t in enumerate(temperatures)
    ]
    if halts:
        made.append(page.plot("Replicas halted in exploration", LABELS, {"label": "replicas", "from": 0}, halts))
    return made


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g} %"
