"""Energy, force and the force's derivative are continuous while an atom crosses the cutoff."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.model.painn.potential import batch_arguments
from equimd.model.painn.radial import polynomial_cutoff

SCALING = 0.15  # relative deviation from the power law that the envelope prescribes near its end


@pytest.fixture(params=["gaussian", "bessel", "expnorm"])
def smooth_case(request, lmax, make_case):
    return make_case("float64", "conservative", lmax, radial_basis=request.param)


def along(case, distances: np.ndarray, others: list[list[float]], neighbors: str) -> list[np.ndarray]:
    """Energy, force and force derivative along x of an atom at x = distance from the one at the origin."""
    positions = np.array([[[0.0, 0, 0], *others, [d, 0, 0]] for d in distances])
    numbers = np.array([8, *[6] * len(others), 1])
    frames = Frames.build(numbers, positions)
    batch = Batch.from_frames(frames, case.model.config.cutoff, dtype=case.model.dtype, neighbors=neighbors)
    x = batch.positions.clone().requires_grad_(True)
    energy = case.model.network(x, **batch_arguments(batch)).energy
    n = len(numbers)
    (g,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    force = -g.view(-1, n, 3)[:, -1, 0]
    (h,) = torch.autograd.grad(force.sum(), x)
    return [t.detach().double().numpy() for t in (energy, force, h.view(-1, n, 3)[:, -1, 0])]


@pytest.mark.parametrize("neighbors", ["dense", "torch"])
def test_a_pair_vanishes_as_the_envelope_does(smooth_case, neighbors) -> None:
    """A distance d below cutoff the interaction is ~ d^3, its force ~ d^2, the force's derivative ~ d; beyond, 0."""
    cutoff = smooth_case.model.config.cutoff
    d = np.array([0.0025, 0.00125, 0.000625])
    energy, force, slope = along(smooth_case, np.concatenate([cutoff - d, [cutoff, cutoff + 0.01]]), [], neighbors)
    for value, power in ((energy - energy[-1], 3), (force, 2), (slope, 1)):
        ratio = value[:2] / value[1:3]
        np.testing.assert_allclose(ratio, 2.0**power, rtol=SCALING)
        assert abs(value[0]) > 2e-4 * d[0] ** power, "the pair has an interaction to speak of"
        assert value[3:] == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("neighbors", ["dense", "torch"])
def test_nothing_jumps_while_an_interacting_atom_crosses(smooth_case, neighbors) -> None:
    cutoff = smooth_case.model.config.cutoff
    others = [[2.0, 0.8, 0.0], [1.5, -1.0, 0.5]]
    gap = 1e-6
    for value in along(smooth_case, np.array([cutoff - gap, cutoff + gap]), others, neighbors):
        assert abs(value[0]) > 1e-3, "the atom still feels the others"
        assert abs(value[1] - value[0]) < 1e-3 * abs(value[0])
    scan = cutoff + np.linspace(-0.03, 0.03, 401)
    energy, force, slope = along(smooth_case, scan, others, neighbors)
    step = scan[1] - scan[0]
    # the trapezoidal integral of each derivative gives back the quantity, through the cutoff as elsewhere
    np.testing.assert_allclose(np.diff(energy), -step * (force[1:] + force[:-1]) / 2, atol=1e-6 * np.abs(force).max())
    np.testing.assert_allclose(np.diff(force), step * (slope[1:] + slope[:-1]) / 2, atol=1e-6 * np.abs(slope).max())


def test_single_precision_is_smooth_too(make_case) -> None:
    case = make_case("float32")
    scan = case.model.config.cutoff + np.linspace(-0.1, 0.1, 201)
    energy, force, _ = along(case, scan, [[2.0, 0.8, 0.0]], "torch")
    spread = 20 * np.finfo(np.float32).eps * max(np.abs(energy).max(), 1.0)
    assert np.abs(np.diff(energy)).max() < np.abs(force).max() * (scan[1] - scan[0]) + spread
    assert np.abs(np.diff(force)).max() < 0.05 * np.abs(force).max()


def test_envelope_ends_with_zero_derivatives() -> None:
    r = torch.tensor([0.0, 2.0, 5.0 - 1e-9, 5.0, 5.1, 50.0], dtype=torch.float64, requires_grad=True)
    value = polynomial_cutoff(r, 5.0)
    torch.testing.assert_close(value[0], torch.ones_like(value[0]))
    assert 0 < value[1] < 1
    assert value[2].abs() < 1e-12
    assert torch.equal(value[3:], torch.zeros(3, dtype=torch.float64))
    for _ in range(2):
        (value,) = torch.autograd.grad(value.sum(), r, create_graph=True)
        assert value[2].abs() < 1e-6
        assert torch.equal(value[3:], torch.zeros(3, dtype=torch.float64))
