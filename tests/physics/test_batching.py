"""A structure's answer does not depend on its company, on padding, or on how pairs are listed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from equimd.data.batch import Batch
from equimd.data.frames import Frames

SIZES = (5, 1, 9, 2, 7)


def one_by_one(case, frames: Frames, neighbors: str) -> list[dict[str, torch.Tensor]]:
    return [case(frames.take([k]), neighbors) for k in range(len(frames))]


@pytest.mark.parametrize("neighbors", ["dense", "torch"])
def test_batch_of_mixed_sizes_equals_one_by_one(case, make_frames, neighbors) -> None:
    frames = make_frames(*SIZES)
    batch = case.batch(frames, neighbors)
    assert batch.num_slots == (max(SIZES) if neighbors == "dense" else 0)
    together, singles = case.model(batch), one_by_one(case, frames, neighbors)
    case.same(together["energy"], torch.cat([s["energy"] for s in singles]))
    case.same(together["features"], torch.cat([s["features"] for s in singles]))
    forces = batch.unpad(together["forces"])
    assert [len(f) for f in forces] == list(SIZES)
    case.same(torch.cat(forces), torch.cat([s["forces"] for s in singles]))


def test_dense_equals_edges(case, make_frames) -> None:
    frames = make_frames(*SIZES)
    batches = {name: case.batch(frames, name) for name in ("dense", "torch", "vesin")}
    outputs = {name: case.model(batch) for name, batch in batches.items()}
    dense = outputs["dense"] | {"forces": torch.cat(batches["dense"].unpad(outputs["dense"]["forces"]))}
    for name in ("torch", "vesin"):
        for key in ("energy", "features", "forces"):
            case.same(outputs[name][key], dense[key])


def test_order_of_edges_does_not_matter(case, make_frames) -> None:
    batch = case.batch(make_frames(8, 6), "torch")
    order = torch.from_numpy(np.random.default_rng(0).permutation(batch.edge_index.shape[1]))
    a, b = case.model(batch), case.model(replace(batch, edge_index=batch.edge_index[:, order]))
    case.same(b["energy"], a["energy"])
    case.same(b["forces"], a["forces"])


def test_edges_beyond_the_cutoff_change_nothing(case, make_frames) -> None:
    """A neighbour list built with a skin gives the same answer: what MD needs to keep a list for some steps."""
    frames = make_frames(9)
    exact = case(frames, "torch")
    skin = Batch.from_frames(frames, 2 * case.model.config.cutoff, dtype=case.model.dtype, neighbors="torch")
    assert skin.edge_index.shape[1] > case.batch(frames, "torch").edge_index.shape[1]
    out = case.model(skin)
    case.same(out["energy"], exact["energy"])
    case.same(out["forces"], exact["forces"])


def test_padded_slots_have_no_force_and_no_gradient(case, make_frames) -> None:
    frames = make_frames(3, 6)
    batch = case.batch(frames, "dense")
    moved = batch.positions.clone()
    moved[3:6] += 100.0  # padded slots may hold anything
    a, b = case.model(batch), case.model(replace(batch, positions=moved))
    assert torch.equal(a["forces"][3:6], torch.zeros_like(a["forces"][3:6]))
    for key in a:
        assert torch.equal(a[key], b[key])


def test_two_distant_molecules_add_up(case, make_frames) -> None:
    frames = make_frames(5, 6)
    far = frames.positions[1] + np.array([50.0, 0.0, 0.0])
    numbers = np.concatenate([frames.numbers[0, :5], frames.numbers[1]])
    joined = Frames.build(numbers, np.concatenate([frames.positions[0, :5], far])[None])
    apart, together = case(frames, "torch"), case(joined, "torch")
    case.same(together["energy"], apart["energy"].sum()[None], case.tolerances.symmetry)
    case.same(together["features"], apart["features"].sum(0, keepdim=True), case.tolerances.symmetry)
    case.same(together["forces"], apart["forces"], case.tolerances.symmetry)


@pytest.mark.parametrize(("neighbors", "basis"), [("dense", "gaussian"), ("dense", "bessel"), ("torch", "bessel")])
def test_isolated_atoms_are_finite_and_feel_nothing(dtype, make_case, neighbors, basis) -> None:
    for forces in ("conservative", "direct"):
        case = make_case(dtype, forces, radial_basis=basis)
        frames = Frames.build(np.array([[6], [1]]), np.array([[[0.0, 0, 0]], [[4.0, 5, 6]]]))
        try:
            out = case.model.train()(case.batch(frames, neighbors))
            assert torch.isfinite(out["energy"]).all()
            assert out["energy"][0] != out["energy"][1]
            assert torch.equal(out["forces"].detach(), torch.zeros(2, 3, dtype=case.model.dtype))
            # |V| is taken at V = 0: its derivative must be finite for training too
            loss = out["energy"].sum() + (out["forces"] - 1.0).square().sum()
            gradients = torch.autograd.grad(loss, list(case.model.parameters()), allow_unused=True)
        finally:
            case.model.eval()
        assert all(torch.isfinite(g).all() for g in gradients if g is not None)


def test_an_atom_out_of_reach_feels_nothing(case) -> None:
    frames = Frames.build(np.array([[8, 1, 6]]), np.array([[[0.0, 0, 0], [1.0, 0, 0], [9.0, 0, 0]]]))
    for neighbors in ("dense", "torch"):
        forces = case(frames, neighbors)["forces"]
        assert torch.equal(forces[2], torch.zeros_like(forces[2]))
        assert forces[0].abs().max() > 1e-3
