"""Distances in feature space: of the molecule's pooled features, and of each atom's own.

The first is the Mahalanobis distance to the training frames (Lee et al., NeurIPS 2018). The second is a Gaussian
mixture over atomic features (Zhu et al., J. Chem. Phys. 158, 164111 (2023)) with one component for each element, which
needs no expectation maximisation, since the element says which component an atom belongs to.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from equimd.benchmarks.calibration.baselines.method import Baseline
from equimd.data.batch import Batch
from equimd.data.dataset import Dataset, iterate_blocks
from equimd.data.frames import Frames
from equimd.errors import ModelError
from equimd.model.differentiable import all_pairs
from equimd.model.interface import Model
from equimd.uq.posterior import FLOAT32_NOISE, FeatureDistance
from equimd.uq.predict import Predictions

BATCH = 64


def _isotropic(base: Predictions, energy: np.ndarray, atoms: np.ndarray) -> Predictions:
    return replace(base, energy_variance=energy, force_covariance=atoms[:, None, None] * np.eye(3))


def mahalanobis(model: Model, distance: FeatureDistance) -> Baseline:
    """The feature distance u of the molecule as variance of its energy and of every force."""

    def of(data: Dataset, base: Predictions) -> Predictions:
        return _isotropic(base, base.distance, base.distance[base.frame])

    def step(batch: Batch) -> object:
        out = model.evaluate(batch)
        return out, distance(out["features"], batch.n_atoms)

    return Baseline("mahalanobis", "feature distance (Mahalanobis)", of, step)


def atom_features(model: Model, batch: Batch) -> Tensor:
    """(N, p) features phi of each atom before pooling: every atom taken as a structure of its own.

    Raises:
        ModelError: a padded batch.
    """
    if batch.num_slots:
        raise ModelError("atomic features need a batch without padding", hint="neighbors='torch'")
    n, where = len(batch.atomic_numbers), batch.batch
    alone = replace(
        batch,
        batch=torch.arange(n, device=where.device),
        n_atoms=torch.ones_like(where),
        charge=batch.charge[where],
        spin=batch.spin[where],
        cell=batch.cell[where],
        pbc=batch.pbc[where],
    )
    return model.features(alone)[:, : len(model.energy_weights)]


def _of_frames(model: Model, frames: Frames) -> Tensor:
    parts = []
    for start in range(0, len(frames), BATCH):
        part = frames.take(np.arange(start, min(start + BATCH, len(frames))))
        batch = Batch.from_frames(part, model.cutoff, dtype=model.dtype, neighbors="torch")
        parts.append(atom_features(model, batch))
    return torch.cat(parts).double()


def gaussians(model: Model, train: Dataset) -> Baseline:
    """Squared distance of an atom's features to those of its element in training, over p; the mean for the energy."""
    began, precise = time.monotonic(), model.converted(torch.float64)
    found: dict[int, list[Tensor]] = {}
    for block in iterate_blocks(train):
        features, numbers = _of_frames(precise, block), block.numbers[block.numbers > 0]
        for z in np.unique(numbers):
            found.setdefault(int(z), []).append(features[torch.from_numpy(numbers == z)])
    components = {}
    for z, parts in found.items():
        x = torch.cat(parts)
        noise = FLOAT32_NOISE * float(x.square().mean().sqrt())
        components[z] = FeatureDistance.from_moments(x.mean(0), torch.cov(x.T, correction=0), noise=noise)

    def distances(features: Tensor, numbers: Tensor) -> Tensor:
        out = features.new_zeros(len(features), dtype=torch.float64)
        for z, component in components.items():
            rows = (numbers == z).nonzero().flatten()
            out[rows] = component(features[rows], torch.ones_like(rows))
        return out

    def of(data: Dataset, base: Predictions) -> Predictions:
        parts = []
        for block in iterate_blocks(data):
            numbers = torch.from_numpy(block.numbers[block.numbers > 0].astype(np.int64))
            parts.append(distances(_of_frames(model, block), numbers).numpy())
        atoms = np.concatenate(parts)
        counts = np.bincount(base.frame, minlength=len(base.distance))
        return _isotropic(base, np.bincount(base.frame, atoms) / counts, atoms)

    def step(batch: Batch) -> object:
        edges = _without_padding(batch)
        return model.evaluate(batch), distances(atom_features(model, edges), edges.atomic_numbers)

    return Baseline("gmm", "atomic features, a Gaussian an element", of, step, time.monotonic() - began)


def _without_padding(batch: Batch) -> Batch:
    """All pairs within each structure as an edge list, for structures of one size."""
    return replace(batch, num_slots=0, edge_index=all_pairs(batch)) if batch.num_slots else batch
