"""The posterior against Bayesian linear regression and Gaussian-process evidence in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from equimd.data.batch import ALL_PAIRS_MAX_ATOMS, DENSE_MAX_ATOMS, Batch
from equimd.data.dataset import ArrayDataset, Subset
from equimd.data.frames import Frames
from equimd.errors import UncertaintyError
from equimd.uq.laplace import EnergyForceLaplace, fit_last_layers, fit_posterior
from equimd.uq.rows import RowLoader, RowModel

SIGMA, DELTA = (0.3, 0.7), 0.05
EXACT = 1e-8
CASES = [
    ("conservative", "both", True),
    ("conservative", "both", False),
    ("conservative", "energy", True),
    ("conservative", "forces", True),
    ("direct", "energy", True),
    ("direct", "forces", True),
]
NAMES = [f"{forces}-{targets}-{'all' if every else 'last'}" for forces, targets, every in CASES]
READOUT = 10


def fit(model, data, targets="both", **settings) -> EnergyForceLaplace:
    return fit_posterior(
        model, data, targets=targets, **{"sigma_noise": SIGMA, "prior_precision": DELTA, "batch_size": 3, **settings}
    )


def close(a: torch.Tensor, b: np.ndarray, tolerance: float = EXACT) -> None:
    np.testing.assert_allclose(a.detach().numpy(), b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.fixture(params=CASES, ids=NAMES)
def case(request, make_model, dataset, regression):
    """A fitted posterior, and the rows, targets and noise it should have seen."""
    forces, targets, every = request.param
    model = make_model(forces)
    x, y, noise = regression(model).stacked(targets, SIGMA)
    x = x if every else x[:, :READOUT]
    assert x.shape[1] == (READOUT if (forces == "direct" and targets == "forces") or not every else model.num_pooled)
    return fit(model, dataset, targets, all_layers=every), x, y, noise


def test_posterior_is_bayesian_linear_regression(case) -> None:
    fitted, x, y, noise = case
    precision = (x / noise[:, None] ** 2).T @ x + DELTA * np.eye(x.shape[1])
    covariance = np.linalg.inv(precision)
    close(fitted.posterior_precision, precision)
    close(fitted.posterior_covariance, covariance)
    close(fitted.posterior_mean(), covariance @ (x.T @ (y / noise**2)))
    close(fitted.log_det_posterior_precision, np.array(np.linalg.slogdet(precision)[1]))


def test_functional_variance_is_the_predictive_variance(case, frames, to_batch) -> None:
    fitted, x, _, noise = case
    covariance = np.linalg.inv((x / noise[:, None] ** 2).T @ x + DELTA * np.eye(x.shape[1]))
    rows = torch.from_numpy(x).unsqueeze(1)
    close(fitted.functional_variance(rows).flatten(), np.einsum("mp,pq,mq->m", x, covariance, x))
    close(fitted.posterior().variance(torch.from_numpy(x)), np.einsum("mp,pq,mq->m", x, covariance, x))


def test_evidence_is_the_gaussian_process_evidence_at_any_weights(case) -> None:
    fitted, x, y, noise = case
    expected = multivariate_normal.logpdf(y, np.zeros(len(y)), x @ x.T / DELTA + np.diag(noise**2))
    assert fitted.log_evidence().item() == pytest.approx(expected, rel=EXACT)


def test_marginal_likelihood_of_laplace_torch_is_exact_at_the_mode(make_model, dataset, regression) -> None:
    from copy import deepcopy

    model = make_model("conservative")
    x, y, noise = regression(model).stacked("both", SIGMA)
    x, moved = x[:, :READOUT], deepcopy(model)
    with torch.no_grad():
        moved.last_layer.weight[0] = fit(model, dataset, all_layers=False).posterior_mean()
    expected = multivariate_normal.logpdf(y, np.zeros(len(y)), x @ x.T / DELTA + np.diag(noise**2))
    at_mode = fit(moved, dataset, all_layers=False)
    assert at_mode.log_marginal_likelihood().item() == pytest.approx(expected, rel=EXACT)
    assert at_mode.log_marginal_likelihood().item() == pytest.approx(at_mode.log_evidence().item(), rel=1e-12)
    assert fit(model, dataset, all_layers=False).log_marginal_likelihood().item() < expected - 1


def test_log_likelihood_counts_rows_of_each_kind(case) -> None:
    fitted, x, y, noise = case
    weights = fitted.mean.numpy()
    expected = -0.5 * np.sum(((y - x @ weights) / noise) ** 2 + np.log(2 * np.pi * noise**2))
    assert fitted.log_likelihood.item() == pytest.approx(expected, rel=1e-12)
    assert int(fitted.n_observations.sum()) == len(y)


def test_marginal_likelihood_is_differentiable_in_both_noises(conservative, dataset) -> None:
    fitted = fit(conservative, dataset)
    start = torch.tensor(SIGMA, dtype=torch.float64)
    noise = start.clone().requires_grad_(True)
    fitted.log_marginal_likelihood(sigma_noise=noise).backward()
    for k in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[k] = 1e-5
        ends = [fitted.log_marginal_likelihood(sigma_noise=start + s * step).item() for s in (1, -1)]
        assert noise.grad[k].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4)


def test_prior_optimisation_finds_the_largest_marginal_likelihood(conservative, dataset) -> None:
    fitted = fit(conservative, dataset, prior_precision=None)
    best = float(fitted.prior_precision)
    top = fitted.log_marginal_likelihood().item()
    around = [fitted.log_marginal_likelihood(torch.tensor(best * f)).item() for f in (0.8, 1.25)]
    assert top > max(around)


def test_samples_have_mean_and_covariance_of_the_posterior(conservative, dataset) -> None:
    fitted, n = fit(conservative, dataset), 100_000
    drawn = fitted.sample(n, generator=torch.Generator().manual_seed(0))
    white = torch.linalg.solve_triangular(fitted.posterior_scale, (drawn - fitted.mean).T, upper=False)
    deviation = (white @ white.T / n - torch.eye(len(white), dtype=torch.float64)).abs().max()
    assert deviation < 6 * (2 / n) ** 0.5
    assert white.mean(1).abs().max() < 5 / n**0.5


@pytest.mark.parametrize("batch_size", [1, 8])
def test_order_and_size_of_batches_do_not_matter(conservative, frames, batch_size) -> None:
    first = fit(conservative, ArrayDataset(frames))
    mixed = np.random.default_rng(0).permutation(len(frames))
    second = fit(conservative, ArrayDataset(frames.take(mixed)), batch_size=batch_size)
    for name, value in first.state_dict().items():
        close(second.state_dict()[name].double(), value.double().numpy(), 1e-11)


def test_frames_without_some_labels(conservative, frames, regression) -> None:
    energy, forces = frames.energy.copy(), frames.forces.copy()
    energy[[1, 4]] = np.nan
    forces[[2, 4]] = np.nan
    partial = Frames(**{**vars(frames), "energy": energy, "forces": forces})
    fitted, full = fit(conservative, ArrayDataset(partial)), regression(conservative)
    kept = np.repeat(~np.isin(np.arange(len(frames)), [2, 4]), 3 * frames.n_atoms)
    x = full.energy[~np.isin(np.arange(len(frames)), [1, 4])]
    close(fitted.H[0], x.T @ x)
    close(fitted.H[1], full.force[kept].T @ full.force[kept])
    assert fitted.n_observations.tolist() == [6, kept.sum()]


def test_periodic_and_open_frames_together(conservative, make_frames) -> None:
    open_frames, other = make_frames((4, 6)), make_frames((5,), seed=3)
    periodic = Frames(**{**vars(other), "cell": 5.0 * np.eye(3)[None], "pbc": np.ones((1, 3), bool)})
    parts = [fit(conservative, ArrayDataset(f)).H for f in (open_frames, periodic)]
    together = fit(conservative, ArrayDataset(Frames.concatenate([open_frames, periodic]))).H
    close(together, (parts[0] + parts[1]).numpy(), 1e-12)


def test_state_round_trip(case, dataset) -> None:
    fitted = case[0]
    state = {name: torch.from_numpy(value.numpy().copy()) for name, value in fitted.state_dict().items()}
    fresh = EnergyForceLaplace(fitted.model.model)
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh.posterior_covariance, fitted.posterior_covariance, rtol=0, atol=0)
    torch.testing.assert_close(fresh.log_evidence(), fitted.log_evidence(), rtol=0, atol=0)
    assert fresh.state_dict().keys() == fitted.state_dict().keys()


def test_state_of_another_width_is_refused(make_model, conservative, dataset) -> None:
    fitted = fit(conservative, dataset)
    state = fitted.state_dict()
    with pytest.raises(UncertaintyError, match="9 weights"):
        EnergyForceLaplace(RowModel(conservative, "both")).load_state_dict({**state, "mean": state["mean"][:9]})
    with pytest.raises(UncertaintyError, match="lacks slope"):
        EnergyForceLaplace(RowModel(conservative, "both")).load_state_dict(
            {k: v for k, v in state.items() if k != "slope"}
        )


def test_changed_noise_or_prior_changes_the_covariance(conservative, dataset) -> None:
    fitted = fit(conservative, dataset)
    before = fitted.posterior_covariance
    assert fitted.posterior_covariance is before
    fitted.sigma_noise = 2 * fitted.sigma_noise
    fitted.prior_precision = DELTA / 4
    close(fitted.posterior_covariance, 4 * before.numpy(), 1e-12)


def test_singular_posterior_is_named(conservative, make_frames) -> None:
    diatomic = ArrayDataset(make_frames((2,)))
    with pytest.raises(UncertaintyError, match=r"singular: 26 weights, observations 1 of energy, 6 of forces"):
        fit(conservative, diatomic, prior_precision=1e-30).posterior_covariance  # noqa: B018
    fit(conservative, diatomic, prior_precision=1.0).posterior_covariance  # noqa: B018 (a prior makes it regular)


def test_bad_noise_is_refused(conservative) -> None:
    with pytest.raises(UncertaintyError, match="positive"):
        EnergyForceLaplace(RowModel(conservative, "both"), sigma_noise=(1.0, 0.0))


def test_unlabelled_frames_are_refused(conservative, make_frames) -> None:
    with pytest.raises(UncertaintyError, match="no frame has energy or forces"):
        fit(conservative, ArrayDataset(make_frames((3, 4), labels=False)))


def test_energy_only_models_are_refused(conservative, dataset) -> None:
    from equimd.model.painn.potential import Potential

    model = Potential(conservative.config.model_copy(update={"energy_only": True}))
    with pytest.raises(UncertaintyError, match="energies alone"):
        fit_last_layers(model, dataset)


def test_a_direct_model_has_no_joint_last_layer(make_model) -> None:
    with pytest.raises(UncertaintyError, match="different last layers"):
        RowModel(make_model("direct"), "both")


def test_progress_goes_over_all_passes(model, dataset) -> None:
    seen: list[tuple[int, int]] = []
    layer, fitted = fit_last_layers(model, dataset, batch_size=4, progress=lambda *counts: seen.append(counts))
    passes = 2 if model.force_head is None else 3
    assert seen[-1] == (passes * len(dataset), passes * len(dataset))
    assert all(a[0] <= b[0] for a, b in zip(seen, seen[1:], strict=False))
    assert (layer.forces is layer.energy) == (model.force_head is None) == (fitted["energy"] is fitted["forces"])


def test_a_random_part_of_the_frames_stands_for_all_of_them(make_model, make_frames) -> None:
    model = make_model("conservative")
    frames = make_frames((4, 6, 5, 7) * 100)
    data, fresh = ArrayDataset(frames), make_frames((5, 6) * 6, seed=3)
    part = Subset(data, np.sort(np.random.default_rng(0).choice(400, 100, replace=False)))
    batch = Batch.from_frames(fresh, model.cutoff, dtype=torch.float64)
    whole, all_fitted = fit_last_layers(model, data)
    drawn, fitted = fit_last_layers(model, part, stand_for=400)
    plain, _ = fit_last_layers(model, part)
    real, sigma = batch.real, whole.raw(model, batch).force_variance.sqrt()
    ratios = [(layer.raw(model, batch).force_variance.sqrt() / sigma)[real] for layer in (drawn, plain)]
    assert float(ratios[0].median()) == pytest.approx(1.0, abs=0.1)
    assert 0.8 < float(ratios[0].quantile(0.1)) and float(ratios[0].quantile(0.9)) < 1.25
    assert float(ratios[1].median()) > 1.6  # of fewer frames: twice as unsure
    counts = [f["energy"].n_observations.tolist() for f in (fitted, all_fitted)]
    assert counts[0][0] == counts[1][0] == 400 and counts[0][1] == pytest.approx(counts[1][1], rel=0.05)
    torch.testing.assert_close(fitted["energy"].sigma_noise, all_fitted["energy"].sigma_noise, rtol=0.25, atol=0)
    # all frames stand for themselves
    same, _ = fit_last_layers(model, part, stand_for=100)
    assert torch.equal(same.forces.scale, plain.forces.scale)


def test_memory_does_not_hold_the_data(conservative, frames) -> None:
    """Frames are asked for in blocks, and each block once a pass."""

    class Watched(ArrayDataset):
        largest = 0

        def frames(self, rows=None):
            Watched.largest = max(Watched.largest, len(rows))
            return super().frames(rows)

    many = frames.take(np.arange(1200) % len(frames))
    loader = RowLoader(Watched(many), RowModel(conservative, "energy"), batch_size=64)
    assert sum(data["counts"][0] for data in loader) == 1200
    assert Watched.largest <= 1024


def test_the_force_covariance_is_laplace_torch_functional_variance(model, frames, dataset, to_batch) -> None:
    layer, fitted = fit_last_layers(model, dataset)
    batch = to_batch(frames)
    rows = model.rows(batch)
    raw = layer.raw(model, batch)
    expected = fitted["forces"].functional_variance(rows.forces)
    torch.testing.assert_close(raw.force_covariance, expected, rtol=1e-8, atol=1e-10 * float(expected.max()))
    energy = fitted["energy"].functional_variance(rows.energy.unsqueeze(1)).flatten()
    torch.testing.assert_close(raw.energy_variance, energy, rtol=1e-8, atol=0)
    assert not raw.force_covariance[~batch.real].any()


def test_costly_rows_leave_the_last_layer_alone(conservative, make_frames) -> None:
    """Periodic frames and large molecules pay a reverse pass a feature, so that only the readout's are taken."""
    small, every = make_frames((4, 6, 5, 7)), conservative.num_pooled
    periodic = Frames(**{**vars(small), "cell": 9.0 * np.eye(3)[None].repeat(4, 0), "pbc": np.ones((4, 3), bool)})
    large = make_frames((ALL_PAIRS_MAX_ATOMS + 1, 4))
    medium = make_frames((DENSE_MAX_ATOMS + 1, 4))
    for data, width in ((small, every), (medium, every), (periodic, READOUT), (large, READOUT)):
        layer, _ = fit_last_layers(conservative, ArrayDataset(data))
        assert layer.energy.width == width
        assert layer.forces.scale.shape == (width, width)
