"""Averages over draws from the posterior: an oscillator whose answers are known, and draws of a fitted potential."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import norm

from equimd.data.batch import Batch
from equimd.data.dataset import ArrayDataset
from equimd.errors import UncertaintyError
from equimd.units import KB
from equimd.uq.draws import FIRST, REWEIGHTED, SECOND, EnergyDraws, drawn_weights, energy_draws
from equimd.uq.laplace import fit_last_layers
from equimd.uq.predict import Calibrated, predict
from equimd.uq.recalibration import Recalibration

from .conftest import CUTOFF, build_model, random_frames

T, SPRING, FRAMES = 300.0, 2.0, 20_001  # K, eV/Angstrom^2
KT = KB * T
X = np.sqrt(KT / SPRING) * norm.ppf((np.arange(FRAMES) + 0.5) / FRAMES)  # what E = SPRING x^2 / 2 has at T
AS_IT_IS = Recalibration("scale", {0: 1.0}, {0: 0.0})


def oscillator(slope_sigma: float, x: np.ndarray = X, recalibration: Recalibration = AS_IT_IS) -> EnergyDraws:
    """Draws of E = SPRING x^2 / 2 + w x + 3 w, w ~ N(0, slope_sigma^2)."""
    w = slope_sigma * np.random.default_rng(1).standard_normal(50)
    reach = x + 3
    return EnergyDraws.calibrated(reach[:, None] * w, (slope_sigma * reach) ** 2, np.ones(len(x)), recalibration)


@pytest.mark.parametrize("method", [REWEIGHTED, SECOND, FIRST])
def test_an_oscillator_with_an_uncertain_slope(method: str) -> None:
    """Draw k is at rest at -w/SPRING, as wide as the model, and lower by w^2 / (2 SPRING); offsets change nothing."""
    draws = oscillator(0.5 * np.sqrt(KT * SPRING))
    w = draws.offset / (X.mean() + 3)
    found = draws.ensembles(T, method)
    np.testing.assert_allclose(found.averages(X), -w / SPRING, rtol=3e-3, atol=1e-6)
    assert found.errors(X) == pytest.approx(w.std() / SPRING, rel=2e-3)
    square = found.averages(X**2)
    if method == FIRST:
        np.testing.assert_allclose(square, KT / SPRING, rtol=2e-3)
    else:
        np.testing.assert_allclose(square, KT / SPRING + (w / SPRING) ** 2, rtol=0.02)
    plain, varying = found.energy_errors(0.5 * SPRING * X**2)
    if method == REWEIGHTED:
        assert varying == pytest.approx((w**2 / (2 * SPRING)).std(), rel=0.01)
        assert plain == pytest.approx((3 * w - w**2 / (2 * SPRING)).std(), rel=0.01)
    np.testing.assert_allclose(found.weights.sum(0), 1, rtol=1e-12)
    assert found.averages(np.stack([X, 2 * X], 1).reshape(-1, 1, 2)).shape == (50, 1, 2)


def test_effective_frames_decide_which_way() -> None:
    """A draw whose energies scatter by s kT leaves exp(-s^2) of the frames."""
    for size, method in ((0.1, REWEIGHTED), (0.8, REWEIGHTED), (3.0, FIRST)):
        draws = oscillator(size * np.sqrt(KT * SPRING))
        found = draws.ensembles(T)
        assert found.method == method
        s = draws.energy.std(0) / KT
        ordinary = s < 1.2  # beyond, the few frames of the tail decide
        np.testing.assert_allclose(found.share[ordinary], np.exp(-(s[ordinary] ** 2)), rtol=0.05)
    few = oscillator(0.5 * np.sqrt(KT * SPRING), X[:: FRAMES // 40])
    assert few.ensembles(T).method == SECOND, "too few frames to reweight, whatever their weights"


def test_recalibration_scales_every_frame() -> None:
    twice = Recalibration("scale", {0: 4.0}, {0: 0.0})
    np.testing.assert_allclose(oscillator(0.1, recalibration=twice).energy, 2 * oscillator(0.1).energy, rtol=1e-12)
    noisy = Recalibration("scale", {0: 0.0}, {0: 0.2})
    draws = oscillator(0.1, recalibration=noisy)
    np.testing.assert_allclose(np.abs(draws.energy + draws.offset).std(0), 0, atol=1e-12)
    assert np.abs(draws.offset).max() == pytest.approx(0.2 * np.abs(oscillator(0.1).offset / 0.3).max())


def test_the_order_of_the_frames_does_not_matter() -> None:
    rows = np.random.default_rng(0).permutation(FRAMES)
    for size in (0.5, 3.0):
        slope = size * np.sqrt(KT * SPRING)
        one, other = (oscillator(slope, x).ensembles(T) for x in (X, X[rows]))
        assert one.method == other.method
        for values in (X, X**2, X > 0.1):
            assert other.errors(values[rows]) == pytest.approx(float(one.errors(values)), rel=1e-8)


def test_draws_of_a_potential() -> None:
    """Energies of draws are those of the model with the drawn weights, and scatter by the calibrated sigma."""
    model, frames = build_model("conservative"), random_frames((6,) * 24, seed=3)
    layer, _ = fit_last_layers(model, ArrayDataset(frames), all_layers=False)
    held_out, told = random_frames((5,) * 30, seed=4), []
    drawn = energy_draws(
        model,
        Calibrated(layer, AS_IT_IS, AS_IT_IS),
        ArrayDataset(held_out),
        count=3,
        progress=lambda *x: told.append(x),
    )
    batch = Batch.from_frames(held_out, CUTOFF, dtype=torch.float64)
    for k, step in enumerate(drawn_weights(layer.energy, 3).T):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.last_layer.weight += step
        change = (other.evaluate(batch)["energy"] - model.evaluate(batch)["energy"]).numpy()
        np.testing.assert_allclose(drawn.energy[:, k] + drawn.offset[k], change, rtol=1e-6, atol=1e-9)
    assert told == [(30, 30)]
    form = Recalibration("power_distance", {0: 3.0}, {0: 0.02}, power=1.2, distance_power=0.3)
    many = energy_draws(model, Calibrated(layer, form, form), ArrayDataset(held_out), count=4000)
    raw = predict(model, layer, ArrayDataset(held_out))
    sigma = np.sqrt(np.sum(form.variance(raw.energy_variance, raw.distance), axis=0))
    np.testing.assert_allclose((many.energy + many.offset).std(1), sigma, rtol=0.06)


def test_what_is_refused() -> None:
    with pytest.raises(UncertaintyError, match="energies of 1 frames"):
        oscillator(0.1, X[:1])
    with pytest.raises(UncertaintyError, match="no ensemble to reweight"):
        oscillator(0.1).ensembles(0.0)
