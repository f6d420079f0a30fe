"""Uncertainties of whole data sets beside their errors, per frame and per atom, raw or calibrated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from equimd.data.batch import Batch
from equimd.data.dataset import Dataset, iterate_blocks
from equimd.data.frames import Frames
from equimd.errors import UncertaintyError
from equimd.model.interface import CHUNK, Model
from equimd.shown import Shown
from equimd.uq.posterior import LastLayer, RawUncertainty
from equimd.uq.recalibration import Recalibration
from equimd.uq.rows import BATCH_SIZE
from equimd.uq.samples import Samples


@dataclass(frozen=True, repr=False)
class Predictions(Shown):
    """N frames with M atoms in all, in the order of the data; eV and Angstrom, NaN where a frame has no label.

    Attributes:
        energy_error: (N,) predicted minus true; force_error: (M, 3).
        energy_variance: (N,) raw; force_covariance: (M, 3, 3) raw.
        distance: (N,) feature distance u.
        numbers, frame: (M,) atomic number, and row of the frame, of each atom.
    """

    energy_error: np.ndarray
    force_error: np.ndarray
    energy_variance: np.ndarray
    force_covariance: np.ndarray
    distance: np.ndarray
    numbers: np.ndarray
    frame: np.ndarray

    def energies(self, group: np.ndarray | None = None) -> Samples:
        """Energies of the labelled frames; ``group`` (N,) says which frames are resampled together."""
        known = np.isfinite(self.energy_error)
        group = np.arange(len(known)) if group is None else np.asarray(group)
        return Samples.build(
            self.energy_error[known], self.energy_variance[known], distance=self.distance[known], group=group[known]
        )

    def forces(self, group: np.ndarray | None = None) -> Samples:
        """Forces on the atoms of the labelled frames."""
        known = np.isfinite(self.force_error).all(1)
        group = np.arange(len(self.distance)) if group is None else np.asarray(group)
        frame = self.frame[known]
        return Samples.build(
            self.force_error[known],
            self.force_covariance[known],
            distance=self.distance[frame],
            element=self.numbers[known],
            group=group[frame],
        )

    def per_frame(self, per_atom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The largest of M values in each frame, and which atom of the frame has it, (N,) each."""
        first = np.searchsorted(self.frame, np.arange(len(self.distance)))
        largest = np.maximum.reduceat(per_atom, first)
        order = np.lexsort((-per_atom, self.frame))
        return largest, order[first] - first

    @property
    def max_force_error(self) -> np.ndarray:
        """(N,) length of the largest force error on an atom of each frame."""
        return self.per_frame(np.linalg.norm(self.force_error, axis=1))[0]


