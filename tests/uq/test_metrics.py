"""Every metric against a closed form, an exact case or its definition spelled out."""

from __future__ import annotations

import numpy as np
import pytest

from equimd.errors import UncertaintyError
from equimd.uq import metrics
from equimd.uq.samples import Samples

RNG = np.random.default_rng(0)


def random_covariances(n: int, rng: np.random.Generator) -> np.ndarray:
    a = rng.normal(size=(n, 3, 3))
    return a @ a.transpose(0, 2, 1) + 0.1 * np.eye(3)


def gaussian_forces(n: int, scale: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Errors drawn from their covariances, times ``scale``."""
    rng = np.random.default_rng(seed)
    covariance = random_covariances(n, rng) * np.exp(rng.normal(size=n))[:, None, None]
    error = np.einsum("mij,mj->mi", np.linalg.cholesky(covariance), rng.normal(size=(n, 3)))
    return scale * error, covariance


def test_principal_axes_keep_the_quadratic_form() -> None:
    error, covariance = gaussian_forces(50)
    samples = Samples.build(error, covariance)
    direct = np.einsum("mi,mij,mj->m", error, np.linalg.inv(covariance), error)
    np.testing.assert_allclose(samples.chi2, direct, rtol=1e-9)
    np.testing.assert_allclose(samples.size, np.linalg.norm(error, axis=1), rtol=1e-12)
    np.testing.assert_allclose(samples.sigma, np.sqrt(np.trace(covariance, axis1=1, axis2=2) / 3), rtol=1e-12)


def test_zms_and_coverage_by_their_definition() -> None:
    from scipy.stats import chi2

    error, covariance = gaussian_forces(200)
    samples = Samples.build(error, covariance)
    z2 = np.einsum("mi,mij,mj->m", error, np.linalg.inv(covariance), error)
    assert metrics.zms(samples) == pytest.approx(z2.mean() / 3)
    for level in (0.5, 0.95):
        assert metrics.coverage(samples, level) == np.mean(z2 <= chi2.ppf(level, 3))
    flat = Samples.build(np.array([0.5, -1.5, 3.0]), np.array([1.0, 1.0, 4.0]))
    assert metrics.zms(flat) == pytest.approx((0.25 + 2.25 + 2.25) / 3)
    assert metrics.coverage(flat, 0.68) == pytest.approx(1 / 3)


def test_nll_is_that_of_the_multivariate_normal() -> None:
    from scipy.stats import multivariate_normal

    error, covariance = gaussian_forces(20)
    expected = -np.mean([multivariate_normal.logpdf(e, np.zeros(3), c) for e, c in zip(error, covariance, strict=True)])
    assert metrics.nll(Samples.build(error, covariance)) == pytest.approx(expected / 3)


@pytest.mark.parametrize("error", [0.0, 0.7, -2.5])
def test_crps_is_the_integral_it_stands_for(error: float) -> None:
    from scipy.special import ndtr

    sigma = 1.3
    x = np.linspace(-40, 40, 2_000_001)
    expected = np.trapezoid((ndtr(x / sigma) - (x >= error)) ** 2, x)
    assert metrics.crps(Samples.build(np.array([error]), np.array([sigma**2]))) == pytest.approx(expected, rel=1e-4)


def test_ence_where_errors_are_a_multiple_of_sigma() -> None:
    sigma = np.exp(RNG.normal(size=1000))
    for factor in (1.0, 0.8, 1.5):
        samples = Samples.build(factor * sigma * RNG.choice([-1, 1], 1000), sigma**2)
        assert metrics.ence(samples) == pytest.approx(abs(1 - factor))
    predicted, observed, counts = metrics.reliability(samples)
    np.testing.assert_allclose(observed, 1.5 * predicted)
    assert counts.tolist() == [50] * 20
    assert (np.diff(predicted) > 0).all()


def test_ence_of_a_perfect_model_is_its_sampling_error() -> None:
    n = 20_000
    samples = Samples.build(*gaussian_forces(n))
    assert metrics.ence(samples) < 3 * np.sqrt(20 / (np.pi * 3 * n))


def test_miscalibration_area_of_exact_cases() -> None:
    from scipy.stats import chi2

    n = 40
    assert metrics.miscalibration_area(Samples.build(np.zeros(n), np.ones(n))) == pytest.approx(0.5)
    assert metrics.miscalibration_area(Samples.build(np.full(n, 1e3), np.ones(n))) == pytest.approx(0.5)
    levels = (np.arange(n) + 0.5) / n  # as even as n samples can be
    even = Samples.build(np.sqrt(chi2.ppf(levels, 1)), np.ones(n))
    assert metrics.miscalibration_area(even) == pytest.approx(1 / (4 * n))
    # all errors doubled: the area between the diagonal and F(chi2inv(p) / 4)
    many = (np.arange(20_000) + 0.5) / 20_000
    doubled = Samples.build(2 * np.sqrt(chi2.ppf(many, 1)), np.ones(20_000))
    p = np.linspace(0, 1, 200_001)[1:-1]
    expected = np.trapezoid(np.abs(chi2.cdf(chi2.ppf(p, 1) / 4, 1) - p), p)
    assert metrics.miscalibration_area(doubled) == pytest.approx(expected, abs=1e-4)


def test_calibration_curve_counts() -> None:
    from scipy.stats import chi2

    samples = Samples.build(np.sqrt(chi2.ppf([0.1, 0.3, 0.6, 0.9], 1)), np.ones(4))
    np.testing.assert_array_equal(
        metrics.calibration_curve(samples, np.array([0.05, 0.2, 0.5, 0.95])), [0, 0.25, 0.5, 1]
    )


def test_sharpness_is_the_root_mean_variance() -> None:
    assert metrics.sharpness(Samples.build(np.zeros(2), np.array([1.0, 7.0]))) == pytest.approx(2.0)


def test_spearman_with_ties() -> None:
    from scipy.stats import spearmanr

    a, b = RNG.integers(0, 8, 60), RNG.integers(0, 8, 60)
    assert metrics.rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert metrics.rank_correlation(a, -2 * a) == pytest.approx(-1.0)
    assert np.isnan(metrics.rank_correlation(np.ones(5), np.arange(5)))


def test_auroc_counts_pairs() -> None:
    scores = RNG.integers(0, 15, 90).astype(float)
    bad = RNG.random(90) < 0.4
    pairs = scores[bad][:, None] - scores[~bad][None]
    assert metrics.auroc(scores, bad) == pytest.approx((pairs > 0).mean() + 0.5 * (pairs == 0).mean())
    assert metrics.auroc(np.arange(90.0), np.arange(90) >= 45) == 1.0
    assert metrics.auroc(scores, np.arange(90) < 19) is None
    assert metrics.auroc(scores, np.arange(90) >= 19) is None


def test_nothing_depends_on_how_the_molecule_is_turned() -> None:
    error, covariance = gaussian_forces(100)
    q, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    turned = Samples.build(error @ q.T, q @ covariance @ q.T)
    plain = Samples.build(error, covariance)
    for name, metric in metrics.METRICS.items():
        assert metric(turned) == pytest.approx(metric(plain), rel=1e-9), name


def test_summary_of_a_perfect_model() -> None:
    error, covariance = gaussian_forces(3000, seed=3)
    element, group = np.repeat([1, 6, 8], 1000), np.arange(3000) // 10
    found = metrics.summary(Samples.build(error, covariance, element=element, group=group), resamples=50)
    assert found["zms"] == pytest.approx(1.0, abs=5 * np.sqrt(2 / 9000))
    for level in metrics.LEVELS:
        p = level / 100
        assert found[f"coverage_{level}"] == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / 3000))
        low, high = found["intervals"][f"coverage_{level}"]
        assert low <= found[f"coverage_{level}"] <= high
    assert found["miscalibration_area"] < 0.02
    assert found["spearman"] > 0.3
    assert found["per_element"].keys() == {"H", "C", "O"}
    assert found["per_element"]["C"]["n"] == 1000
    assert found["n_groups"] == 300
    assert found["intervals"].keys() == metrics.METRICS.keys()


def test_overconfidence_shows() -> None:
    samples = Samples.build(*gaussian_forces(2000, scale=2.0))
    assert metrics.zms(samples) == pytest.approx(4.0, rel=0.1)
    assert metrics.coverage(samples, 0.95) < 0.7
    assert metrics.ence(samples) == pytest.approx(1.0, abs=0.1)


def test_bad_input_is_refused() -> None:
    with pytest.raises(UncertaintyError, match="2 of 4 errors are not finite"):
        Samples.build(np.array([1.0, np.nan, np.inf, 0.0]), np.ones(4))
    with pytest.raises(UncertaintyError, match="shape"):
        Samples.build(np.zeros((4, 3)), np.ones((4, 2, 2)))
    with pytest.raises(UncertaintyError, match="no errors"):
        Samples.build(np.zeros(0), np.zeros(0))
    with pytest.raises(UncertaintyError, match="variance is zero"):
        metrics.zms(Samples.build(np.zeros(3), np.zeros(3)))


def test_concatenated_samples_keep_their_groups_apart() -> None:
    part = Samples.build(np.zeros(4), np.ones(4), group=np.array([5, 5, 9, 9]))
    joined = Samples.concatenate([part, part])
    assert joined.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(joined) == 8
