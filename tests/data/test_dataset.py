"""Data sets: rows in the order asked for, joined or chosen, and never a view of the stored arrays."""

from __future__ import annotations

import tracemalloc
from dataclasses import fields

import numpy as np
import pytest

from equimd.data import ArrayDataset, ConcatDataset, Dataset, Subset
from equimd.data.dataset import iterate_blocks, time_index
from equimd.data.frames import Frames
from equimd.errors import DataError

from .molecules import assert_same, ethanol, mixed


def test_frames_are_copies_also_when_all_are_asked_for() -> None:
    data = ArrayDataset(ethanol())
    for rows in (None, [0, 1]):
        data.frames(rows).positions[:] = 0.0
    assert_same(data.frames(), ethanol())


def test_joined_rows_come_in_the_order_asked_for() -> None:
    a, b = ArrayDataset(ethanol(5)), ArrayDataset(mixed(6))
    joined = ConcatDataset([a, b])
    whole = Frames.concatenate([a.frames(), b.frames()])
    rows = [10, 0, 6, 4, 5, 10]
    assert_same(joined.frames(rows), whole.take(rows))
    assert_same(joined.frames([1, 0]), ethanol(5).take([1, 0]))
    assert np.array_equal(joined.n_atoms, whole.n_atoms)
    assert joined.elements == (1, 6, 8)
    assert len(joined.frames([])) == 0
    for wrong in (11, -1):
        with pytest.raises(IndexError):
            joined.frames([wrong])


def test_joined_rows_are_those_of_their_parts_whatever_their_width_and_labels() -> None:
    bare = ethanol(4)
    bare.forces[:], bare.energy[:], bare.charge[:], bare.weight[:] = np.nan, np.nan, -1, 2.0
    parts = [ArrayDataset(mixed(6)), ArrayDataset(bare), ArrayDataset(mixed(8))]
    rows = [12, 7, 0, 6, 2, 9, 11]
    found = ConcatDataset(parts).frames(rows)
    assert found.numbers.shape == (7, 9) and found.positions.dtype == np.float64 and found.numbers.dtype == np.uint8
    for k, row in enumerate(rows):
        part, own = (0, row) if row < 6 else (1, row - 6) if row < 10 else (2, row - 10)
        alone = parts[part].frames([own])
        assert_same(found.take([k]), alone)
        rest = found.forces[k, alone.numbers.shape[1] :]
        assert np.isnan(rest).all() if np.isnan(alone.forces).all() else (rest == 0).all()


def test_joined_rows_take_little_more_memory_than_they_hold() -> None:
    joined = ConcatDataset([ArrayDataset(ethanol(4000)) for _ in range(8)])
    rows = np.random.default_rng(0).permutation(len(joined))
    tracemalloc.start()
    found = joined.frames(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.6 * sum(getattr(found, f.name).nbytes for f in fields(Frames))


def test_joined_trajectories_stay_apart_and_time_needs_all_parts() -> None:
    a = ArrayDataset(ethanol(4), trajectory=np.array([0, 0, 1, 1]), time_index=np.arange(4))
    b = ArrayDataset(ethanol(2), time_index=np.array([7, 9]))
    joined = ConcatDataset([a, b])
    assert joined.trajectory.tolist() == [0, 0, 1, 1, 2, 2]
    assert time_index(joined).tolist() == [0, 1, 2, 3, 7, 9]
    assert time_index(ConcatDataset([a, ArrayDataset(ethanol(2))])) is None
    assert time_index(Subset(joined, [5, 0])).tolist() == [9, 0]
    with pytest.raises(DataError, match="no data sets"):
        ConcatDataset([])


def test_subset_and_blocks() -> None:
    data = ArrayDataset(mixed())
    part = Subset(data, np.arange(0, 20, 2))
    assert part.elements == (1, 8)
    assert_same(part.frames([3, 1]), data.frames([6, 2]))
    assert_same(Frames.concatenate(list(iterate_blocks(data, 7))), data.frames())
    assert isinstance(part, Dataset) and isinstance(data, Dataset)


def test_per_frame_arrays_of_another_length_are_refused() -> None:
    with pytest.raises(DataError, match="trajectory"):
        ArrayDataset(ethanol(3), trajectory=np.zeros(2))
