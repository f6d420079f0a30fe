"""Errors and uncertainties of a data set, per frame and per atom, raw and calibrated."""

from __future__ import annotations

import numpy as np
import pytest

from equimd.data.dataset import ArrayDataset
from equimd.data.frames import Frames
from equimd.errors import UncertaintyError
from equimd.uq import metrics
from equimd.uq.laplace import fit_last_layers
from equimd.uq.predict import Calibrated, predict
from equimd.uq.recalibration import Recalibration, fit_form


@pytest.fixture
def layer(model, dataset):
    return fit_last_layers(model, dataset)[0]


def test_every_frame_and_atom_in_the_order_of_the_data(model, layer, frames, dataset, to_batch) -> None:
    done: list[tuple[int, int]] = []
    found = predict(model, layer, dataset, batch_size=3, progress=lambda *counts: done.append(counts))
    assert done[-1] == (8, 8)
    first = np.concatenate([[0], np.cumsum(frames.n_atoms)])
    for k in range(len(frames)):
        batch = to_batch(frames.take([k]))
        out, raw, atoms = model(batch), layer.raw(model, batch), slice(first[k], first[k + 1])
        assert found.energy_error[k] == pytest.approx(out["energy"].item() - frames.energy[k], abs=1e-9)
        expected = out["forces"].numpy() - frames.forces[k, : frames.n_atoms[k]]
        np.testing.assert_allclose(found.force_error[atoms], expected, rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.force_covariance[atoms], raw.force_covariance.numpy(), rtol=1e-8, atol=1e-12)
        assert found.energy_variance[k] == pytest.approx(raw.energy_variance.item(), rel=1e-9)
        assert found.distance[k] == pytest.approx(raw.distance.item(), rel=1e-8)
        np.testing.assert_array_equal(found.numbers[atoms], frames.numbers[k, : frames.n_atoms[k]])
        assert (found.frame[atoms] == k).all()
        lengths = np.linalg.norm(expected, axis=1)
        largest, atom = found.per_frame(np.linalg.norm(found.force_error, axis=1))
        assert largest[k] == pytest.approx(lengths.max())
        assert atom[k] == lengths.argmax()
    assert found.max_force_error.shape == (8,)


def test_unlabelled_frames_are_no_samples(conservative, dataset, frames) -> None:
    layer = fit_last_layers(conservative, dataset)[0]
    energy, forces = frames.energy.copy(), frames.forces.copy()
    energy[2], forces[5] = np.nan, np.nan
    found = predict(conservative, layer, ArrayDataset(Frames(**{**vars(frames), "energy": energy, "forces": forces})))
    assert len(found.energies()) == 7
    samples = found.forces(group=np.arange(8) // 2)
    assert len(samples) == frames.n_atoms.sum() - frames.n_atoms[5]
    assert set(samples.group) == {0, 1, 2, 3}
    with pytest.raises(UncertaintyError, match="no frames"):
        predict(conservative, layer, ArrayDataset(frames.take([])))


def test_calibrated_uncertainty_splits_into_model_and_noise(model, layer, frames, dataset, to_batch) -> None:
    found = predict(model, layer, dataset)
    energy = Recalibration("distance", {0: 3.0}, {0: 0.2}, distance_power=0.5)
    forces = fit_form(found.forces(), "scale")
    batch = to_batch(frames)
    out = Calibrated(layer, energy, forces)(model, batch)
    raw = layer.raw(model, batch)
    variance = 3.0 * raw.energy_variance.numpy() * raw.distance.numpy() ** 0.5
    np.testing.assert_allclose(out.energy_model, variance, rtol=1e-10)
    np.testing.assert_allclose(out.energy_std, np.sqrt(variance + 0.04), rtol=1e-10)
    real = batch.atomic_numbers.numpy() > 0
    assert not out.force_std[~real].any()
    np.testing.assert_allclose(out.component_std**2, np.diagonal(out.force_covariance, axis1=1, axis2=2), rtol=1e-10)
    np.testing.assert_allclose(out.force_std**2, (out.component_std**2).sum(1), rtol=1e-10)
    calibrated = forces.apply(found.forces())
    np.testing.assert_allclose(out.force_std[real] ** 2, 3 * calibrated.sigma**2, rtol=1e-8)
    assert metrics.zms(calibrated) == pytest.approx(1.0, abs=0.2)
