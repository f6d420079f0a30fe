"""Exact last-layer posteriors: from energies and forces, and from energies alone.

The second is the recipe of last-layer prediction rigidities (Bigi, Chong, Ceriotti and Grasselli, Mach. Learn.: Sci.
Technol. 5, 045018 (2024)): the curvature holds energies only, and the variance of a force comes from the derivatives of
the same last-layer features.
"""

from __future__ import annotations

import time

import torch

from equimd.benchmarks.baselines.method import Method
from equimd.data.dataset import Dataset
from equimd.model import Potential
from equimd.uq.laplace import fit_last_layers
from equimd.uq.posterior import LastLayer
from equimd.uq.predict import Predictions, predict

NAMES = {True: ("last-layer", "last layer, energies and forces"), False: ("llpr", "last layer, energies only (LLPR)")}


def fit(model: Potential, train: Dataset, *, use_forces: bool = True) -> tuple[Method, LastLayer]:
    """The method, and the posterior it uses."""
    began = time.monotonic()
    layer, _ = fit_last_layers(model, train, use_forces=use_forces)
    seconds = time.monotonic() - began

    def of(data: Dataset, base: Predictions | None = None) -> Predictions:
        return predict(model, layer, data)

    def step(batch: object) -> object:
        with torch.no_grad():
            return model(batch), layer.raw(model, batch)  # type: ignore[arg-type]

    return Method(*NAMES[use_forces], of, step, seconds), layer
