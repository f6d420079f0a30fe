"""Errors of energies and forces: MAE, MSE and RMSE, gathered as float64 sums.

Energy errors are per structure (total energy); force errors per Cartesian component, over real atoms only. Internally
eV and eV/Angstrom; files and screens show meV and meV/Angstrom (or kcal/mol).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from equimd.config import TrainConfig
from equimd.data.batch import Batch
from equimd.files import understood, write_atomic
from equimd.training.parallel import ALONE, Processes
from equimd.units import KCAL_PER_MOL

# the sums a training step returns, in the order they are kept
SUMS = ("loss", "energy_abs", "energy_sq", "forces_abs", "forces_sq", "n_frames", "n_components", "grad_norm")
ERRORS = ("energy_mae", "energy_mse", "energy_rmse", "forces_mae", "forces_mse", "forces_rmse")
COLUMNS = (
    "epoch",
    "step",
    "time_s",
    "lr",
    "loss",
    "grad_norm",
    *(f"train_{e}" for e in ERRORS),
    "val_loss",
    *(f"val_{e}" for e in ERRORS),
)


@dataclass(frozen=True)
class Unit:
    """A unit errors are shown in: its factor from eV and its name for energies; forces are per Angstrom."""

    name: str
    factor: float

    @property
    def forces(self) -> str:
        return f"{self.name}/A"

    @classmethod
    def of(cls, name: str) -> Unit:
        return cls(name, 1.0 / KCAL_PER_MOL) if name == "kcal/mol" else cls("meV", 1000.0)


def errors(
    energy_abs: float, energy_sq: float, forces_abs: float, forces_sq: float, n_frames: float, n_components: float
) -> dict[str, float]:
    """MAE, MSE, RMSE in eV and eV/Angstrom from sums; NaN where there is nothing to compare with."""
    nan = math.nan
    e_mae, e_mse = (energy_abs / n_frames, energy_sq / n_frames) if n_frames else (nan, nan)
    f_mae, f_mse = (forces_abs / n_components, forces_sq / n_components) if n_components else (nan, nan)
    return {
        "energy_mae": e_mae,
        "energy_mse": e_mse,
        "energy_rmse": math.sqrt(e_mse),
        "forces_mae": f_mae,
        "forces_mse": f_mse,
        "forces_rmse": math.sqrt(f_mse),
    }


class RunningErrors:
    """Sums of an epoch's training steps; ``totals`` is all its state."""

    def __init__(self) -> None:
        self.totals = torch.zeros(len(SUMS) + 1, dtype=torch.float64)

    def add(self, sums: Mapping[str, Tensor | float]) -> None:
        """Add what one training step returned."""
        row = torch.stack([torch.as_tensor(sums[name]).detach().to("cpu", torch.float64) for name in SUMS])
        self.totals[:-1] += row
        self.totals[-1] += 1

    def errors(self, config: TrainConfig) -> dict[str, float]:
        """The epoch's errors so far, its mean loss and mean gradient norm."""
        sums = dict(zip((*SUMS, "steps"), self.totals.tolist(), strict=True))
        steps = max(1.0, sums["steps"])
        out = errors(
            sums["energy_abs"],
            sums["energy_sq"],
            sums["forces_abs"],
            sums["forces_sq"],
            sums["n_frames"] if config.energy_weight else 0,
            sums["n_components"] if config.forces_weight else 0,
        )
        return {**out, "loss": sums["loss"] / steps, "grad_norm": sums["grad_norm"] / steps}


