"""Exact posteriors over linear weights: of all layers' features, of the last layer's alone, and from energies alone.

The third is the recipe of last-layer prediction rigidities (Bigi, Chong, Ceriotti and Grasselli, Mach. Learn.: Sci.
Technol. 5, 045018 (2024)): the curvature holds energies only, and the variance of a force comes from the derivatives of
the same last-layer features.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache

import torch

from equimd.benchmarks.calibration.baselines.method import Baseline
from equimd.data.dataset import Dataset
from equimd.model.interface import Model
from equimd.uq.laplace import fit_last_layers
from equimd.uq.posterior import LastLayer
from equimd.uq.predict import Predictions, predict_each

NAMES = {
    "all": ("last-layer", "features of all layers"),
    "last": ("last-layer-only", "of the last layer alone"),
    "llpr": ("llpr", "of the last layer, energies only (LLPR)"),
}


def fit(model: Model, train: Dataset, kind: str = "all") -> tuple[Baseline, LastLayer]:
    """The method, of ``NAMES``, and the posterior it uses."""
    (method,), (layer,) = fit_each(model, train, [kind])
    return method, layer


def fit_each(model: Model, train: Dataset, kinds: Sequence[str]) -> tuple[list[Baseline], list[LastLayer]]:
    """Several of them, and their posteriors; the rows of a data set are computed once for all."""
    layers, seconds = [], []
    for kind in kinds:
        began = time.monotonic()
        layers.append(fit_last_layers(model, train, use_forces=kind != "llpr", all_layers=kind == "all")[0])
        seconds.append(time.monotonic() - began)

    @cache
    def said(data: Dataset) -> list[Predictions]:
        return predict_each(model, layers, data)

    def method(k: int) -> Baseline:
        def step(batch: object) -> object:
            with torch.no_grad():
                return model.evaluate(batch), layers[k].raw(model, batch)  # type: ignore[arg-type]

        return Baseline(*NAMES[kinds[k]], lambda data, base=None: said(data)[k], step, seconds[k])

    return [method(k) for k in range(len(kinds))], layers
