"""Radial functions against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from equimd.config import RADIAL_BASES
from equimd.model.painn.radial import polynomial_cutoff

CUTOFF = 5.0


def test_gaussians_sit_evenly_and_are_as_wide_as_they_are_apart() -> None:
    basis = RADIAL_BASES["gaussian"](6, CUTOFF).double()
    r = torch.linspace(0, 6, 31, dtype=torch.float64)
    expected = torch.stack([torch.exp(-0.5 * (r - k).square()) for k in range(6)], dim=1)  # spacing 1
    torch.testing.assert_close(basis(r), expected)


def test_gaussians_of_the_exponential_distance_are_the_published_ones() -> None:
    """Unke and Meuwly 2019, eq. 7, with its beta, and zero where it is below rounding."""
    k, last = 7, math.exp(-CUTOFF)
    beta = (2 / k * (1 - last)) ** -2
    r = torch.linspace(0.3, 6, 31, dtype=torch.float64)
    centres = torch.linspace(last, 1, k, dtype=torch.float64)
    expected = torch.exp(-beta * (torch.exp(-r)[:, None] - centres).square())
    torch.testing.assert_close(RADIAL_BASES["expnorm"](k, CUTOFF).double()(r), expected, rtol=1e-12, atol=1e-17)


def test_bessel_functions_are_orthonormal_on_the_ball() -> None:
    """Integral of r^2 e_n e_m over 0..cutoff is 1 for n = m, else 0 (Gasteiger et al. 2020)."""
    basis = RADIAL_BASES["bessel"](5, CUTOFF).double()
    r = (torch.arange(20_000, dtype=torch.float64) + 0.5) * (CUTOFF / 20_000)
    values = basis(r) * r[:, None]
    torch.testing.assert_close(
        values.T @ values * (CUTOFF / 20_000), torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-6
    )
    first = math.sqrt(2 / CUTOFF) * math.sin(math.pi * 2.0 / CUTOFF) / 2.0
    assert float(basis(torch.tensor([2.0], dtype=torch.float64))[0, 0]) == pytest.approx(first, rel=1e-12)


@pytest.mark.parametrize("kind", ["gaussian", "bessel", "expnorm"])
@pytest.mark.parametrize("num_rbf", [1, 2, 20])
def test_shape_precision_and_no_weights(kind, num_rbf) -> None:
    for dtype in (torch.float32, torch.float64):
        basis = RADIAL_BASES[kind](num_rbf, CUTOFF).to(dtype)
        out = basis(torch.linspace(0.5, 9, 7, dtype=dtype))
        assert out.shape == (7, num_rbf)
        assert out.dtype == dtype
        assert torch.isfinite(out).all()
        assert not basis.state_dict()


@pytest.mark.parametrize("p", [3, 6])
def test_polynomial_envelope_is_the_published_one(p) -> None:
    x = torch.linspace(0, 1, 11, dtype=torch.float64)
    expected = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    torch.testing.assert_close(polynomial_cutoff(CUTOFF * x, CUTOFF, p), expected, rtol=0, atol=1e-13)
    falling = polynomial_cutoff(CUTOFF * x, CUTOFF, p).diff()
    assert (falling <= 0).all()
