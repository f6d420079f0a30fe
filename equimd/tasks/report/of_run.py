"""The part of a training run: what it is, learning curves, parity, sigmas, thresholds, certificate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.calculators import LoadedModel
from equimd.chemistry import symbols
from equimd.data.dataset import Dataset, Subset
from equimd.data.given import open_given
from equimd.data.split import Split
from equimd.errors import DataError
from equimd.files import understood
from equimd.guard.certificate import CERTIFICATE_FILE, load_certificate, words
from equimd.machine import choose_device
from equimd.plots import read_metrics
from equimd.progress import duration
from equimd.run import CONFIG_FILE, Run
from equimd.shown import counted, digits
from equimd.tasks.evaluate.measure import Evaluation, measure
from equimd.tasks.report import layers
from equimd.tasks.report.of_calibration import calibration_sections
from equimd.tasks.report.page import Page, facts, figures, folded, paragraph, table
from equimd.tasks.report.settings import ReportSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from equimd.config import TrainConfig

PARTS = {"train": "for training", "val": "for validation", "test": "to test"}
METRICS_FILE, TEST_FILE, SPLIT_FILE = "metrics.csv", "test.json", "split.json"


@dataclass(frozen=True)
class ReportedRun:
    """A run whose part is made; what is needed twice is read once.

    Attributes:
        held_out: labelled frames that it was never trained on, where they are not those of its settings.
        told_of_them: what these are, in a sentence.
    """

    run: Run
    settings: ReportSettings
    held_out: Dataset | None = None
    told_of_them: str = ""

    @cached_property
    def info(self) -> dict[str, Any]:
        """run.json."""
        return self.run.info

    @cached_property
    def weights(self) -> tuple[Any, dict[str, Any]]:
        """The best model, and the metadata of its file."""
        return self.run.load_model()

    @cached_property
    def model(self) -> LoadedModel:
        """The model ready for use."""
        potential, meta = self.weights
        return LoadedModel(potential, device=choose_device(self.settings.device), run=self.run, sha256=meta["sha256"])

    @cached_property
    def test(self) -> dict[str, Any]:
        """Errors on the test frames: those of test.json, or measured on the frames that were held out."""
        if self.held_out is not None:
            return self.evaluation.summary()
        path = self.run.path / TEST_FILE
        if not path.is_file():
            raise DataError("the run has no test errors", where=str(self.run.path), hint=self.evaluate_line)
        with understood(path):
            return dict(json.loads(path.read_text(encoding="utf-8")))

    @cached_property
    def evaluation(self) -> Evaluation:
        """Predictions of the test frames, beside their labels."""
        return measure(self.model, self.test_frames())

    @property
    def evaluate_line(self) -> str:
        """The command that measures errors."""
        return f"equimd evaluate {self.run.path} --data FRAMES"

    def test_frames(self) -> Dataset:
        """The frames its errors were measured on, or some of them, taken evenly.

        Raises:
            DataError: there were none, or they are not where they were.
        """
        c = self.run.config.dataset
        if self.held_out is not None:
            data = self.held_out
        elif c.test_data:
            data = open_given(c.test_data, c.reading)
        else:
            rows = Split.load(self.run.path / SPLIT_FILE).test
            if not len(rows):
                raise DataError("the run has no test frames", where=str(self.run.path), hint=self.evaluate_line)
            data = open_given(c.data, c.reading)
            if int(rows.max()) >= len(data):
                raise DataError(f"test row {int(rows.max())} of {len(data)} frames", where=data.info.path)
            data = Subset(data, rows)
        most = self.settings.test_frames
        if len(data) > most:
            data = Subset(data, np.linspace(0, len(data) - 1, most).round().astype(np.int64))
        return data


def run_part(page: Page, r: ReportedRun, told: Callable[[str], None]) -> str:
    """The sections of a run.

    Args:
        told: the name of what is computed, before it is.

    Raises:
        RunError: run.json or config.yaml is damaged.
    """
    run = r.run
    _ = r.info, run.config
    made = page.section("The run", lambda: _about(r))
    made += page.section("Test errors", lambda: _told_of(r) + errors_table([(run.path.name, r.test)]))
    made += page.section("Learning curves", lambda: _curves(page, run.path / METRICS_FILE))
    if r.settings.test_frames:
        told(f"parity of {run.path}")
        made += page.section("Parity on test frames", lambda: _parity(page, r))
    made += calibration_sections(page, run.path, lambda: str(r.weights[1]["sha256"]))
    return made + page.section("Certificate", lambda: certificate_text(page, r))


def _told_of(r: ReportedRun) -> str:
    return paragraph(r.told_of_them) if r.told_of_them else ""


def _about(r: ReportedRun) -> str:
    info, config = r.info, r.run.config
    data, t = info.get("data", {}), config.training
    parts = ", ".join(f"{n:,} {PARTS.get(part, part)}" for part, n in data.get("frames", {}).items() if n)
    files = dict.fromkeys(name for names in data.get("files", {}).values() for name in names)
    rows: list[tuple[str, object]] = [("folder", r.run.path), ("status", _status(info))]
    potential = r.weights[0]
    kind = "conservative" if potential.conservative else "direct"
    rows += [
        ("forces", f"{kind}" if potential.has_forces else "none (energies alone)"),
        ("model", f"{potential.description}, cutoff {potential.cutoff:g} Å, {config.model.dtype}"),
        ("elements", symbols(potential.elements)),
        ("frames", f"{parts}; {data.get('units', 'units not stated')}"),
        ("data", ", ".join(files)),
        ("training", f"batches of {_batches(t)}, learning rate {t.lr:g} ({t.lr_schedule}), loss {t.loss} with "
                     f"weights {t.energy_weight:g} energy, {t.forces_weight:g} forces, seed {t.seed}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in info.get("versions", {}).items())),
    ]  # fmt: skip
    text = (r.run.path / CONFIG_FILE).read_text(encoding="utf-8")
    return facts(rows) + folded("All settings (config.yaml)", text)


def _batches(t: TrainConfig) -> str:
    return f"up to {t.max_atoms_per_batch:,} atoms" if t.max_atoms_per_batch else str(t.batch_size_train)


def _status(info: Mapping[str, Any]) -> str:
    found = str(info.get("status", "unknown"))
    if "epochs" in info:
        took = duration(info["training_seconds"])
        found += f": {counted(info['epochs'], 'epoch')}, {info['steps']:,} steps, {took}; "
        found += f"best validation in epoch {info['best_epoch']}"
    return found


def errors_table(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Errors of one run, or of several side by side."""
    lines = [
        ("frames", "n_frames"), ("energy MAE (meV)", "energy_mae_meV"), ("energy RMSE (meV)", "energy_rmse_meV"),
        ("energy MAE (meV/atom)", "energy_mae_meV_per_atom"), ("force MAE (meV/Å)", "forces_mae_meV_per_A"),
        ("force RMSE (meV/Å)", "forces_rmse_meV_per_A"),
    ]  # fmt: skip
    rows = [[title, *(_number(test[key]) for _, test in runs)] for title, key in lines]
    elements = dict.fromkeys(symbol for _, test in runs for symbol in test["per_element"])
    for symbol in elements:
        of = [test["per_element"].get(symbol, {}).get("forces_mae_meV_per_A") for _, test in runs]
        rows.append([f"force MAE on {symbol} (meV/Å)", *map(_number, of)])
    return table(["", *(name for name, _ in runs)], rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else digits(value, 4)


def _curves(page: Page, path: Path) -> str:
    columns = read_metrics(path)
    if not columns:
        raise DataError("no epoch has ended yet", where=str(path))
    panels = (
        ("energy_mae_meV", "Energy error", "energy MAE (meV)"),
        ("forces_mae_meV_per_A", "Force error", "force MAE (meV/Å)"),
    )
    found = []
    for key, title, label in panels:
        drawn = []
        for part, colour, name in (
            ("train", "grey", "training, running"),
            ("val", "blue", "validation, averaged weights"),
        ):
            known = np.isfinite(y := columns[f"{part}_{key}"])
            if known.any():
                drawn.append(layers.line(columns["epoch"][known], y[known], colour, name))
                if known.sum() < 30:
                    drawn.append(layers.points(columns["epoch"][known], y[known], colour))
        if drawn:
            found.append(page.plot(title, {"label": "epoch"}, {"label": label, "log": True}, drawn))
    rate = [layers.line(columns["epoch"], columns["lr"], "green")]
    found.append(page.plot("Learning rate", {"label": "epoch"}, {"label": "learning rate", "from": 0}, rate))
    return figures(*found)


def _parity(page: Page, r: ReportedRun) -> str:
    found = r.evaluation
    return paragraph(f"{len(found.energy):,} test frames, predicted for this page.") + parity_figures(page, found)


def parity_figures(page: Page, found: Evaluation) -> str:
    """Energies, and the force components of each element in a plot of its own, so that none hides another."""
    from ase.data import chemical_symbols

    made = []
    energy = np.isfinite(found.energy_true) & np.isfinite(found.energy)
    if energy.any():
        shift = float(found.energy_true[energy].mean())
        x, y = found.energy_true[energy] - shift, found.energy[energy] - shift
        axes = [{"label": f"{what} energy, from {shift:.3f} eV (eV)"} for what in ("true", "predicted")]
        made.append(_pair(page, "Energies", axes, x, y, "blue", "meV"))
    forces = np.isfinite(found.forces_true).all(1) & np.isfinite(found.forces).all(1)
    colours = ("blue", "red", "green", "amber", "violet")
    for k, z in enumerate(np.unique(found.numbers[forces])):
        part = forces & (found.numbers == z)
        x, y = found.forces_true[part].ravel(), found.forces[part].ravel()
        axes = [{"label": f"{what} force component (eV/Å)"} for what in ("true", "predicted")]
        made.append(_pair(page, f"Forces on {chemical_symbols[z]}", axes, x, y, colours[k % len(colours)], "meV/Å"))
    return figures(*made)


def _pair(page: Page, name: str, axes: list[dict[str, str]], x: Any, y: Any, colour: str, unit: str) -> str:
    drawn = layers.scatter(x, y, colour)
    how = "density, darker where there are more" if drawn["kind"] == "density" else "points"
    mae, rmse = 1e3 * float(np.abs(y - x).mean()), 1e3 * float(np.sqrt(np.square(y - x).mean()))
    note = f"{len(x):,} values ({how}); MAE {mae:.3g}, RMSE {rmse:.3g} {unit}"
    return page.plot(name, axes[0], axes[1], [drawn, layers.diagonal()], square=True, note=note)


def certificate_text(page: Page, r: ReportedRun) -> str:
    """What the certificate of a run says, or that there is none."""
    found = load_certificate(r.run.path, r.weights[1]["sha256"])
    if found is not None:
        return paragraph(words(found))
    if (r.run.path / CERTIFICATE_FILE).is_file():
        return page.missing("Certificate", "it is of other weights than the model has now")
    return page.missing("Certificate", f"there is none; equimd audit {r.run.path} --starts FILE earns one")