def predict(
    model: Model,
    layer: LastLayer,
    data: Dataset,
    *,
    batch_size: int = BATCH_SIZE,
    chunk: int = CHUNK,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Errors and raw uncertainties of every frame, in the model's own precision.

    Args:
        progress: told the frames done and their number, after each batch.

    Raises:
        UncertaintyError: no frames.
        ModelError: elements the model never saw.
    """
    settings: dict[str, Any] = {"batch_size": batch_size, "chunk": chunk, "device": device, "progress": progress}
    return predict_each(model, [layer], data, **settings)[0]


def predict_each(
    model: Model,
    layers: Sequence[LastLayer],
    data: Dataset,
    *,
    batch_size: int = BATCH_SIZE,
    chunk: int = CHUNK,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> list[Predictions]:
    """:func:`predict` of several posteriors of one model, whose rows are computed once."""
    if not len(data):
        raise UncertaintyError("no frames", where=data.info.path or None)
    blocks, done = [], 0
    for block in iterate_blocks(data):
        parts, order = [], np.lexsort((block.n_atoms, block.pbc.any(1)))
        for start in range(0, len(order), batch_size):
            parts.append(_predict_batch(model, layers, block.take(order[start : start + batch_size]), chunk, device))
            done += len(parts[-1][0][0])
            if progress:
                progress(done, len(data))
        blocks.append([_in_order(list(own), order, block.n_atoms) for own in zip(*parts, strict=True)])
    return [_joined(list(own)) for own in zip(*blocks, strict=True)]


def _joined(blocks: list[list[np.ndarray]]) -> Predictions:
    columns = [np.concatenate(c) for c in zip(*blocks, strict=True)]
    n_atoms = columns.pop()
    columns.append(np.repeat(np.arange(len(n_atoms)), n_atoms))
    return Predictions(*columns)


def _predict_batch(
    model: Model, layers: Sequence[LastLayer], frames: Frames, chunk: int, device: str | torch.device
) -> list[tuple[np.ndarray, ...]]:
    """For each layer columns of :class:`Predictions` of one batch, those of energies (B, ...) and of atoms (M, ...)."""
    batch = Batch.from_frames(frames, model.cutoff, dtype=model.dtype, device=device)
    rows = model.rows(batch, width=max(layer.forces.width for layer in layers), chunk=chunk)
    out, real, atoms = model.evaluate(batch), batch.real, frames.numbers > 0
    raws = [layer.of_rows(rows, batch) for layer in layers]
    return [
        (
            out["energy"].cpu().numpy() - frames.energy,
            out["forces"][real].double().cpu().numpy() - frames.forces[atoms],
            raw.energy_variance.cpu().numpy(),
            raw.force_covariance[real].cpu().numpy(),
            raw.distance.cpu().numpy(),
            frames.numbers[atoms],
            frames.n_atoms,
        )
        for raw in raws
    ]


def _in_order(parts: list[tuple[np.ndarray, ...]], order: np.ndarray, n_atoms: np.ndarray) -> list[np.ndarray]:
    """Columns of the batches, in the order the block has."""
    columns = [np.concatenate(c) for c in zip(*parts, strict=True)]
    frames = np.argsort(order, kind="stable")
    atoms = np.argsort(np.repeat(order, n_atoms[order]), kind="stable")
    return [c[atoms] if k in (1, 3, 5) else c[frames] for k, c in enumerate(columns)]


@dataclass(frozen=True, repr=False)
class Uncertainty(Shown):
    """Calibrated variances of a batch, split into what the last layer does not know and the noise; NumPy, eV, Angstrom.

    Attributes:
        energy_model, energy_noise: (B,) variances.
        force_model: (N, 3, 3); force_noise: (N,) variance of each component. Zero in padded slots.
    """

    energy_model: np.ndarray
    energy_noise: np.ndarray
    force_model: np.ndarray
    force_noise: np.ndarray

    @property
    def energy_std(self) -> np.ndarray:
        """(B,) eV."""
        return np.sqrt(self.energy_model + self.energy_noise)

    @property
    def force_covariance(self) -> np.ndarray:
        """(N, 3, 3) (eV/Angstrom)^2."""
        return self.force_model + self.force_noise[:, None, None] * np.eye(3)

    @property
    def force_std(self) -> np.ndarray:
        """(N,) sqrt(trace C), eV/Angstrom: no rotation changes it."""
        return np.sqrt(np.trace(self.force_covariance, axis1=1, axis2=2))

    @property
    def component_std(self) -> np.ndarray:
        """(N, 3) of the x, y and z components, eV/Angstrom: turns with the frame of reference."""
        return np.sqrt(np.diagonal(self.force_covariance, axis1=1, axis2=2))


@dataclass(frozen=True, repr=False)
class Calibrated(Shown):
    """A last-layer posterior with the recalibrations found for it."""

    layer: LastLayer
    energy: Recalibration
    forces: Recalibration

    def __call__(self, model: Model, batch: Batch, *, chunk: int = CHUNK) -> Uncertainty:
        """The exact calibrated uncertainties of a batch."""
        return self.apply(self.layer.raw(model, batch, chunk=chunk), batch)

    def apply(self, raw: RawUncertainty, batch: Batch) -> Uncertainty:
        """Calibrate raw uncertainties of a batch."""
        distance, element = raw.distance.cpu().numpy(), batch.atomic_numbers.cpu().numpy()
        energy_model, energy_noise = self.energy.variance(raw.energy_variance.cpu().numpy(), distance)
        covariance = raw.force_covariance.cpu().numpy()
        model, noise = self.forces.covariance(covariance, distance[batch.batch.cpu().numpy()], element)
        return Uncertainty(energy_model, energy_noise, model, np.where(element > 0, noise, 0.0))
