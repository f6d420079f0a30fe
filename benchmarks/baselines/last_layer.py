"""Exact posteriors over linear weights: of all layers' features, of the last layer's alone, and from energies alone.

The third is the recipe of last-layer prediction rigidities (Bigi, Chong, Ceriotti and Grasselli, Mach. Learn.: Sci.
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

NAMES = {
    "all": ("last-layer", "features of all layers"),
    "last": ("last-layer-only", "of the last layer alone"),
    "llpr": ("llpr", "of the last layer, energies only (LLPR)"),
}


def fit(model: Potential, train: Dataset, kind: str = "all") -> tuple[Method, LastLayer]:
    """The method, of ``NAMES``, and the posterior it uses."""
    began = time.monotonic()
    layer, _ = fit_last_layers(model, train, use_forces=kind != "llpr", all_layers=kind == "all")
    seconds = time.monotonic() - began

    def of(data: Dataset, base: Predictions | None = None) -> Predictions:
        return predict(model, layer, data)

    def step(batch: object) -> object:
        with torch.no_grad():
            return model(batch), layer.raw(model, batch)  # type: ignore[arg-type]

    return Method(*NAMES[kind], of, step, seconds), layer
