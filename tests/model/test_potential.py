"""What calling a potential returns, keeps and leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equimd.config import ModelConfig
from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.errors import EXIT_USAGE, ModelError
from equimd.model.interface import NetworkOutput
from equimd.model.painn.potential import Potential, batch_arguments

SMALL = {"num_features": 8, "num_layers": 2, "num_rbf": 6, "num_readout": 5, "cutoff": 4.0}


def build(**settings: object) -> Potential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Potential(ModelConfig(**(SMALL | settings))).eval()


@pytest.fixture
def frames() -> Frames:
    rng = np.random.default_rng(0)
    numbers = np.array([[8, 1, 1, 6, 1], [6, 1, 8, 0, 0]])
    return Frames.build(numbers, rng.normal(scale=1.4, size=(2, 5, 3)))


def batch_of(frames: Frames, model: Potential, neighbors: str = "auto", dtype: torch.dtype | None = None) -> Batch:
    return Batch.from_frames(frames, model.config.cutoff, dtype=dtype or model.dtype, neighbors=neighbors)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("forces", ["conservative", "direct"])
@pytest.mark.parametrize("neighbors", ["dense", "torch"])
def test_shapes_and_precision(frames, dtype, forces, neighbors) -> None:
    model = build(dtype=dtype, forces=forces)
    batch = batch_of(frames, model, neighbors)
    out = model(batch)
    assert set(out) == {"energy", "forces", "features"}
    assert out["energy"].shape == (2,)
    assert out["energy"].dtype == torch.float64
    assert out["forces"].shape == batch.positions.shape
    assert out["forces"].dtype == model.dtype == getattr(torch, dtype)
    assert out["features"].shape == (2, model.num_pooled)
    network = model.network(batch.positions, **batch_arguments(batch))
    assert isinstance(network, NetworkOutput)
    if forces == "direct":
        assert network.vectors.shape == (*batch.positions.shape, SMALL["num_readout"])
        forces_from_vectors = model.force_head.last_layer(network.vectors).squeeze(-1)
        torch.testing.assert_close(forces_from_vectors, network.direct_forces)
        assert type(model.force_head.last_layer) is torch.nn.Linear
        assert model.force_head.last_layer.bias is None
    else:
        assert network.vectors is None
        assert network.direct_forces is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_gradients_need_no_switching_on(frames, mode, forces) -> None:
    model = build(forces=forces)
    expected = model(batch_of(frames, model))
    with mode():
        enabled = torch.is_grad_enabled()
        out = model(batch_of(frames, model))
        assert torch.is_grad_enabled() is enabled
    for key in expected:
        assert torch.equal(out[key], expected[key])


def test_nothing_is_changed(frames) -> None:
    default = torch.get_default_dtype()
    model = build(dtype="float64")
    batch = batch_of(frames, model)
    positions = batch.positions.clone()
    model(batch)
    model.train()(batch)
    assert torch.equal(batch.positions, positions)
    assert not batch.positions.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert torch.get_default_dtype() == default


def test_same_seed_same_model(frames) -> None:
    a, b = build(), build()
    assert torch.equal(a(batch_of(frames, a))["energy"], b(batch_of(frames, b))["energy"])


@pytest.mark.parametrize(
    "settings", [{}, {"forces": "direct"}, {"lmax": 2, "radial_basis": "bessel"}, {"charge_spin": True}]
)
def test_state_dict_is_all_there_is(frames, settings) -> None:
    model, other = build(**settings), Potential(ModelConfig(**(SMALL | settings))).eval()
    with torch.no_grad():
        model.scale.fill_(0.7)
        model.atomic_energies[[1, 6, 8]] = torch.tensor([-13.6, -1036.123456789012, -2043.1], dtype=torch.float64)
    assert model.state_dict()["atomic_energies"].dtype == torch.float64
    other.load_state_dict(model.state_dict())
    batch = batch_of(frames, model)
    for key, value in model(batch).items():
        assert torch.equal(other(batch)[key], value)


def test_batches_of_another_precision_are_taken(frames) -> None:
    model = build()
    exact = model(batch_of(frames, model))
    for neighbors in ("dense", "torch"):
        out = model(batch_of(frames, model, neighbors, torch.float64))
        assert out["forces"].dtype == torch.float32
        torch.testing.assert_close(out["energy"], exact["energy"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("forces", ["conservative", "direct"])
def test_no_structures(frames, forces) -> None:
    model = build(forces=forces)
    out = model(batch_of(frames.take([]), model))
    assert out["energy"].shape == (0,)
    assert out["forces"].shape == (0, 3)
    assert out["features"].shape == (0, model.num_pooled)


def test_a_model_that_names_no_elements_takes_them_all(frames) -> None:
    assert torch.isfinite(build()(batch_of(frames, build()))["energy"]).all()
    model = build(elements=(1, 6))
    with pytest.raises(ModelError, match="O") as caught:
        model(batch_of(frames, model))
    assert caught.value.exit_code == EXIT_USAGE
    assert "H, C" in caught.value.hint


def test_elements_differ(frames) -> None:
    """Each element has an embedding of its own: swapping two atoms' elements is another molecule."""
    model = build()
    swapped = frames.numbers.copy()
    swapped[0, [0, 1]] = swapped[0, [1, 0]]
    other = Frames.build(swapped, frames.positions)
    a, b = (model(batch_of(f, model))["energy"] for f in (frames, other))
    assert a[0] != b[0]
    assert a[1] == b[1]
