"""Labelled frames, streamed as batches in the form laplace-torch takes: one scalar target a row, energies first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from equimd.data.batch import ALL_PAIRS_MAX_ATOMS, Batch
from equimd.data.dataset import Dataset, iterate_blocks
from equimd.data.frames import Frames
from equimd.errors import UncertaintyError
from equimd.model.interface import CHUNK, Model

BATCH_SIZE = 16  # the Jacobian of 16 small molecules still fits the processor's cache, 8 features at a time
LABELS = "labels"

LAYER = "linear"  # the name of the layer under a RowModel
Progress = Callable[[int, int], None]


def rows_are_cheap(data: Dataset) -> bool:
    """Whether the rows of every frame come from one forward pass for all features together."""
    small = max(data.n_atoms, default=0) <= ALL_PAIRS_MAX_ATOMS
    return small and not any(block.pbc.any() for block in iterate_blocks(data))


class RowModel(nn.Module):
    """A float64 potential seen as a linear model of its pooled features.

    The energy is linear in phi, the features of the readout. The posterior is over the weights of all layers' features,
    of which the trained model uses phi alone: the others are there with weight zero. What the model could have learnt
    from what its layers see then counts as uncertainty, and not only how it could have weighed phi.

    Args:
        model: copied, not changed.
        targets: what is regressed on: ``both`` energies and forces (conservative models), ``energy`` alone, or
            ``forces`` alone (of a direct model: the channels under its force head).
        all_layers: False takes phi alone. A direct head has the channels under it, whatever this says.
        chunk: features of one reverse pass. device: where to compute; None: where the model does.

    Raises:
        UncertaintyError: the model has no such rows.
    """

    def __init__(
        self,
        model: Model,
        targets: str,
        *,
        all_layers: bool = True,
        chunk: int = CHUNK,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__()
        if not model.has_forces and targets != "energy":
            raise UncertaintyError(
                "the model was trained on energies alone: there are no forces to be sure or unsure of",
                hint="train with forces",
            )
        if targets == "both" and not model.conservative:
            raise UncertaintyError("energies and forces of a direct model have different last layers")
        self.potential = model.converted(torch.float64, device)
        self.targets, self.chunk = targets, chunk
        direct = targets == "forces" and not model.conservative
        trained = self.potential.force_weights if direct else self.potential.energy_weights
        self.width = model.num_pooled if all_layers and not direct else len(trained)
        self.linear = nn.Linear(self.width, 1, bias=False).to(trained)
        with torch.no_grad():
            self.linear.weight.zero_()[0, : len(trained)] = trained

    def forward(self, data: dict[str, Any]) -> Tensor:
        """(B, 1) interaction energies: what laplace-torch looks at once, for the number of outputs."""
        return self.linear(self._own(self.potential.features(data["batch"]))).detach()

    def design(self, data: dict[str, Any]) -> Tensor:
        """Rows (rows, weights) in the order of the labels: energies, then the components of the real atoms' forces."""
        batch, (with_energy, with_forces) = data["batch"], data["kinds"]
        parts = []
        if with_forces:
            rows = self.potential.rows(batch, width=self.width, chunk=self.chunk)
            parts = [rows.energy] if with_energy else []
            parts.append(rows.forces[batch.real].flatten(0, 1))
        else:
            parts.append(self.potential.features(batch))
        return torch.cat([self._own(part) for part in parts])

    def _own(self, rows: Tensor) -> Tensor:
        return rows[:, : self.width]


class RowLoader:
    """All labelled frames of a data set, a batch at a time; memory does not grow with their number.

    What laplace-torch takes for a loader: iterable any number of times, with ``dataset``. Frames are grouped by which
    labels they have and sorted by size within blocks, so that padding stays small; unlabelled ones are left out.

    Args:
        progress: told the frames done and their number, after each batch.

    Raises:
        UncertaintyError: when iterated, no frame has a label of the kind.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: RowModel,
        *,
        batch_size: int = BATCH_SIZE,
        device: str | torch.device = "cpu",
        progress: Progress | None = None,
    ) -> None:
        self.dataset, self.model = dataset, model
        self.batch_size, self.device, self.progress = batch_size, device, progress

    def __iter__(self) -> Iterator[dict[str, Any]]:
        done, found = 0, False
        for block in iterate_blocks(self.dataset):
            for rows, kinds in self._groups(block):
                if any(kinds):
                    found = True
                    yield self._rows(block.take(rows), kinds)
                done += len(rows)
                if self.progress:
                    self.progress(done, len(self.dataset))
        if not found:
            wanted = {"both": "energy or forces", "energy": "energy", "forces": "forces"}[self.model.targets]
            raise UncertaintyError(f"no frame has {wanted} to learn from", where=self.dataset.info.path or None)

    def _groups(self, block: Frames) -> Iterator[tuple[np.ndarray, tuple[bool, bool]]]:
        """Batches of rows of the block, and whether they carry energies and forces that are wanted."""
        energy = block.has_energy & (self.model.targets != "forces")
        forces = block.has_forces & (self.model.targets != "energy")
        periodic = block.pbc.any(1)  # the dense layout of open molecules is faster, and cannot hold periodic frames
        for key in np.unique(np.stack([energy, forces, periodic], 1), axis=0):
            rows = np.flatnonzero((energy == key[0]) & (forces == key[1]) & (periodic == key[2]))
            rows = rows[np.argsort(block.n_atoms[rows], kind="stable")]
            for start in range(0, len(rows), self.batch_size):
                yield rows[start : start + self.batch_size], (bool(key[0]), bool(key[1]))

    def _rows(self, frames: Frames, kinds: tuple[bool, bool]) -> dict[str, Any]:
        potential = self.model.potential
        batch = Batch.from_frames(frames, potential.cutoff, dtype=torch.float64, device=self.device)
        parts = []
        if kinds[0]:
            energy = torch.from_numpy(frames.energy).to(batch.positions.device)
            parts.append(energy - potential.reference_energy(batch))
        if kinds[1]:
            forces = torch.from_numpy(frames.forces[frames.numbers > 0]).to(batch.positions.device)
            parts.append(forces.flatten())
        counts = (len(frames) if kinds[0] else 0, 3 * int(frames.n_atoms.sum()) if kinds[1] else 0)
        return {"batch": batch, "kinds": kinds, "counts": counts, LABELS: torch.cat(parts).unsqueeze(1)}
