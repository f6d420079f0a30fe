"""How good a model is on frames with known energies and forces: overall, per element, and where it is worst."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.calculators import LoadedModel, Prediction
from equimd.data.content import Hashes, content_hashes
from equimd.data.dataset import Dataset, Subset
from equimd.errors import DataError
from equimd.files import write_json
from equimd.guard.sigmas import DataSigmas
from equimd.guard.sigmas import summary as sigma_summary
from equimd.model.interface import check_data
from equimd.run import Run
from equimd.shown import Shown, digits
from equimd.tables import Table
from equimd.tasks.evaluate.settings import UNCERTAINTY_FRAMES
from equimd.units import KCAL_PER_MOL

if TYPE_CHECKING:
    from pathlib import Path

    from equimd.guard.calibration import Calibration
    from equimd.uq.predict import Predictions

WORST = 5
BLOCK = 500


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """True and predicted values of N frames with M atoms in all; eV, eV/Angstrom, NaN where there is no label.

    Attributes:
        energy_true, energy: (N,).
        forces_true, forces: (M, 3).
        numbers, frame: (M,) atomic number, and row of the frame, of each atom.
        n_atoms: (N,).
        known: how many of the frames the model was trained on or selected by.
    """

    energy_true: np.ndarray
    energy: np.ndarray
    forces_true: np.ndarray
    forces: np.ndarray
    numbers: np.ndarray
    frame: np.ndarray
    n_atoms: np.ndarray
    known: int = 0

    def summary(self) -> dict[str, Any]:
        """Errors of energies (meV a structure) and force components (meV/Angstrom), per element, and worst frames."""
        e = self.energy - self.energy_true
        f = self.forces - self.forces_true
        e_mae, e_mse = _mean(np.abs(e)), _mean(e**2)
        f_mae, f_mse = _mean(np.abs(f)), _mean(f**2)
        return {
            "n_frames": len(e),
            "energy_mae_meV": _scaled(e_mae, 1e3),
            "energy_rmse_meV": _scaled(_root(e_mse), 1e3),
            "energy_mse_meV2": _scaled(e_mse, 1e6),
            "energy_mae_meV_per_atom": _scaled(_mean(np.abs(e) / self.n_atoms), 1e3),
            "forces_mae_meV_per_A": _scaled(f_mae, 1e3),
            "forces_rmse_meV_per_A": _scaled(_root(f_mse), 1e3),
            "forces_mse": _scaled(f_mse, 1e6),
            "forces_mse_meV2_per_A2": _scaled(f_mse, 1e6),
            "per_element": self._per_element(f),
            "worst_frames": self._worst(e, f),
            "n_known_frames": self.known,
        }

    def _per_element(self, wrong: np.ndarray) -> dict[str, dict[str, Any]]:
        from ase.data import chemical_symbols

        out = {}
        for z in np.unique(self.numbers):
            part = wrong[self.numbers == z]
            out[chemical_symbols[z]] = {
                "n_atoms": len(part),
                "forces_mae_meV_per_A": _scaled(_mean(np.abs(part)), 1e3),
                "forces_rmse_meV_per_A": _scaled(_root(_mean(part**2)), 1e3),
                "forces_mse_meV2_per_A2": _scaled(_mean(part**2), 1e6),
            }
        return out

    def _worst(self, e: np.ndarray, f: np.ndarray) -> list[dict[str, Any]]:
        """The frames with the largest force error on an atom; without forces, the largest energy error."""
        largest = np.full(len(e), -np.inf)
        np.maximum.at(largest, self.frame, np.nan_to_num(np.linalg.norm(f, axis=1), nan=-np.inf))
        has_forces = bool(np.isfinite(largest).any())
        score = largest if has_forces else np.nan_to_num(np.abs(e), nan=-np.inf)
        order = [int(k) for k in np.argsort(-score, kind="stable")[:WORST] if np.isfinite(score[k])]
        return [
            {
                "frame": k,
                "energy_error_meV": _scaled(float(e[k]), 1e3),
                "max_force_error_meV_per_A": _scaled(float(largest[k]), 1e3) if has_forces else None,
            }
            for k in order
        ]


def _mean(x: np.ndarray) -> float:
    found = x[np.isfinite(x)]
    return float(found.mean()) if found.size else math.nan


def _root(x: float) -> float:
    return math.sqrt(x) if x >= 0 else math.nan


def _scaled(x: float, factor: float) -> float | None:
    return x * factor if math.isfinite(x) else None


def measure(
    model: LoadedModel,
    data: Dataset,
    *,
    batch_size: int = 50,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Predict every frame of ``data`` and set it beside its labels.

    Args:
        progress: told the frames done and their number, now and then.

    Raises:
        DataError: no frames, or none with an energy or forces.
        ModelError: elements the model never saw.
    """
    if not len(data):
        raise DataError("no frames to evaluate on", where=data.info.path)
    check_data(model.potential, data)
    parts: list[tuple[np.ndarray, ...]] = []
    hashes = []
    for start in range(0, len(data), BLOCK):
        block = data.frames(np.arange(start, min(start + BLOCK, len(data))))
        energy, forces = model.predict_frames(block, batch_size=batch_size)
        real = block.numbers > 0
        predicted = np.full((int(real.sum()), 3), np.nan) if forces is None else forces[real]
        frame = np.repeat(np.arange(start, start + len(block)), block.n_atoms)
        parts.append((block.energy, energy, block.forces[real], predicted, block.numbers[real], frame, block.n_atoms))
        hashes.append(content_hashes(block))
        if progress:
            progress(start + len(block), len(data))
    columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    used = [model.run.hashes(part) for part in ("train", "val")] if model.run else []
    known = Hashes.joined(hashes).within(Hashes.joined(used))
    found = Evaluation(*columns, known=int(known.sum()))  # type: ignore[misc]
    if not (np.isfinite(found.energy_true).any() or np.isfinite(found.forces_true).any()):
        raise DataError("no frame has an energy or forces to compare with", where=data.info.path)
    return found


