"""Forms of calibration: the parameters that made the errors are found, and held-out likelihood picks the right form."""

from __future__ import annotations

import json

import numpy as np
import pytest

from equimd.errors import UncertaintyError
from equimd.uq import metrics
from equimd.uq.recalibration import FORMS, Recalibration, _Likelihood, compare_forms, fit_form
from equimd.uq.samples import Samples


def raw_forces(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw covariances, feature distances and elements of n atoms."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, 3, 3)) * np.exp(0.7 * rng.normal(size=n))[:, None, None]
    return 1e-4 * (a @ a.transpose(0, 2, 1)), np.exp(0.8 * rng.normal(size=n)), rng.choice([1, 6, 8], n)


def draw(truth: Recalibration, n: int, seed: int = 0) -> Samples:
    """Raw covariances beside errors that the calibrated ones describe."""
    raw, distance, element = raw_forces(n, seed)
    model, noise = truth.covariance(raw, distance, element)
    root = np.linalg.cholesky(model + noise[:, None, None] * np.eye(3))
    error = np.einsum("mij,mj->mi", root, np.random.default_rng(seed + 1).normal(size=(n, 3)))
    return Samples.build(error, raw, distance=distance, element=element)


TRUTHS = {
    "scale": Recalibration("scale", {0: 400.0}, {0: 0.05}),
    "power": Recalibration("power", {0: 3.0}, {0: 0.1}, power=0.5),
    "distance": Recalibration("distance", {0: 400.0}, {0: 0.05}, distance_power=1.5),
    "distance_total": Recalibration("distance_total", {0: 400.0}, {0: 0.1}, distance_power=1.2),
    "power_distance": Recalibration("power_distance", {0: 4.0}, {0: 0.1}, power=0.6, distance_power=1.0),
    "isotropic_distance_total": Recalibration(
        "isotropic_distance_total", {0: 400.0}, {0: 0.05}, distance_power=1.0, isotropic=0.5
    ),
    "per_element": Recalibration(
        "per_element", {0: 1.0, 1: 100.0, 6: 400.0, 8: 900.0}, {0: 1.0, 1: 0.02, 6: 0.05, 8: 0.1}
    ),
    "per_element_distance_total": Recalibration(
        "per_element_distance_total",
        {0: 1.0, 1: 100.0, 6: 400.0, 8: 900.0},
        {0: 1.0, 1: 0.02, 6: 0.05, 8: 0.1},
        distance_power=1.3,
    ),
    "per_element_power_distance_total": Recalibration(
        "per_element_power_distance_total",
        {0: 1.0, 1: 1.0, 6: 3.0, 8: 6.0},
        {0: 1.0, 1: 0.02, 6: 0.05, 8: 0.1},
        power=0.6,
        distance_power=1.3,
    ),
}


def test_every_form_is_tried() -> None:
    assert TRUTHS.keys() == FORMS.keys()


@pytest.mark.parametrize("name", FORMS)
def test_the_parameters_that_made_the_errors_are_found(name: str) -> None:
    truth = TRUTHS[name]
    found = fit_form(draw(truth, 6000), name)
    assert found.power == pytest.approx(truth.power, abs=0.1)
    assert found.distance_power == pytest.approx(truth.distance_power, abs=0.1)
    assert found.isotropic == pytest.approx(truth.isotropic, abs=0.1)
    for z in truth.scale.keys() - ({0} if FORMS[name].per_element else set()):
        assert found.noise[z] == pytest.approx(truth.noise[z], rel=0.2)
        if truth.power == 1.0:  # with a free power the scale goes with it
            assert found.scale[z] == pytest.approx(truth.scale[z], rel=0.2)
    fresh = found.apply(draw(truth, 4000, seed=7))
    assert metrics.zms(fresh) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", FORMS)
def test_gradient_of_the_likelihood(name: str) -> None:
    likelihood = _Likelihood(draw(TRUTHS["distance"], 300), FORMS[name])
    theta = likelihood.start(0.3) + 0.1 * np.random.default_rng(0).normal(size=2 * likelihood.k + 3)
    theta[-1] = 0.3
    gradient = likelihood(theta)[1]
    for k in range(len(theta)):
        step = np.zeros(len(theta))
        step[k] = 1e-6
        numeric = (likelihood(theta + step)[0] - likelihood(theta - step)[0]) / 2e-6
        assert gradient[k] == pytest.approx(numeric, rel=1e-5, abs=1e-8)


def test_likelihood_is_the_negative_log_likelihood_of_the_metrics() -> None:
    samples = draw(TRUTHS["distance"], 200)
    likelihood = _Likelihood(samples, FORMS["power_distance"])
    theta = likelihood.start(0.4)
    theta[-3:] = [0.2, 0.7, 0.0]
    expected = metrics.nll(likelihood.result(theta).apply(samples))
    constant = 0.5 * np.log(2 * np.pi * likelihood.unit_r)
    assert likelihood(theta)[0] + constant == pytest.approx(expected, rel=1e-12)


def test_scale_alone_is_the_mean_squared_z() -> None:
    """Where the raw covariances are right up to a factor, a is that factor: the mean squared z."""
    samples = draw(Recalibration("scale", {0: 400.0}, {0: 1e-9}), 3000)
    found = fit_form(samples, "scale")
    assert found.scale[0] == pytest.approx(metrics.zms(samples), rel=0.02)
    assert metrics.zms(found.apply(samples)) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", ["scale", "distance_total", "per_element"])
def test_held_out_likelihood_picks_the_form(name: str) -> None:
    truth = TRUTHS[name]
    found = compare_forms(draw(truth, 3000), draw(truth, 3000, seed=50), resamples=50)
    best = FORMS[found.best.form]
    assert best.per_element or not FORMS[name].per_element
    assert best.distance or not FORMS[name].distance
    assert found.behind[found.best.form] == (0.0, 0.0, 0.0)
    assert found.behind[name][0] < 2e-3  # the true form is the best, or as good
    assert min(found.held_out.values()) == found.held_out[found.best.form]
    if name != "scale":
        assert found.behind["scale"][1] > 0  # clearly worse


def test_energies_are_scalars() -> None:
    rng = np.random.default_rng(0)
    raw, distance = 1e-6 * np.exp(rng.normal(size=3000)), np.exp(rng.normal(size=3000))
    error = rng.normal(size=3000) * np.sqrt(90.0 * raw * distance + 0.01**2)
    found = compare_forms(
        Samples.build(error[:1500], raw[:1500], distance=distance[:1500]),
        Samples.build(error[1500:], raw[1500:], distance=distance[1500:]),
        resamples=20,
    )
    assert not any(FORMS[n].per_element or FORMS[n].isotropic for n in found.fitted)
    assert found.fitted["distance"].distance_power == pytest.approx(1.0, abs=0.25)
    model, noise = found.fitted["distance"].variance(raw, distance)
    assert np.sqrt(noise[0]) == pytest.approx(0.01, rel=0.2)
    assert np.mean(error**2 / (model + noise)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("name", FORMS)
def test_calibrated_covariances_turn_with_the_molecule(name: str) -> None:
    raw, distance, element = raw_forces(50)
    q, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    model, noise = TRUTHS[name].covariance(raw, distance, element)
    turned, same = TRUTHS[name].covariance(q @ raw @ q.T, distance, element)
    np.testing.assert_allclose(turned, q @ model @ q.T, rtol=0, atol=1e-12 * np.abs(model).max())
    np.testing.assert_array_equal(noise, same)


@pytest.mark.parametrize("name", FORMS)
def test_samples_and_covariances_agree(name: str) -> None:
    raw, distance, element = raw_forces(40)
    error = np.random.default_rng(0).normal(size=(40, 3))
    truth = TRUTHS[name]
    model, noise = truth.covariance(raw, distance, element)
    direct = Samples.build(error, model + noise[:, None, None] * np.eye(3), distance=distance, element=element)
    applied = truth.apply(Samples.build(error, raw, distance=distance, element=element))
    np.testing.assert_allclose(applied.variance, direct.variance, rtol=1e-9)
    np.testing.assert_allclose(applied.chi2, direct.chi2, rtol=1e-9)


def test_json_round_trip() -> None:
    for truth in TRUTHS.values():
        assert Recalibration.from_json(json.loads(json.dumps(truth.to_json()))) == truth
    with pytest.raises(UncertaintyError, match="unknown form"):
        Recalibration.from_json({"form": "magic", "scale": {}, "noise": {}})


def test_an_element_not_seen_gets_the_typical_scale() -> None:
    found = fit_form(draw(TRUTHS["per_element"], 2000), "per_element")
    assert found.scale.keys() == {0, 1, 6, 8}
    assert min(found.scale[z] for z in (1, 6, 8)) < found.scale[0] < max(found.scale[z] for z in (1, 6, 8))
    raw, distance, _ = raw_forces(3)
    model, noise = found.covariance(raw, distance, np.array([7, 7, 7]))
    assert np.isfinite(model).all()
    assert np.allclose(noise, found.noise[0] ** 2)


def test_what_cannot_be_fitted_is_refused() -> None:
    few = draw(TRUTHS["scale"], 10)
    with pytest.raises(UncertaintyError, match="takes 20"):
        fit_form(few, "scale")
    with pytest.raises(UncertaintyError, match="no form"):
        fit_form(draw(TRUTHS["scale"], 50), "magic")
    with pytest.raises(UncertaintyError, match="all raw variances are zero"):
        fit_form(Samples.build(np.ones(30), np.zeros(30)), "scale")
    with pytest.raises(UncertaintyError, match="all errors are zero"):
        fit_form(Samples.build(np.zeros(30), np.ones(30)), "scale")


def test_a_form_that_fails_does_not_stop_the_others() -> None:
    samples = draw(TRUTHS["scale"], 200)
    rare = Samples(**{**vars(samples), "element": np.where(np.arange(200) < 3, 8, 1)})
    found = compare_forms(rare, rare, resamples=10)
    assert found.failed.keys() == {name for name, form in FORMS.items() if form.per_element}
    assert found.best.form in found.fitted
