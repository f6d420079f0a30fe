"""The decision of every step: what the screen is, what it clears, and that the rest has the exact score."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch

from equimd.data.frames import Frames
from equimd.errors import UncertaintyError
from equimd.guard.score import StepDecision, exact_scores
from equimd.guard.screen import Screen
from equimd.uq.recalibration import FORMS, Recalibration
from tests.guard.calibrated import fit, screened
from tests.uq.conftest import build_model, random_frames

MANY = (5, 7, 4) * 12


@cache
def fitted(forces: str):
    return fit(build_model(forces), random_frames(MANY, seed=8), random_frames(MANY, seed=9))


@pytest.fixture
def parts(model):
    return fitted(model.config.forces)


def test_the_screen_finds_the_law_it_was_fitted_to() -> None:
    rng = np.random.default_rng(0)
    v, u = rng.lognormal(-3, 1, 200), rng.lognormal(0, 0.7, 200)
    f = 0.2 * v**0.4 * u**0.3 * np.exp(0.05 * rng.normal(size=200))
    screen = Screen.fit(v, u, f)
    assert (np.exp(screen.intercept), screen.energy_power, screen.distance_power) == pytest.approx(
        (0.2, 0.4, 0.3), abs=0.03
    )
    assert screen.spread == pytest.approx(0.05, rel=0.15)
    assert screen.n_frames == 200
    found = screen.of(torch.from_numpy(v), torch.from_numpy(u)).numpy()
    assert np.log(f / found).std() == pytest.approx(screen.spread, rel=0.02)
    assert Screen.from_json(json.loads(json.dumps(screen.to_json()))) == screen


def test_the_screen_never_falls_where_variance_or_distance_grow() -> None:
    """Two columns that say the same: plain least squares would take one of them with a negative power."""
    rng = np.random.default_rng(1)
    v = rng.lognormal(0, 1, 300)
    u = v * np.exp(0.01 * rng.normal(size=300))
    screen = Screen.fit(v, u, v**2 / u)
    assert screen.energy_power >= 0
    assert screen.distance_power >= 0
    assert screen.energy_power + screen.distance_power == pytest.approx(1.0, abs=0.05)


def test_what_a_screen_cannot_be_fitted_to() -> None:
    ones = np.ones(30)
    with pytest.raises(UncertaintyError, match="19 frames"):
        Screen.fit(ones[:19], ones[:19], ones[:19])
    for bad in (0.0, np.nan, np.inf):
        broken = ones.copy()
        broken[3] = bad
        with pytest.raises(UncertaintyError, match="1 of 30 feature distances"):
            Screen.fit(ones, broken, ones)
    with pytest.raises(UncertaintyError, match="spread"):
        Screen.from_json({"intercept": 0.0, "energy_power": 1.0, "distance_power": 0.0, "n_frames": 20})


@pytest.mark.parametrize("form", FORMS)
def test_sigma_of_atoms_is_that_of_the_calibrated_covariance(form: str) -> None:
    rng = np.random.default_rng(2)
    root = rng.normal(size=(40, 3, 3))
    covariance, u, z = root @ root.mT, rng.lognormal(0, 1, 40), rng.choice([1, 6, 8, 9], 40)
    recalibration = Recalibration(
        form,
        scale={0: 0.7, 1: 0.5, 6: 2.0, 8: 3.0} if FORMS[form].per_element else {0: 0.7},
        noise={0: 0.1, 1: 0.2, 6: 0.3, 8: 0.4} if FORMS[form].per_element else {0: 0.1},
        power=1.4 if FORMS[form].power else 1.0,
        distance_power=0.8 if FORMS[form].distance else 0.0,
        isotropic=0.3 if FORMS[form].isotropic else 0.0,
    )
    model, noise = recalibration.covariance(covariance, u, z)
    expected = np.sqrt(np.trace(model, axis1=1, axis2=2) + 3 * noise)
    variance = np.trace(covariance, axis1=1, axis2=2) / 3
    found = recalibration.sigma(*(torch.from_numpy(x) for x in (variance, u, z)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(recalibration.sigma(variance, u, z), expected, rtol=1e-12)
    padded = recalibration.sigma(torch.zeros(1), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    assert float(padded) == 0


def test_exact_scores_are_the_largest_calibrated_sigma(model, parts, frames, to_batch) -> None:
    calibrated, predictions = parts
    decision = screened(calibrated, predictions)
    batch = to_batch(frames)
    sigma = decision.force_sigma(model, batch)
    expected = calibrated(model, batch).force_std
    np.testing.assert_allclose(sigma.numpy(), expected, rtol=1e-10)
    assert (sigma[~batch.real] == 0).all()
    score, atoms = exact_scores(calibrated, predictions)
    first = np.searchsorted(predictions.frame, 4)
    n = int((predictions.frame == 4).sum())
    assert score[4] == atoms[first : first + n].max()
    c = calibrated.forces.covariance(
        predictions.force_covariance, predictions.distance[predictions.frame], predictions.numbers
    )
    np.testing.assert_allclose(atoms, np.sqrt(np.trace(c[0], axis1=1, axis2=2) + 3 * c[1]), rtol=1e-12)


def test_the_decision_does_not_turn_with_the_molecule(model, parts, frames, to_batch, rotation) -> None:
    decision = screened(*parts)
    turned = Frames(**{**vars(frames), "positions": frames.positions @ rotation.T})
    a, b = (to_batch(f) for f in (frames, turned))
    torch.testing.assert_close(decision.force_sigma(model, b), decision.force_sigma(model, a), rtol=1e-9, atol=0)
    screens = [decision.screened(model.features(x), x.n_atoms) for x in (a, b)]
    torch.testing.assert_close(screens[1], screens[0], rtol=1e-9, atol=0)


def test_quiet_frames_have_the_screen_and_stay_below_the_level(parts) -> None:
    decision = screened(*parts)
    decided = decision.of_predictions(parts[1])
    quiet = decided.screen < decision.level
    assert decided.exact_share == pytest.approx(0.2, abs=0.05)
    np.testing.assert_array_equal(decided.score[quiet], decided.screen[quiet])
    np.testing.assert_array_equal(decided.score[~quiet], decided.exact[~quiet])
    assert decided.score[quiet].max() < decision.level
    exact_everywhere = StepDecision(decision.calibrated, decision.screen, 0.0).of_predictions(parts[1])
    np.testing.assert_array_equal(exact_everywhere.score, decided.exact)
    assert exact_everywhere.missed(0.0) == (0, len(decided.score))
    missed, over = decided.missed(float(np.median(decided.exact)))
    assert over == len(decided.exact) // 2
    assert missed == int((quiet & (decided.exact > np.median(decided.exact))).sum()) > 0


def test_thresholds_below_the_level_are_refused(parts) -> None:
    decision = screened(*parts)
    assert decision.check(decision.level) == decision.level
    for threshold in (0.999 * decision.level, float("nan")):
        with pytest.raises(UncertaintyError, match="below the screen's level"):
            decision.check(threshold)
    for level in (-1.0, float("nan")):
        with pytest.raises(UncertaintyError, match="level"):
            StepDecision(decision.calibrated, decision.screen, level)
    threshold = 2.0 * decision.level
    level = decision.screen.level_for(threshold)
    assert 0 < level < threshold
    assert np.log(threshold / level) == pytest.approx(2 * decision.screen.spread)


def test_numbers_that_are_not_are_not_quiet(parts) -> None:
    decision = screened(*parts)
    p = decision.calibrated.layer.energy.scale.shape[0]
    features = torch.zeros(2, p, dtype=torch.float64)
    features[1, 0] = torch.nan
    screen = decision.screened(features, torch.tensor([5, 5]))
    assert torch.isfinite(screen).tolist() == [True, False]
    assert not bool(decision.quiet(screen)[1])


def test_the_screen_is_one_graph(parts) -> None:
    """No branch depends on values, so that a compiler takes it whole, in one graph with the network."""
    decision = screened(*parts)
    graph = torch.compile(decision.screened, fullgraph=True, backend="eager")
    features, n = torch.randn(3, decision.calibrated.layer.energy.scale.shape[0]), torch.tensor([5, 6, 7])
    torch.testing.assert_close(graph(features, n), decision.screened(features, n), rtol=1e-12, atol=0)