@dataclass(frozen=True, repr=False)
class Uncertainties(Shown):
    """Calibrated uncertainties of some frames of a data set, beside their errors.

    Attributes:
        rows: which frames, in order.
        predictions: their errors and raw uncertainties.
        sigmas: the calibrated ones.
    """

    rows: np.ndarray
    predictions: Predictions
    calibration: Calibration
    sigmas: DataSigmas

    def summary(self) -> dict[str, Any]:
        """Of :func:`equimd.guard.sigmas.summary`."""
        return sigma_summary(self.calibration, self.predictions)

    def join(self, summary: dict[str, Any]) -> dict[str, Any]:
        """The summary of the errors with ``uncertainty``, the mean sigmas, and those of the worst frames added."""
        found = self.summary()
        row_of = {int(row): k for k, row in enumerate(self.rows)}
        largest = self.predictions.per_frame(self.sigmas.atom_forces_std)[0]
        worst = []
        for entry in summary["worst_frames"]:
            k = row_of.get(entry["frame"])
            known = {} if k is None else {
                "energy_std_meV": 1e3 * float(self.sigmas.energy_std[k]),
                "max_force_std_meV_per_A": 1e3 * float(largest[k]),
                "flagged": bool(self.sigmas.flagged[k]),
            }  # fmt: skip
            worst.append(entry | known)
        top = {key: found[key] for key in ("energy_std_meV", "forces_std_meV_per_A")}
        return {**summary, **top, "worst_frames": worst, "uncertainty": found}


