"""The model's own runs: when they state a halt threshold, and when they must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from equimd.data.dataset import Dataset
from equimd.data.frames import Frames
from equimd.guard.score import StepDecision
from equimd.run import Run
from equimd.tasks.calibrate.dynamics import (
    Early,
    OwnRuns,
    make_integrator,
    run_own_dynamics,
    same_system,
    start_rows,
    verdict,
)
from equimd.tasks.calibrate.sigmas import Part, recalibrate, set_screen
from equimd.tasks.calibrate.task import meaningless
from equimd.uq.laplace import fit_last_layers
from equimd.uq.predict import predict
from tests.tasks.calibrate.conftest import settings
from tests.training.toy import toy_frames


def own(scores: np.ndarray, broken: tuple[str, ...] = ()) -> OwnRuns:
    return OwnRuns(scores, broken, 0.0, 300.0, 1.0)


def test_the_threshold_is_the_conformal_quantile_of_the_maxima() -> None:
    rng = np.random.default_rng(0)
    scores, reference = rng.gamma(4.0, size=(19, 500)), rng.gamma(4.0, size=400)
    found = verdict(own(scores), reference, 0.0, settings(blocks=19, run_length=500))
    assert found.refused is None and found.threshold is not None
    assert found.threshold.value == np.sort(scores.max(1))[17]  # k = ceil(20 * 0.9)
    assert (found.threshold.n_blocks, found.threshold.run_length) == (19, 500)
    high = verdict(own(scores), reference, 100.0, settings(blocks=19, run_length=500))
    assert high.threshold is not None and high.threshold.value == 100.0  # quiet frames never halt


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_dynamics_unlike_the_reference_frames_states_nothing(factor: float) -> None:
    rng = np.random.default_rng(0)
    found = verdict(own(factor * rng.gamma(4.0, size=(19, 500))), rng.gamma(4.0, size=400), 0.0, settings())
    assert found.threshold is None
    assert "does not look like the held-out frames" in str(found.refused)


def test_a_few_runs_far_off_are_noticed() -> None:
    rng = np.random.default_rng(0)
    scores = rng.gamma(4.0, size=(19, 500))
    scores[:8] *= 3.0
    assert verdict(own(scores), rng.gamma(4.0, size=400), 0.0, settings()).threshold is None


def test_a_failed_physical_check_states_nothing() -> None:
    found = verdict(
        own(np.ones((9, 5)), ("atoms 0 and 1 are 0.1 Angstrom apart at step 3",)), np.ones(50), 0.0, settings()
    )
    assert found.threshold is None
    assert "in 1 of 9 runs of the model a physical check failed: atoms 0 and 1" in str(found.refused)


def test_starts_are_spread_over_the_frames() -> None:
    assert start_rows(100, 5).tolist() == [0, 25, 50, 74, 99]
    assert len(set(start_rows(100, 99).tolist())) == 99


def test_molecules_are_run_apart() -> None:
    frames = toy_frames(6, mixed=True)
    assert [rows.tolist() for rows in same_system(frames)] == [[0, 1, 3, 4], [2, 5]]


@pytest.mark.parametrize(
    ("ensemble", "key"), [("langevin", "friction_per_fs"), ("nose-hoover", "tau_fs"), ("nve", "dt_fs")]
)
def test_the_ensemble_is_the_one_asked_for(ensemble: str, key: str) -> None:
    found = make_integrator(settings(ensemble=ensemble), 300.0, 9).settings()
    assert found["ensemble"] == ensemble and key in found and found["dt_fs"] == 0.5


@pytest.fixture(scope="module")
def decision(run: Run, held_out: Dataset) -> StepDecision:
    from equimd.tasks.calibrate.frames import training_frames

    model, _ = run.load_model()
    layer, _ = fit_last_layers(model, training_frames(run))
    predictions = predict(model, layer, held_out)
    one = np.zeros(len(held_out), np.int64)
    parts = [Part.of(predictions, one, np.arange(k, len(one), 2)) for k in range(2)]
    found = recalibrate(layer, *parts)
    scored = set_screen(found.calibrated, tuple(parts), settings())
    return StepDecision(found.calibrated, scored.screen, scored.halt_level)


def test_runs_are_scored_by_the_decision(run: Run, held_out: Dataset, decision: StepDecision) -> None:
    model, _ = run.load_model()
    starts = held_out.frames(np.arange(3))
    seen = []
    every = StepDecision(decision.calibrated, decision.screen, 0.0)
    found = run_own_dynamics(
        model, every, starts, settings(run_length=8, score_every=2), 300.0, lambda *x: seen.append(x)
    )
    assert found.scores.shape == (3, 4) and np.isfinite(found.scores).all() and found.exact_share == 1.0
    quiet = StepDecision(decision.calibrated, decision.screen, 1e9)
    other = run_own_dynamics(model, quiet, starts, settings(run_length=8, score_every=2), 300.0)
    assert other.exact_share == 0.0
    # a run is the same whatever judges it, and whoever runs beside it
    alone = run_own_dynamics(model, every, starts, settings(run_length=8, score_every=4), 300.0)
    np.testing.assert_allclose(alone.scores, found.scores[:, 1::2], rtol=1e-4)


def test_a_lower_level_changes_no_score_and_tells_the_highest_ones_of_its_own(
    run: Run, held_out: Dataset, decision: StepDecision
) -> None:
    model, _ = run.load_model()
    starts, short = held_out.frames(np.arange(3)), settings(run_length=40)
    quiet = run_own_dynamics(model, replace(decision, level=1e9), starts, short, 300.0).scores
    high, low = (replace(decision, level=float(np.quantile(quiet, share))) for share in (0.8, 0.2))
    alone, both = (run_own_dynamics(model, high, starts, short, 300.0, low=x) for x in (None, low.level))
    below = run_own_dynamics(model, low, starts, short, 300.0)
    assert np.array_equal(both.scores, alone.scores), "to the digit, and so is the threshold of them"
    assert alone.low is None and 0.1 < both.exact_share == alone.exact_share < 0.3 < below.exact_share
    np.testing.assert_allclose(both.low, below.scores.max(1), rtol=1e-4)
    assert not np.array_equal(below.scores, both.scores)
    joined = both.joined(both)
    assert joined.low is not None and len(joined.low) == 6 and both.joined(alone).low is None


def test_the_first_runs_may_be_enough_and_are_not_made_again(
    run: Run, held_out: Dataset, decision: StepDecision
) -> None:
    model, _ = run.load_model()
    exact, starts = StepDecision(decision.calibrated, decision.screen, 0.0), held_out.frames(np.arange(5))
    short, seen = settings(run_length=6), []

    def made(enough: bool) -> OwnRuns:
        def told(maxima: np.ndarray) -> bool:
            seen.append(maxima)
            return enough

        return run_own_dynamics(model, exact, starts, short, 300.0, early=Early(2, told))

    at_once = run_own_dynamics(model, exact, starts, short, 300.0)
    np.testing.assert_allclose(made(True).scores, at_once.scores[:2], rtol=1e-4)
    np.testing.assert_allclose(made(False).scores, at_once.scores, rtol=1e-4)
    assert [len(maxima) for maxima in seen] == [2, 2]
    assert run_own_dynamics(model, exact, starts, short, 300.0, early=Early(5, made)).scores.shape == (5, 6)


def test_a_threshold_as_large_as_forces_means_nothing() -> None:
    frames = toy_frames(20)
    largest = np.linalg.norm(frames.forces, axis=-1).max()
    assert meaningless(0.9 * largest, frames) is None
    assert f"no force of the held-out frames is above {largest:.3g} eV/A" in str(meaningless(1.1 * largest, frames))


def test_a_run_that_flies_apart_ends_everything(run: Run, held_out: Dataset, decision: StepDecision) -> None:
    model, _ = run.load_model()
    hot = settings(run_length=200, dt=1.0)
    found = run_own_dynamics(model, decision, held_out.frames(np.arange(2)), hot, 2e5)
    assert found.broken and " at step " in found.broken[0]
    assert np.isnan(found.scores).any()


def test_several_molecules(run: Run, decision: StepDecision) -> None:
    model, _ = run.load_model()
    water = toy_frames(1, seed=3)
    other = Frames.build(np.array([1, 1, 8]), water.positions[:, [1, 2, 0]])
    both = Frames.concatenate([water, other])
    found = run_own_dynamics(model, decision, both, settings(run_length=4), 300.0)
    assert np.isfinite(found.scores).all()
