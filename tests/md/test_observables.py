"""Distances, autocorrelation, drift and bonds, on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from equimd.errors import DataError
from equimd.md.observables import (
    bond_stability,
    dihedrals,
    distance_distribution,
    estimate,
    linear_drift,
    velocity_autocorrelation,
    vibrational_spectrum,
    wells,
)
from tests.dihedrals import dihedral


def test_distances_of_a_rigid_triangle() -> None:
    triangle = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    r, h = distance_distribution(np.broadcast_to(triangle, (5, 2, 3, 3)), max_distance=6.0, bins=60)
    width = r[1] - r[0]
    assert h.sum() * width == pytest.approx(1.0)
    for distance in (3.0, 4.0, 5.0):
        near = np.abs(r - distance) <= width
        assert h[near].sum() * width == pytest.approx(1 / 3)


def test_distances_of_a_gaussian_pair() -> None:
    """Two atoms, each coordinate normal with sigma: their distance is chi(3) of width sqrt(2) sigma."""
    from scipy.stats import maxwell

    x = np.random.default_rng(0).normal(0.0, 0.7, (200_000, 2, 3))
    r, h = distance_distribution(x, bins=30)
    np.testing.assert_allclose(h, maxwell.pdf(r, scale=0.7 * np.sqrt(2)), atol=0.02)


def test_autocorrelation_of_an_oscillator() -> None:
    t = np.arange(4000) * 0.5
    phases = np.random.default_rng(1).uniform(0, 2 * np.pi, (3, 2, 3))
    v = np.cos(0.2 * t[:, None, None, None] + phases)
    c = velocity_autocorrelation(v, n_lags=200)
    np.testing.assert_allclose(c, np.cos(0.2 * t[:200]), atol=0.02)


def test_spectrum_has_the_wavenumbers_and_weights_of_its_oscillators() -> None:
    time = 1.5 * np.arange(600)
    fast, slow = (np.cos(2 * np.pi * 2.99792458e-5 * k * time) for k in (3000.0, 1000.0))
    wavenumber, density = vibrational_spectrum(time, 0.75 * fast + 0.25 * slow)
    above = wavenumber > 2000
    assert wavenumber[above][density[above].argmax()] == pytest.approx(3000, abs=5)
    assert wavenumber[~above][density[~above].argmax()] == pytest.approx(1000, abs=5)
    shares = [np.clip(density[part], 0, None).sum() * wavenumber[1] for part in (above, ~above)]
    assert sum(shares) == pytest.approx(1) and shares[0] == pytest.approx(0.75, abs=0.01)
    assert wavenumber[-1] == pytest.approx(0.5 / 1.5 / 2.99792458e-5)
    with pytest.raises(DataError, match="four or more"):
        vibrational_spectrum(time[:3], fast[:3])
    with pytest.raises(DataError, match="equal steps"):
        vibrational_spectrum(time**2, fast)


def test_dihedrals_of_random_chains() -> None:
    x = np.random.default_rng(3).normal(size=(50, 6, 3))
    quartets = np.array([[0, 1, 2, 3], [5, 3, 1, 0]])
    found = dihedrals(x, quartets)
    for k, quartet in enumerate(quartets):
        assert found[:, k] == pytest.approx(dihedral(x, quartet), abs=1e-9)
    trans = np.array([[1.0, 1, 0], [0, 1, 0], [0, 0, 0], [-1, 0, 0]])
    assert abs(dihedrals(trans, quartets[:1])) == pytest.approx(180)


def test_autocorrelation_equals_the_double_sum_and_weighs_atoms() -> None:
    v = np.random.default_rng(2).normal(size=(30, 4, 3))
    weights = np.array([1.0, 12.0, 16.0, 0.0])
    direct = [(weights[:, None] * v[: 30 - k] * v[k:]).sum((1, 2)).mean() for k in range(15)]
    np.testing.assert_allclose(velocity_autocorrelation(v, weights=weights), np.array(direct) / direct[0], atol=1e-12)


def test_drift_is_exact_on_a_line() -> None:
    t = np.linspace(0.0, 100.0, 50)
    drift = linear_drift(t, 2.0 - 0.03 * t)
    assert drift.slope == pytest.approx(-0.03)
    assert drift.error < 1e-12


def test_drift_error_covers_the_truth_for_correlated_noise() -> None:
    """400 records of noise with a correlation time of 10 points: two standard errors hold for about 95 % of them."""
    rng, length, decay = np.random.default_rng(3), 2000, np.exp(-1 / 10)
    noise = rng.normal(size=(400, length)) * np.sqrt(1 - decay**2)
    x = np.zeros((400, length))
    x[:, 0] = rng.normal(size=400)
    for k in range(1, length):
        x[:, k] = decay * x[:, k - 1] + noise[:, k]
    t = np.arange(length) * 0.5
    fits = [linear_drift(t, row + 0.01 * t) for row in x]
    z = np.array([(f.slope - 0.01) / f.error for f in fits])
    # 20 blocks of unequal weight: a Student distribution of about 10 degrees of freedom, 93 % within two
    assert 0.87 < np.mean(np.abs(z) < 2.0) < 0.97
    naive = np.std([f.slope for f in fits])
    assert np.mean([f.error for f in fits]) == pytest.approx(naive, rel=0.15)


def test_bond_stability() -> None:
    frames = np.zeros((10, 2, 3, 3))
    frames[..., 1, 0], frames[..., 2, 1] = 1.0, 1.5
    frames[:, 0, 2, 1] += np.linspace(0.0, 0.9, 10)  # passes 0.5 after frame 5
    frames[7, 1, 1] = np.nan
    result = bond_stability(frames, np.array([[0, 1], [0, 2]]), np.array([1.0, 1.5]))
    assert result.stable_frames.tolist() == [6, 7]
    assert result.worst[0] == pytest.approx(0.9)
    assert result.worst_bond.tolist() == [1, 0]
    calm = bond_stability(frames[:5], np.array([[0, 1], [0, 2]]), np.array([1.0, 1.5]))
    assert calm.stable_frames.tolist() == [5, 5]
    assert bond_stability(frames, np.zeros((0, 2)), np.zeros(0)).stable_frames.tolist() == [10, 10]


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError):
        distance_distribution(np.zeros((3, 1, 3)))
    with pytest.raises(DataError):
        velocity_autocorrelation(np.zeros((10, 2, 3)))
    with pytest.raises(DataError):
        linear_drift(np.arange(5.0), np.arange(5.0))
    with pytest.raises(DataError):
        linear_drift(np.arange(20.0), np.full(20, np.nan))
    with pytest.raises(DataError):
        bond_stability(np.zeros((0, 3, 3)), np.array([[0, 1]]), np.array([1.0]))


def test_errors_of_means_hold_for_correlated_values() -> None:
    """An autoregressive process, x_t = a x_(t-1) + noise: tau = (1 + a) / (1 - a) = 19 frames."""
    rng, a = np.random.default_rng(0), 0.9
    noise = rng.normal(size=(8, 20_000))
    x = np.zeros_like(noise)
    for t in range(1, noise.shape[1]):
        x[:, t] = a * x[:, t - 1] + noise[:, t]
    found = estimate(x.ravel(), np.repeat(np.arange(8), 20_000))
    assert found.n_effective == pytest.approx(x.size / 19, rel=0.1)
    assert found.std == pytest.approx(1 / np.sqrt(1 - a * a), rel=0.03)
    assert found.error == pytest.approx(found.std * np.sqrt(19 / x.size), rel=0.1)
    assert abs(found.mean) < 4 * found.error
    assert estimate(np.array([3.0])).error == np.inf and estimate(np.array([3.0, 3.0])).error == 0
    for wrong in (np.zeros(0), np.array([1.0, np.nan])):
        with pytest.raises(DataError, match="no mean"):
            estimate(wrong)


@pytest.mark.parametrize(
    ("centres", "shares"),
    [((-60, 60, 180), (0.3, 0.2, 0.5)), ((-178,), (1.0,)), ((0, 180), (0.75, 0.25)), ((15, 100), (0.4, 0.6))],
)
def test_wells_of_torsions(centres: tuple[int, ...], shares: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    angles = np.concatenate([rng.normal(c, 12, int(8000 * s)) for c, s in zip(centres, shares, strict=True)])
    rng.shuffle(angles)
    found = wells(angles)
    off = [((w.centre - c + 180) % 360 - 180) for w, c in zip(found, sorted(centres), strict=False)]
    if centres[-1] == 180:  # which side of the cut it is on is chance
        off = [min(abs((w.centre - c + 180) % 360 - 180) for c in centres) for w in found]
    assert len(found) == len(centres) and max(map(abs, off)) < 2
    assert sum(w.population.mean for w in found) == pytest.approx(1)
    assert sorted(w.population.mean for w in found) == pytest.approx(sorted(shares), abs=0.01)


def test_rare_visits_and_noise_are_no_wells() -> None:
    rng = np.random.default_rng(2)
    angles = np.concatenate([rng.normal(60, 10, 4980), rng.normal(-60, 3, 20)])
    assert [round(w.population.mean, 3) for w in wells(angles)] == [1.0]
    assert len(wells(rng.uniform(-180, 180, 20_000))) == 1
    assert wells(np.array([5.0]))[0].population.error == np.inf