def uncertainties(
    model: LoadedModel,
    data: Dataset,
    *,
    max_frames: int = UNCERTAINTY_FRAMES,
    batch_size: int = 50,
    progress: Callable[[int, int], None] | None = None,
) -> Uncertainties:
    """Uncertainties of ``data`` from a calibrated run, for at most ``max_frames`` frames taken evenly (0: all).

    Raises:
        UncertaintyError: the run is not calibrated, or its model has changed since.
    """
    n = len(data)
    count = n if max_frames <= 0 else min(n, max_frames)
    rows = np.arange(n)[np.linspace(0, n - 1, count).round().astype(np.int64)]
    part = data if count == n else Subset(data, rows)
    raw, sigmas = model.sigmas(part, batch_size=batch_size, progress=progress)
    return Uncertainties(rows, raw, model.calibration, sigmas)


def write_evaluated(path: Path, data: Dataset, found: Evaluation, known: Uncertainties | None = None) -> None:
    """Extended XYZ of all frames: predicted energy and forces in the usual places, the labels as ``energy_ref`` and
    ``forces_ref``, and the uncertainties where they are known."""
    from equimd.tasks.predict import write_predictions

    row_of = {} if known is None else {int(row): k for k, row in enumerate(known.rows)}
    atoms, predictions = [], []
    ends = np.cumsum(found.n_atoms)
    for start in range(0, len(data), BLOCK):
        atoms += data.frames(np.arange(start, min(start + BLOCK, len(data)))).to_ase()
    for k, end in enumerate(ends):
        forces = found.forces[end - found.n_atoms[k] : end]
        p = Prediction(float(found.energy[k]), forces if np.isfinite(forces).all() else None)
        if known is not None and k in row_of:
            p = replace(p, **vars(known.sigmas.structure(row_of[k])))
        predictions.append(p)
    write_predictions(path, atoms, predictions, keep_labels=True)


def parts(summary: dict[str, Any], unit: str = "meV") -> list[Table | str]:
    """The summary as tables, energies and forces in ``unit`` (meV or kcal/mol)."""
    factor = 1.0 if unit == "meV" else 1e-3 / KCAL_PER_MOL

    def show(value: float | None, scale: float = factor) -> str:
        return "-" if value is None else digits(value * scale, 4)

    def row(name: str, of: dict[str, Any], keys: tuple[str, str, str], where: str) -> list[str]:
        return [name, show(of[keys[0]]), show(of[keys[1]]), show(of[keys[2]], factor**2), where]

    forces = ("forces_mae_meV_per_A", "forces_rmse_meV_per_A")
    rows = [row("energy", summary, ("energy_mae_meV", "energy_rmse_meV", "energy_mse_meV2"), unit)]
    rows.append(row("forces", summary, (*forces, "forces_mse"), f"{unit}/A"))
    for symbol, of in summary["per_element"].items():
        where = f"{unit}/A, {of['n_atoms']:,} atoms"
        rows.append(row(f"  on {symbol}", of, (*forces, "forces_mse_meV2_per_A2"), where))
    found: list[Table | str] = [f"{summary['n_frames']:,} frames"]
    found.append(Table(rows, ("", "MAE", "RMSE", "MSE (unit squared)", "unit"), left=(0, 4)))
    if worst := summary["worst_frames"]:
        head = ("worst frames", f"energy error ({unit})", f"largest force error on an atom ({unit}/A)")
        errors = [[show(of[key]) for key in ("energy_error_meV", "max_force_error_meV_per_A")] for of in worst]
        found += ["", Table([[f"row {of['frame']}", *e] for of, e in zip(worst, errors, strict=True)], head)]
    return found


def finish_run(
    run: Run,
    data: Dataset,
    *,
    batch_size: int = 50,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a run's best model on its test frames; leaves test.json and the parity plot in the run folder."""
    from equimd import plots
    from equimd.calculators import load

    found = measure(load(run.path, device=device), data, batch_size=batch_size, progress=progress)
    summary = found.summary()
    write_json(run.path / "test.json", summary)
    plots.parity(found, run.path / "parity.png", title=f"test, {summary['n_frames']} frames")
    return summary
