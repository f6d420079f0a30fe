"""Frames as tensors: both layouts, labels, precision, and what is left alone."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from equimd.data.batch import DENSE_MAX_ATOMS, Batch
from equimd.data.frames import Frames
from equimd.errors import ConfigError, DataError

CUTOFF = 3.0
SIZES = (3, 1, 5)


def make_frames(*sizes: int, labels: bool = True, seed: int = 0) -> Frames:
    rng = np.random.default_rng(seed)
    blocks = []
    for n in sizes:
        energy = rng.normal(-4000, 1, 1) if labels else None
        forces = rng.normal(size=(1, n, 3)) if labels else None
        numbers = rng.choice([1, 6, 8], (1, n))
        blocks.append(Frames.build(numbers, rng.normal(size=(1, n, 3)), energy, forces, charge=np.array([n - 3])))
    return Frames.concatenate(blocks)


@pytest.mark.parametrize("neighbors", ["dense", "torch", "vesin", "auto"])
def test_shapes_types_and_order(neighbors) -> None:
    frames = make_frames(*SIZES)
    batch = Batch.from_frames(frames, CUTOFF, neighbors=neighbors)
    dense = neighbors in ("dense", "auto")
    slots = 3 * 5 if dense else sum(SIZES)
    assert batch.num_structures == 3
    assert batch.num_slots == (5 if dense else 0)
    assert batch.positions.shape == batch.forces.shape == (slots, 3)
    assert batch.atomic_numbers.shape == batch.batch.shape == (slots,)
    assert batch.positions.dtype == batch.forces.dtype == batch.cell.dtype == torch.float32
    assert batch.energy.dtype == torch.float64
    for name in ("atomic_numbers", "batch", "n_atoms", "charge", "spin"):
        assert getattr(batch, name).dtype == torch.int64
    assert batch.n_atoms.tolist() == list(SIZES)
    assert batch.charge.tolist() == [0, -2, 2]
    assert torch.equal(batch.batch, batch.batch.sort().values)
    assert (batch.edge_index is None) is dense
    assert batch.edge_shifts is None


@pytest.mark.parametrize("neighbors", ["dense", "torch"])
def test_unpad_gives_back_each_structure(neighbors) -> None:
    frames = make_frames(*SIZES)
    batch = Batch.from_frames(frames, CUTOFF, dtype=torch.float64, neighbors=neighbors)
    for k, (x, z, f, b) in enumerate(
        zip(*(batch.unpad(t) for t in (batch.positions, batch.atomic_numbers, batch.forces, batch.batch)), strict=True)
    ):
        n = SIZES[k]
        np.testing.assert_array_equal(x.numpy(), frames.positions[k, :n])
        np.testing.assert_array_equal(z.numpy(), frames.numbers[k, :n])
        np.testing.assert_array_equal(f.numpy(), frames.forces[k, :n])
        assert (b == k).all()


def test_energies_are_not_rounded() -> None:
    frames = make_frames(4, 4)
    np.testing.assert_array_equal(Batch.from_frames(frames, CUTOFF).energy.numpy(), frames.energy)


@pytest.mark.parametrize("neighbors", ["dense", "torch"])
def test_frames_without_labels_have_none(neighbors) -> None:
    batch = Batch.from_frames(make_frames(*SIZES, labels=False), CUTOFF, neighbors=neighbors)
    assert batch.energy is None
    assert batch.forces is None
    mixed = Frames.concatenate([make_frames(3), make_frames(5, labels=False)])
    batch = Batch.from_frames(mixed, CUTOFF, neighbors=neighbors)
    assert batch.energy is None
    assert batch.forces is None


def test_auto_takes_edges_for_large_or_periodic_structures() -> None:
    assert Batch.from_frames(make_frames(DENSE_MAX_ATOMS), CUTOFF).num_slots == DENSE_MAX_ATOMS
    assert Batch.from_frames(make_frames(DENSE_MAX_ATOMS + 1), CUTOFF).edge_index is not None
    frames = make_frames(3)
    periodic = Batch.from_frames(replace(frames, cell=9.0 * np.eye(3)[None], pbc=np.ones((1, 3), bool)), CUTOFF)
    assert periodic.num_slots == 0
    assert periodic.edge_shifts.shape == (periodic.edge_index.shape[1], 3)
    assert periodic.edge_shifts.dtype == torch.float32


def test_edges_become_the_dense_layout() -> None:
    frames = make_frames(*SIZES)
    dense = Batch.from_frames(frames, CUTOFF, neighbors="dense")
    padded = Batch.from_frames(frames, CUTOFF, neighbors="torch").padded()
    assert dense.padded() is dense
    assert torch.equal(padded.positions[dense.real], dense.positions[dense.real])
    for name in ("atomic_numbers", "batch", "n_atoms", "charge"):
        assert torch.equal(getattr(padded, name), getattr(dense, name)), name
    assert padded.num_slots == dense.num_slots and padded.edge_index is None and padded.forces is None


def test_edges_stay_within_their_structure() -> None:
    batch = Batch.from_frames(make_frames(20, 30, 10), CUTOFF, neighbors="torch")
    source, target = batch.edge_index
    assert len(source) > 100
    assert torch.equal(batch.batch[source], batch.batch[target])


def test_edges_come_from_double_precision_positions() -> None:
    """Which pairs are neighbours does not depend on the precision of the model."""
    below = CUTOFF - 1e-9  # rounds to the cutoff itself in float32
    frames = Frames.build(np.array([[1, 1]]), np.array([[[0.0, 0, 0], [below, 0, 0]]]))
    batch = Batch.from_frames(frames, CUTOFF, neighbors="torch")
    assert float(batch.positions[1, 0]) == CUTOFF
    assert batch.edge_index.shape == (2, 2)


@pytest.mark.parametrize("neighbors", ["dense", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_writing_into_a_batch_leaves_the_frames_alone(neighbors, dtype) -> None:
    frames = make_frames(*SIZES)
    kept = {f.name: getattr(frames, f.name).copy() for f in fields(frames)}
    batch = Batch.from_frames(frames, CUTOFF, dtype=dtype, neighbors=neighbors)
    for f in fields(batch):
        value = getattr(batch, f.name)
        if isinstance(value, torch.Tensor):
            value.zero_()
    for name, value in kept.items():
        np.testing.assert_array_equal(getattr(frames, name), value)


@pytest.mark.parametrize("neighbors", ["dense", "torch"])
def test_read_only_frames_make_no_noise(neighbors) -> None:
    frames = make_frames(*SIZES)
    for f in fields(frames):
        getattr(frames, f.name).flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = Batch.from_frames(frames, CUTOFF, dtype=torch.float64, neighbors=neighbors)
    assert batch.num_structures == 3


@pytest.mark.parametrize("neighbors", ["auto", "torch"])
def test_a_slice_of_frames_is_enough(neighbors) -> None:
    frames = make_frames(4, 4, 4, 4)
    batch = Batch.from_frames(frames.take(slice(None, None, -2)), CUTOFF, dtype=torch.float64, neighbors=neighbors)
    np.testing.assert_array_equal(batch.energy.numpy(), frames.energy[::-2])
    np.testing.assert_array_equal(torch.stack(batch.unpad(batch.positions)).numpy(), frames.positions[::-2])


def test_moving_to_the_same_device_is_free() -> None:
    batch = Batch.from_frames(make_frames(3), CUTOFF)
    assert batch.to("cpu") is batch


def test_moving_keeps_everything() -> None:
    batch = Batch.from_frames(make_frames(3, 2), CUTOFF, neighbors="torch")
    moved = batch.to("meta")
    for f in fields(batch):
        a, b = getattr(batch, f.name), getattr(moved, f.name)
        if isinstance(a, torch.Tensor):
            assert b.device.type == "meta"
            assert b.shape == a.shape
            assert b.dtype == a.dtype
        else:
            assert a == b


def test_dense_refuses_periodic_frames() -> None:
    frames = replace(make_frames(3), cell=9.0 * np.eye(3)[None], pbc=np.ones((1, 3), bool))
    with pytest.raises(ConfigError) as caught:
        Batch.from_frames(frames, CUTOFF, neighbors="dense")
    assert "periodic" in caught.value.what
    assert "vesin" in caught.value.hint


def test_positions_that_are_no_numbers_are_refused() -> None:
    frames = make_frames(3)
    positions = frames.positions.copy()
    positions[0, 1, 1] = np.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        Batch.from_frames(replace(frames, positions=positions), CUTOFF, neighbors="torch")


@pytest.mark.parametrize("neighbors", ["auto", "dense", "vesin"])
def test_no_frames_make_an_empty_batch(neighbors) -> None:
    frames = make_frames(3).take([])
    batch = Batch.from_frames(frames, CUTOFF, neighbors=neighbors)
    assert batch.num_structures == 0
    assert batch.positions.shape == (0, 3)
    assert batch.edge_index.shape == (2, 0)
    assert batch.unpad(batch.positions) == []
