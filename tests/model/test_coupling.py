"""The kernels of products of tensors and their derivatives, beside the dense products."""

from __future__ import annotations

import pytest
import torch

from equimd.machine import has_compiler
from equimd.model.painn.coupling import Coupling
from equimd.model.painn.coupling_terms import coupling_terms

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")


def test_few_terms_are_not_zero() -> None:
    for lmax in (2, 3):
        components, terms = (lmax + 1) ** 2 - 1, coupling_terms(lmax)
        assert 0 < len(terms) < components**3 / 8 and all(abs(c) > 1e-3 for *_, c in terms)
    assert coupling_terms(1) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("n", "channels", "lmax"), [(1, 1, 2), (5, 3, 2), (4, 8, 3), (3, 19, 3), (0, 8, 3), (9, 64, 3)]
)
def test_kernels_and_two_derivatives_equal_the_dense_products(
    n: int, channels: int, lmax: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(channels)
    shape, coupling = (n, (lmax + 1) ** 2 - 1, channels), Coupling(lmax).to(dtype)
    x, y, weight, *directions = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(5))
    x, y = x.requires_grad_(), y.requires_grad_()
    results: list[list[torch.Tensor]] = []
    for native in (True, False):
        out = torch.cat(coupling(x, y, native=native), -2)
        # g depends on out, so that the derivative of the derivative with respect to g counts
        slopes = torch.autograd.grad((weight * out.square()).sum(), (x, y), create_graph=True)
        along = sum((d * s).sum() for d, s in zip(directions, slopes, strict=True))
        results.append([out, *slopes, *torch.autograd.grad(along, (x, y))])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=500 * torch.finfo(dtype).eps)


def test_rows_that_are_not_contiguous() -> None:
    coupling = Coupling(2).double()
    x, y = torch.randn(2, 4, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))[..., ::2]
    for a, b in zip(coupling(x, y, native=True), coupling(x, y), strict=True):
        torch.testing.assert_close(a, b)
