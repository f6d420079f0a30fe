"""The report: rates against a threshold by counting, and the keys that scripts rely on."""

from __future__ import annotations

import numpy as np
import pytest

from equimd.tasks.calibrate.quality import alarms, quality
from equimd.tasks.calibrate.sigmas import take
from equimd.uq.predict import Predictions
from equimd.uq.samples import Samples

METRICS = {"zms", "nll", "crps", "ence", "miscalibration_area", "spearman", "sharpness"}
COVERAGE = {f"coverage_{level}" for level in (50, 68, 90, 95)}


def test_rates_by_counting() -> None:
    error = np.arange(100.0)
    found = alarms(error.copy(), error, error)  # a score that is the error itself
    assert found["n_bad"] == 20 and found["bad_above"] == 80.0
    assert found["auroc"] == 1.0
    for t, false, missed in zip(found["threshold"], found["false_alarms"], found["missed"], strict=True):
        assert false == pytest.approx(np.mean(np.arange(80) > t))
        assert missed == pytest.approx(np.mean(np.arange(80, 100) <= t))


def test_enough_bad_frames_leave_the_quantile_alone() -> None:
    error = np.linspace(0, 10, 5000)
    found = alarms(error, error, np.linspace(0, 1, 500))
    assert found["bad_above"] == pytest.approx(0.99, abs=1e-6)
    assert found["bad_quantile"] == pytest.approx(0.99, abs=5e-3)


def test_quality_of_errors_that_are_as_stated() -> None:
    rng = np.random.default_rng(0)
    sigma = np.exp(rng.normal(size=4000))
    found = quality(Samples.build(sigma * rng.normal(size=4000), sigma**2))
    assert set(found) >= METRICS | COVERAGE
    curve = found["coverage_curve"]
    np.testing.assert_allclose(curve["observed"], curve["nominal"], atol=0.03)
    bins = found["error_against_sigma"]
    np.testing.assert_allclose(bins["rmse"], bins["sigma"], rtol=0.25)
    assert sum(bins["counts"]) == 4000
    low, high = found["intervals"]["zms"]
    assert low < 1 < high


def test_taking_frames_keeps_atoms_with_them() -> None:
    n_atoms = np.array([2, 1, 3])
    frame = np.repeat(np.arange(3), n_atoms)
    atoms = np.arange(6.0)
    all_of = Predictions(
        np.arange(3.0), np.stack([atoms] * 3, 1), np.ones(3), atoms[:, None, None] * np.eye(3), np.ones(3),
        atoms.astype(int), frame,
    )  # fmt: skip
    found = take(all_of, np.array([2, 0]))
    assert found.numbers.tolist() == [3, 4, 5, 0, 1]
    assert found.frame.tolist() == [0, 0, 0, 1, 1]
    assert found.energy_error.tolist() == [2.0, 0.0]
    np.testing.assert_array_equal(found.force_error[:, 0], [3, 4, 5, 0, 1])
