"""The baselines against what their formulas say."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from equimd.benchmarks.calibration.baselines import (
    _without_padding,
    atom_features,
    ensemble,
    gaussians,
    last_layer,
    mahalanobis,
)
from equimd.calculators import LoadedModel
from equimd.data.batch import Batch
from equimd.data.dataset import ArrayDataset
from equimd.errors import ConfigError, ModelError
from equimd.model.painn.potential import Potential
from equimd.uq.predict import Predictions
from tests.uq.conftest import CUTOFF, build_model, random_frames

SIZES = (5, 7, 4, 6, 5, 8)


@pytest.fixture(scope="module")
def data() -> ArrayDataset:
    return ArrayDataset(random_frames(SIZES, seed=2))


@pytest.fixture(scope="module")
def base(data: ArrayDataset) -> Predictions:
    return last_layer(build_model("conservative"), data)[0].predict(data, None)  # type: ignore[arg-type]


def another(seed: int) -> Potential:
    """The same model with its last layer drawn anew."""
    model = deepcopy(build_model("conservative"))
    with torch.no_grad():
        weight = model.last_layer.weight
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed), dtype=weight.dtype))
    return model


def test_the_ensemble_is_the_mean_and_the_covariance_of_its_members(data: ArrayDataset, base: Predictions) -> None:
    members = [another(seed) for seed in range(4)]
    found = ensemble(members).predict(data, base)
    block = data.frames()
    real = block.numbers > 0
    said = [LoadedModel(m).predict_frames(block) for m in members]
    forces, energy = np.stack([f[real] for _, f in said if f is not None]), np.stack([e for e, _ in said])
    for atom in (0, len(base.frame) - 1):
        assert np.allclose(found.force_covariance[atom], np.cov(forces[:, atom].T), rtol=1e-9)
    assert np.allclose(found.energy_variance, energy.var(0, ddof=1))
    assert np.allclose(found.force_error, forces.mean(0) - block.forces[real])
    assert np.allclose(found.energy_error, energy.mean(0) - block.energy)
    assert np.array_equal(found.distance, base.distance)
    with pytest.raises(ConfigError, match="an ensemble of 1"):
        ensemble(members[:1])


@pytest.mark.parametrize("kind", ["last", "llpr"])
def test_a_posterior_of_less_is_another_one(kind: str, data: ArrayDataset, base: Predictions) -> None:
    method, layer = last_layer(build_model("conservative"), data, kind)
    assert layer.energy.width == build_model("conservative").config.num_readout
    found = method.predict(data, base)
    assert np.allclose(found.force_error, base.force_error)
    assert found.energy_variance.mean() > 0
    assert not np.allclose(found.force_covariance, base.force_covariance, rtol=0.1)


def test_atomic_features_add_up_to_those_of_the_molecule(data: ArrayDataset) -> None:
    model, block = build_model("conservative"), data.frames()
    edges = Batch.from_frames(block, CUTOFF, dtype=torch.float64, neighbors="torch")
    whole = model(edges)["features"][:, : model.config.num_readout]
    atoms = atom_features(model, edges)
    assert torch.allclose(torch.zeros_like(whole).index_add(0, edges.batch, atoms), whole, rtol=1e-10)
    same = block.take([0, 4])  # two structures of five atoms, none padded
    padded = Batch.from_frames(same, CUTOFF, dtype=torch.float64)
    unpadded = Batch.from_frames(same, CUTOFF, dtype=torch.float64, neighbors="torch")
    assert torch.allclose(atom_features(model, _without_padding(padded)), atom_features(model, unpadded), rtol=1e-9)
    with pytest.raises(ModelError, match="without padding"):
        atom_features(model, padded)


def test_distances_are_one_on_average_in_training_and_grow_outside() -> None:
    model = build_model("conservative")
    train = ArrayDataset(random_frames((6,) * 40, seed=3))
    fitted, layer = last_layer(model, train)
    base = fitted.predict(train, None)  # type: ignore[arg-type]
    gmm = gaussians(model, train)
    found = gmm.predict(train, base)
    atoms = np.trace(found.force_covariance, axis1=1, axis2=2) / 3
    for z in np.unique(base.numbers):
        assert atoms[base.numbers == z].mean() == pytest.approx(1.0, rel=1e-6)
    whole = mahalanobis(model, layer.distance).predict(train, base)
    assert whole.energy_variance.mean() == pytest.approx(1.0, rel=1e-6)
    assert np.allclose(whole.force_covariance, base.distance[base.frame][:, None, None] * np.eye(3))
    block = train.frames()
    near = ArrayDataset(replace(block, positions=0.8 * block.positions))
    squeezed = gmm.predict(near, base)
    assert squeezed.energy_variance.mean() > 3 * found.energy_variance.mean()


def test_every_method_can_be_timed(data: ArrayDataset) -> None:
    model = build_model("conservative")
    fitted, layer = last_layer(model, data)
    methods = [fitted, ensemble([model, another(0)]), gaussians(model, data)]
    methods.append(mahalanobis(model, layer.distance))
    batch = Batch.from_frames(data.frames([0, 4]), CUTOFF, dtype=torch.float64)
    for method in methods:
        assert method.step(batch) is not None
