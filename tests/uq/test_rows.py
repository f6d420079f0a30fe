"""The rows by which energies and forces are linear in the last layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from equimd.config import ModelConfig
from equimd.errors import UncertaintyError
from equimd.model.differentiable import DifferentiableModel
from equimd.model.painn import tangents
from equimd.model.painn.potential import Potential

LAYOUTS = ["dense", "vesin"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_energies_and_forces_are_linear_in_the_last_layer(model, frames, to_batch, layout) -> None:
    batch = to_batch(frames, layout)
    out, rows = model(batch), model.rows(batch)
    head = model.last_layer if model.force_head is None else model.force_head.last_layer
    weight, p = model.last_layer.weight.detach()[0], model.config.num_readout
    energy = rows.energy[:, :p] @ weight + model.reference_energy(batch)
    torch.testing.assert_close(energy, out["energy"], rtol=1e-14, atol=1e-12)
    torch.testing.assert_close(rows.forces[..., :p] @ head.weight.detach()[0], out["forces"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_one_structure_and_one_feature_at_a_time(model, frames, to_batch, regression, layout) -> None:
    batch, expected = to_batch(frames, layout), regression(model)
    rows = model.rows(batch, chunk=3)
    real = rows.forces[batch.real].flatten(0, 1).numpy()
    np.testing.assert_allclose(rows.energy.numpy(), expected.energy, rtol=0, atol=1e-12)
    np.testing.assert_allclose(real, expected.force, rtol=0, atol=1e-12)
    assert not rows.forces[~batch.real].any()


def test_rows_of_an_edge_list_are_those_of_reverse_passes(conservative, frames, to_batch) -> None:
    """Forward mode takes all pairs of open molecules; its rows come back without padding."""
    batch = to_batch(frames, "vesin")
    rows, expected = conservative.rows(batch), DifferentiableModel.rows(conservative, batch)
    assert len(rows.forces) == len(batch.positions)
    torch.testing.assert_close(rows.energy, expected.energy, rtol=0, atol=1e-12)
    torch.testing.assert_close(rows.forces, expected.forces, rtol=0, atol=1e-12)


def test_jacobian_is_the_derivative_of_the_features(conservative, frames, to_batch) -> None:
    batch, step = to_batch(frames.take([2])), 1e-4
    rows = conservative.rows(batch).forces
    for atom, axis in [(0, 0), (3, 2)]:
        moved = []
        for sign in (1, -1):
            positions = batch.positions.clone()
            positions[atom, axis] += sign * step
            moved.append(conservative.features(replace(batch, positions=positions))[0])
        torch.testing.assert_close(rows[atom, axis], -(moved[0] - moved[1]) / (2 * step), rtol=0, atol=1e-6)


def test_projected_rows_are_rows_times_directions(model, frames, to_batch) -> None:
    batch = to_batch(frames)
    exact = model.rows(batch)
    for width in (10, exact.forces.shape[-1]):  # of the first features, and of all
        directions = torch.randn(width, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        features, rows = model.rows(batch, directions=directions, chunk=3)
        torch.testing.assert_close(rows, exact.forces[..., :width] @ directions, rtol=0, atol=1e-12)
        torch.testing.assert_close(features, exact.energy)


def test_directions_of_another_width_are_refused(conservative, frames, to_batch) -> None:
    with pytest.raises(UncertaintyError, match="26 features"):
        conservative.rows(to_batch(frames), directions=torch.zeros(27, 2))


def test_few_columns_are_the_first_ones(conservative, frames, to_batch) -> None:
    batch = to_batch(frames, "vesin")
    narrow, whole = conservative.rows(batch, width=10), conservative.rows(batch)
    assert narrow.forces.shape[-1] == 10
    torch.testing.assert_close(narrow.forces, whole.forces[..., :10], rtol=0, atol=1e-12)
    assert torch.equal(narrow.energy, whole.energy)


def test_the_double_precision_copy_leaves_the_model_alone(make_model, frames, to_batch) -> None:
    single = make_model("conservative", "float32")
    before = {name: value.clone() for name, value in single.state_dict().items()}
    double = single.converted(torch.float64)
    double.features(to_batch(frames))
    assert double.dtype == torch.float64
    assert single.dtype == torch.float32
    assert all(p.requires_grad for p in single.parameters())
    assert all(torch.equal(before[name], value) for name, value in single.state_dict().items())
    batch = to_batch(frames, dtype=torch.float32)
    torch.testing.assert_close(double(to_batch(frames))["forces"].float(), single(batch)["forces"], rtol=0, atol=2e-4)


def test_works_where_gradients_are_off(conservative, frames, to_batch) -> None:
    with torch.no_grad():
        rows = conservative.rows(to_batch(frames))
    assert not rows.forces.requires_grad
    assert rows.forces.any()


def test_a_single_atom_has_no_force_rows(conservative, make_frames, to_batch) -> None:
    for layout in LAYOUTS:
        rows = conservative.rows(to_batch(make_frames((1, 1)), layout))
        assert not rows.forces.any()
        assert torch.isfinite(rows.energy).all()


@pytest.mark.parametrize("settings", [{"lmax": 2}, {"num_layers": 1}, {"charge_spin": True, "radial_basis": "bessel"}])
@pytest.mark.parametrize("cache", [1, 1 << 20])  # a tangent of a structure at a time, and all at once
def test_forward_and_reverse_mode_agree(settings, cache, frames, to_batch, monkeypatch) -> None:
    monkeypatch.setattr(tangents, "CACHE_BYTES", cache)
    config = ModelConfig(**{"num_features": 8, "num_layers": 3, "num_rbf": 8, "num_readout": 10} | settings, cutoff=3.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = Potential(config).converted(torch.float64)
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    batch = replace(to_batch(frames), charge=torch.arange(8) - 3, spin=torch.arange(8) % 3)
    features, reverse = model.rows(batch, directions=torch.eye(model.num_pooled, dtype=torch.float64))
    rows = model.rows(batch)
    assert reverse.abs().max() > 0.01
    torch.testing.assert_close(rows.energy, features, rtol=0, atol=1e-10)
    torch.testing.assert_close(rows.forces, reverse, rtol=0, atol=1e-10 * float(reverse.abs().max()))


def test_rows_do_not_depend_on_the_number_of_threads(conservative, frames, to_batch, monkeypatch) -> None:
    monkeypatch.setattr(tangents, "CACHE_BYTES", 1)
    batch, before = to_batch(frames), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(conservative.rows(batch).forces)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
