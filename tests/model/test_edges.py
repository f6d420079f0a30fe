"""Messages summed in blocks of edges against the plain sums, and inside the model against the e3nn reference."""

from __future__ import annotations

import pytest
import torch

from equimd.data.batch import Batch
from equimd.model.painn import edges, network
from equimd.model.painn.potential import Potential, batch_arguments
from equimd.model.painn.reference import ReferencePotential
from tests.model.test_reference import CASES, assert_same, build, molecules


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few edges each, so that there are several and the last is not full; products of tensors as of many atoms."""
    monkeypatch.setattr(edges, "CACHE_BYTES", 1 << 14)
    monkeypatch.setattr(network, "LARGE", 1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks_of_edges_equal_the_plain_sums_and_the_reference(case: tuple) -> None:
    model = build(case).eval()
    reference = ReferencePotential(model)
    for layout, periodic in (("torch", False), ("vesin", True)):
        frames = molecules(seed=sum(case[:4]), cell=periodic)
        batch = Batch.from_frames(frames, model.config.cutoff, dtype=torch.float64, neighbors=layout)
        found, expected = model(batch), reference(batch)
        assert expected["forces"].abs().max() > 1e-6
        for key in ("energy", "features", "forces"):
            assert_same(found[key], expected[key].detach(), key)
        plain = gradients(model, batch, edge_blocks=False)
        for (name, value), other in zip(gradients(model, batch, edge_blocks=True).items(), plain.values(), strict=True):
            assert_same(value, other, name)


def gradients(model: Potential, batch: Batch, *, edge_blocks: bool) -> dict[str, torch.Tensor]:
    """Of energies and features (and direct forces) by positions and every parameter that they depend on."""
    x = batch.positions.clone().requires_grad_()
    out = model.network(x, **batch_arguments(batch), edge_blocks=edge_blocks)
    total = out.energy.sum() + out.features.square().sum()
    if out.direct_forces is not None:
        total = total + out.direct_forces.square().sum()
    named = {"positions": x, **dict(model.named_parameters())}
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


def test_no_edges_at_all() -> None:
    model = build(CASES[1]).eval()
    frames = molecules(3)
    batch = Batch.from_frames(frames, 1e-3, dtype=torch.float64, neighbors="torch")
    assert batch.edge_index is not None and batch.edge_index.shape[1] == 0
    out = model(batch)
    assert torch.isfinite(out["energy"]).all() and not out["forces"].any()


def test_a_second_derivative_is_refused_and_training_takes_the_plain_sums() -> None:
    model = build(CASES[1])
    batch = Batch.from_frames(molecules(3), model.config.cutoff, dtype=torch.float64, neighbors="torch")
    x = batch.positions.clone().requires_grad_()
    energy = model.network(x, **batch_arguments(batch), edge_blocks=True).energy.sum()
    (slope,) = torch.autograd.grad(energy, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()
    model.train()(batch)["forces"].square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_what_is_kept_for_the_gradient_does_not_grow_with_edges_times_features() -> None:
    """Bytes saved by the forward pass for each edge: its basis and harmonics, not its messages."""
    model = build((64, 1, 3, 4, "gaussian", 4, "conservative", False)).eval()
    batch = Batch.from_frames(molecules(3, cell=True), 6.0, dtype=torch.float64, neighbors="vesin")

    def saved(edge_blocks: bool) -> float:
        held: dict[int, int] = {}

        def pack(t: torch.Tensor) -> torch.Tensor:
            held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        x = batch.positions.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = model.network(x, **batch_arguments(batch), edge_blocks=edge_blocks)
        assert torch.isfinite(out.energy).all()
        return sum(held.values()) / batch.edge_index.shape[1]

    assert saved(True) < 0.25 * saved(False)
