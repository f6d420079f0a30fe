"""Reference energies after the fact: the constant that forces alone cannot teach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from equimd.data.dataset import Dataset
from equimd.training.batching import sorted_batches
from equimd.training.loader import FrameSource

if TYPE_CHECKING:
    from equimd.model.painn.potential import Potential


def shift_references(model: Potential, data: Dataset, batch_size: int = 50, max_atoms: int | None = None) -> int:
    """Shift the atomic energies so that the model's energies fit those of ``data`` best; in place, float64.

    Solves ``counts @ shift = E - E_model`` by least squares with the smallest shift: for one composition this is one
    constant, the mean error, shared among the elements. Frames without an energy are left out.

    Returns:
        The number of frames the shift was fitted to.
    """
    source = FrameSource(data, None, model.config.cutoff, model.dtype)
    device = model.atomic_energies.device
    elements = np.array(model.config.elements, np.int64)
    normal, right, used = np.zeros((len(elements),) * 2), np.zeros(len(elements)), 0
    training = model.training
    model.eval()
    for index in sorted_batches(source.sizes, batch_size, max_atoms):
        frames = source.frames(index)
        known = frames.has_energy
        if not known.any():
            continue
        predicted = predicted_energy(model, source, index, device)
        counts = (frames.numbers[:, :, None] == elements).sum(1)[known].astype(np.float64)
        wrong = frames.energy[known] - predicted[known]
        normal += counts.T @ counts
        right += counts.T @ wrong
        used += int(known.sum())
    model.train(training)
    if used:
        # the pseudo-inverse of the normal matrix gives the least-squares solution of smallest norm
        shift = np.linalg.pinv(normal, rcond=1e-10, hermitian=True) @ right
        model.atomic_energies[torch.from_numpy(elements).to(device)] += torch.from_numpy(shift).to(device)
    return used


def predicted_energy(model: Potential, source: FrameSource, index: np.ndarray, device: torch.device) -> np.ndarray:
    """(B,) float64 total energies, without forces."""
    from equimd.model.painn.potential import batch_arguments

    batch = source.batch(index).to(device)
    with torch.no_grad():
        out = model.network(batch.positions, **batch_arguments(batch))
        energy = out.energy.double() + model.reference_energy(batch)
    return energy.cpu().numpy()
