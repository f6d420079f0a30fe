"""The native pair kernels against the same sums in plain torch, and inside the model against the e3nn reference."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.machine import has_compiler
from equimd.model.painn.graph import dense_graph, pair_graph
from equimd.model.painn.pairs import message
from equimd.model.painn.potential import Potential
from equimd.model.painn.reference import ReferencePotential
from tests.model.test_reference import CASES, assert_same, build, compare, loss_gradients, molecules

pytestmark = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")

SHAPES = [
    # structures, atoms, scalar and tensor channels (vectors of 8 and a rest), lmax, first layer
    (2, 2, 1, 1, 1, True),
    (1, 4, 9, 9, 1, False),
    (3, 5, 16, 8, 1, False),
    (2, 4, 17, 17, 2, True),
    (2, 4, 21, 10, 2, True),
    (2, 5, 8, 8, 2, False),
    (1, 4, 11, 11, 3, False),
    (2, 5, 25, 11, 3, False),
]


def plain(x: torch.Tensor, w: torch.Tensor, y: torch.Tensor, f: int, t: int) -> torch.Tensor:
    """The sums as they are documented, over ordered pairs."""
    n = x.shape[1]
    lmax = int((y.shape[2] + 1) ** 0.5) - 1
    i, j = torch.triu_indices(n, n, 1)
    out = x.new_zeros(x.shape[0], n, f + y.shape[2] * t)
    filters = w[:, :, f:].unflatten(2, (-1, t))
    for target, source, odd in ((i, j, 1.0), (j, i, -1.0)):
        xs = x[:, source, f:].unflatten(2, (-1, t))
        parts = [x[:, source, :f] * w[:, :, :f]]
        for m in range(y.shape[2]):
            ell = int((m + 1) ** 0.5)
            part = y[:, :, m, None] * odd**ell * xs[:, :, ell - 1] * filters[:, :, ell - 1]
            if xs.shape[2] > lmax:
                part = part + xs[:, :, lmax + m] * filters[:, :, lmax + ell - 1]
            parts.append(part)
        out = out.index_add(1, target, torch.cat(parts, 2))
    return out


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_message_and_its_derivatives_equal_the_plain_sums(shape: tuple[int, int, int, int, int, bool]) -> None:
    b, n, f, t, lmax, first = shape
    generator = torch.Generator().manual_seed(n)
    m, p = (lmax + 1) ** 2 - 1, n * (n - 1) // 2

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    x = random(b, n, f + (lmax + (0 if first else m)) * t).requires_grad_()
    w = random(b, p, f + (lmax + (0 if first else lmax)) * t).requires_grad_()
    y = random(b, p, m).requires_grad_()
    weight = random(b, n, f + m * t)
    far = torch.rand(b, p, generator=generator) < (0.4 if p > 5 else 0.0)  # beyond the cutoff: all of it is zero
    with torch.no_grad():
        w[far], y[far] = 0.0, 0.0
    directions = [torch.randn(z.shape, generator=generator, dtype=torch.float64) for z in (x, w, y)]
    for direction in directions[1:]:
        direction[far] = 0.0
    found, expected = [], []
    for function, results in ((message, found), (plain, expected)):
        out = function(x, w, y, f, t)
        # g depends on out, so that the derivative of the derivative with respect to g counts
        slopes = torch.autograd.grad((weight * out.square()).sum(), (x, w, y), create_graph=True)
        along = sum((d * s).sum() for d, s in zip(directions, slopes, strict=True))
        results += [out, *slopes, *torch.autograd.grad(along, (x, w))]
    for k, (a, e) in enumerate(zip(found, expected, strict=True)):
        if k in (2, 5):  # of filters, which have no slope there
            assert not a[far].any()
            e = e.masked_fill(far[..., None], 0.0)
        assert_same(a.detach(), e.detach(), str(k))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_model_over_pairs_equals_the_reference(case: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(case).train()
    monkeypatch.setattr(Potential, "network", functools.partialmethod(Potential.network, pair_kernels=True))
    batch = Batch.from_frames(molecules(sum(case[:4])), model.config.cutoff, dtype=torch.float64, neighbors="dense")
    compare(model, ReferencePotential(model), batch)


@pytest.mark.parametrize("n", [42, 60])
def test_larger_molecules_over_pairs_equal_their_edges(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most pairs are beyond the cutoff, and one structure is padded."""
    model = build(CASES[2]).train()
    rng = np.random.default_rng(n)
    frames = Frames.concatenate(
        [Frames.build(rng.choice([1, 6, 8], k), rng.uniform(0, 11, (1, k, 3))) for k in (n, n - 5)]
    )
    edges = Batch.from_frames(frames, model.config.cutoff, dtype=torch.float64, neighbors="torch")
    assert 0 < len(edges.edge_index[0]) < n * (n - 1)
    expected = model(edges)
    slopes = loss_gradients(model, expected)
    monkeypatch.setattr(Potential, "network", functools.partialmethod(Potential.network, pair_kernels=True))
    dense = edges.padded()
    found = model(dense)
    found["forces"] = found["forces"][dense.real]
    for key in ("energy", "features", "forces"):
        assert_same(found[key].detach(), expected[key].detach(), key)
    for (name, _), a, e in zip(model.named_parameters(), loss_gradients(model, found), slopes, strict=True):
        assert (a is None) == (e is None), name
        if a is not None:
            assert_same(a, e, name)


def test_pairs_are_those_of_the_dense_layout() -> None:
    batch = Batch.from_frames(molecules(2), 4.0, dtype=torch.float64, neighbors="dense")
    n = batch.num_slots
    dense = dense_graph(batch.positions, batch.atomic_numbers, n, 4.0).vectors.view(-1, n, n, 3)
    pairs = pair_graph(batch.positions, batch.atomic_numbers, n, 4.0)
    i, j = torch.triu_indices(n, n, 1)
    assert torch.equal(pairs.vectors.view(-1, pairs.num_pairs, 3), dense[:, i, j])