def validate(
    predict: Callable[[Batch], Mapping[str, Tensor]],
    batches: Iterable[Batch],
    config: TrainConfig,
    processes: Processes = ALONE,
) -> dict[str, float]:
    """Errors of a model over batches, and the loss they make; each of several processes brings batches of its own.

    Labels that are missing are left out, and frames count alike whatever their weight. With forces-only training the
    energies' constant is not known yet, and their errors are left out (NaN).
    """
    sums = torch.zeros(8, dtype=torch.float64)
    for batch in batches:
        out = predict(batch)
        if config.energy_weight and batch.energy is not None:
            wrong = (out["energy"] - batch.energy).double()
            if batch.energy_weight is not None:
                wrong = wrong[batch.energy_weight > 0]
            counted = wrong
            if config.energy_loss_per_atom:
                known = slice(None) if batch.energy_weight is None else batch.energy_weight > 0
                counted = wrong / batch.n_atoms[known]
            lost = energy_losses(config.loss, counted).sum()
            sums[:4] += torch.stack([wrong.abs().sum(), wrong.square().sum(), lost, lost.new_tensor(len(wrong))]).cpu()
        if config.forces_weight and batch.forces is not None:
            wrong = out["forces"].double() - batch.forces.double()
            count = 3.0 * batch.n_atoms.sum().double()
            if batch.force_weight is not None:
                wrong = wrong[batch.force_weight > 0]
                count = count.new_tensor(wrong.numel())
            lost = force_losses(config.loss, wrong).sum()
            sums[4:] += torch.stack([wrong.abs().sum(), wrong.square().sum(), lost, count]).cpu()
    e_abs, e_sq, e_loss, n_frames, f_abs, f_sq, f_loss, n_components = processes.sum_(sums).tolist()
    found = errors(e_abs, e_sq, f_abs, f_sq, n_frames, n_components)
    loss = config.energy_weight * e_loss / max(1.0, n_frames)
    loss += config.forces_weight * 3 * f_loss / max(1.0, n_components)
    return {**found, "loss": loss}


def unit_name(column: str) -> str:
    """A column's name with the unit its file states it in."""
    kind, _, measure = column.removeprefix("train_").removeprefix("val_").partition("_")
    if measure not in ("mae", "mse", "rmse"):
        return column
    unit = "meV" if kind == "energy" else "meV_per_A"
    return f"{column}_{unit}" if measure != "mse" else f"{column}_" + ("meV2" if kind == "energy" else "meV2_per_A2")


def in_file_units(column: str, value: float) -> float:
    """A value in eV as the file states it, in meV."""
    if not column.endswith(("_mae", "_mse", "_rmse")):
        return value
    return value * (1e6 if column.endswith("_mse") else 1e3)


class MetricsFile:
    """metrics.csv: one line an epoch, errors in meV and meV/Angstrom."""

    def __init__(self, path: Path, keep: int = 0) -> None:
        self.path = path
        header = ",".join(unit_name(c) for c in COLUMNS)
        with understood(path):
            lines = path.read_text().splitlines()[1 : keep + 1] if keep and path.is_file() else []
        # a run killed after its last checkpoint repeats some epochs: drop their lines
        write_atomic(path, "\n".join([header, *lines]) + "\n")
        self.rows = len(lines)

    def append(self, row: Mapping[str, float]) -> None:
        """Add a line; what ``row`` lacks or is not finite stays empty."""
        cells = []
        for column in COLUMNS:
            value = row.get(column, math.nan)
            cells.append("" if not math.isfinite(value) else f"{in_file_units(column, value):.7g}")
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        with self.path.open("a") as file:
            file.write(text.getvalue())
        self.rows += 1


#: What is minimised: how an error of an energy or of a force on an atom counts. Errors in eV and eV/Angstrom.
#: ``l2mae``: |dE| and the length of the error vector of each atom, the loss of OC20's forces (Chanussot et al. 2021).
#: It does not turn with the frame of reference, and frames far from equilibrium do not outweigh the rest.
#: ``mse``: squared errors, of energies and of force components (PaiNN as published).
Loss = Literal["l2mae", "mse"]
_EPS = 1e-10  # (eV/Angstrom)^2 under the root, so that its derivative stays finite where the error is 0


def energy_losses(loss: Loss, error: Tensor) -> Tensor:
    """(B,) errors -> (B,) what each adds; the mean over structures is minimised."""
    return error.abs() if loss == "l2mae" else error.square()


def force_losses(loss: Loss, error: Tensor) -> Tensor:
    """(N, 3) errors -> (N,) what each atom adds, 0 for an error of 0; the mean over atoms is minimised."""
    squared = error.square().sum(-1)
    return (squared + _EPS).sqrt() - _EPS**0.5 if loss == "l2mae" else squared / 3
