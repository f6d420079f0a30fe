"""Other ways to an uncertainty, on the same model, frames, splits and forms of recalibration as the last layer's.

- the exact posterior from energies and forces (equimd's own), and from energies alone (LLPR);
- an ensemble: members trained with different seeds;
- how far features are from those of training, of the molecule and of each atom.

Each makes a :class:`Baseline`, whose raw variances go through the same recalibration, and is one entry of ``METHODS``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from equimd.calculators import LoadedModel
from equimd.data.batch import Batch
from equimd.data.dataset import Dataset, iterate_blocks
from equimd.data.frames import Frames
from equimd.errors import ConfigError, ModelError
from equimd.model.differentiable import all_pairs
from equimd.model.interface import Model
from equimd.registry import Registry
from equimd.uq.laplace import fit_last_layers
from equimd.uq.posterior import FLOAT32_NOISE, FeatureDistance, LastLayer
from equimd.uq.predict import Predictions, predict_each

#: Frames, and what the model and its last layer say of them -> the same frames with this method's raw variances (and
#: its own errors, where it predicts something else than the model).
Predict = Callable[[Dataset, Predictions], Predictions]


@dataclass(frozen=True)
class Known:
    """What a method may be fitted to.

    Attributes:
        model: whose uncertainties are measured, trained on ``train``. layer: equimd's own posterior over its weights.
        members: models of an ensemble, as many as there are.
    """

    model: Model
    train: Dataset
    layer: LastLayer
    members: Sequence[Model] = ()


@dataclass(frozen=True)
class Baseline:
    """A fitted method.

    Attributes:
        name: in the names of rows; label: in tables and plots.
        predict: raw variances beside errors.
        step: energy, forces and uncertainty of one batch: what is timed.
        fit_seconds: what it took beyond the training of the model.
        trainings: models it takes.
    """

    name: str
    label: str
    predict: Predict
    step: Callable[[Batch], object]
    fit_seconds: float = 0.0
    trainings: int = 1


def ensemble(members: Sequence[Model]) -> Baseline:
    """An ensemble of trained models.

    Raises:
        ConfigError: fewer than two members.
    """
    if len(members) < 2:
        raise ConfigError(f"an ensemble of {len(members)}", hint="two members or more")
    loaded = [LoadedModel(model) for model in members]

    def of(data: Dataset, base: Predictions) -> Predictions:
        return _predict(loaded, data, base)

    def step(batch: object) -> object:
        return [model.evaluate(batch) for model in members]  # type: ignore[arg-type]

    return Baseline(f"ensemble-{len(members)}", f"ensemble of {len(members)}", of, step, trainings=len(members))


def _predict(members: Sequence[LoadedModel], data: Dataset, base: Predictions) -> Predictions:
    """Errors of the members' mean, and the covariance of the members, unbiased."""
    energy, forces, true_energy, true_forces = [], [], [], []
    for block in iterate_blocks(data):
        real = block.numbers > 0
        found = [member.predict_frames(block) for member in members]
        energy.append(np.stack([e for e, _ in found]))
        forces.append(np.stack([f[real] for _, f in found if f is not None]))
        true_energy.append(block.energy)
        true_forces.append(block.forces[real])
    e, f = np.concatenate(energy, 1), np.concatenate(forces, 1)
    spread = f - f.mean(0)
    return replace(
        base,
        energy_error=e.mean(0) - np.concatenate(true_energy),
        force_error=f.mean(0) - np.concatenate(true_forces),
        energy_variance=e.var(0, ddof=1),
        force_covariance=np.einsum("kmi,kmj->mij", spread, spread) / (len(members) - 1),
    )


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


LAST_LAYERS = {
    "all": ("last-layer", "features of all layers"),
    "last": ("last-layer-only", "of the last layer alone"),
    "llpr": ("llpr", "of the last layer, energies only (LLPR)"),
}


def last_layer(model: Model, train: Dataset, kind: str = "all") -> tuple[Baseline, LastLayer]:
    """The method, of ``LAST_LAYERS``, and the posterior it uses."""
    (method,), (layer,) = last_layers(model, train, [kind])
    return method, layer


def last_layers(model: Model, train: Dataset, kinds: Sequence[str]) -> tuple[list[Baseline], list[LastLayer]]:
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

        return Baseline(*LAST_LAYERS[kinds[k]], lambda data, base=None: said(data)[k], step, seconds[k])

    return [method(k) for k in range(len(kinds))], layers


@dataclass(frozen=True)
class ComparedUncertainty:
    """One way to an uncertainty.

    Attributes:
        label: in tables and plots. colour: of its curve, as matplotlib names it.
        fit: what makes the method; it returns None where it lacks something, such as members. Without it, the method is
            one of :func:`last_layers`, which are fitted together.
    """

    label: str
    colour: str
    fit: Callable[[Known], Baseline | None] | None = None


#: In the order of the tables, by name in rows (an ensemble of four: ``ensemble-4``).
METHODS: Registry[ComparedUncertainty] = Registry(
    "uncertainty method",
    "METHODS",
    {
        "last-layer": ComparedUncertainty("features of all layers", "tab:blue"),
        "last-layer-only": ComparedUncertainty("of the last layer alone", "tab:purple"),
        "llpr": ComparedUncertainty("of the last layer, energies only (LLPR)", "tab:cyan"),
        "ensemble": ComparedUncertainty(
            "ensemble", "tab:orange", lambda k: ensemble(k.members) if len(k.members) > 1 else None
        ),
        "mahalanobis": ComparedUncertainty(
            "feature distance", "tab:green", lambda k: mahalanobis(k.model, k.layer.distance)
        ),
        "gmm": ComparedUncertainty(
            "atomic features, a Gaussian an element", "tab:red", lambda k: gaussians(k.model, k.train)
        ),
    },
)
