"""Batches: every frame once an epoch, the same order for the same seed, little padding, workers or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equimd.data.dataset import ArrayDataset
from equimd.training.batching import shuffled_batches, sorted_batches
from equimd.training.loader import FrameSource, Loader
from tests.training.toy import toy_frames


@pytest.mark.parametrize("mixed", [False, True])
def test_each_epoch_has_every_frame_once_in_an_order_of_its_own(mixed: bool) -> None:
    sizes = np.where(np.arange(103) % 3 == 2, 2, 9) if mixed else np.full(103, 9)
    orders = [shuffled_batches(sizes, 10, seed=4, epoch=e) for e in (0, 1, 0)]
    for order in orders:
        assert sorted(np.concatenate(order).tolist()) == list(range(103))
    assert all(np.array_equal(a, b) for a, b in zip(orders[0], orders[2], strict=True))
    assert not np.array_equal(np.concatenate(orders[0]), np.concatenate(orders[1]))
    assert not np.array_equal(np.concatenate(orders[0]), np.concatenate(shuffled_batches(sizes, 10, seed=5, epoch=0)))


def test_mixed_sizes_are_batched_with_little_padding() -> None:
    sizes = np.random.default_rng(0).integers(4, 24, 5000)
    order = shuffled_batches(sizes, 10, seed=0, epoch=0)
    padded = sum(len(b) * sizes[b].max() for b in order)
    assert padded < 1.03 * sizes.sum()
    widths = np.array([sizes[b].max() for b in order])
    assert abs(np.corrcoef(np.arange(len(widths)), widths)[0, 1]) < 0.1  # small and large come mixed


def test_sorted_batches_cover_all_frames() -> None:
    sizes = np.array([5, 2, 9, 2, 5])
    order = sorted_batches(sizes, 2)
    assert [b.tolist() for b in order] == [[1, 3], [0, 4], [2]]


def test_frames_kept_in_memory_and_read_on_demand_are_the_same() -> None:
    data = ArrayDataset(toy_frames(20, mixed=True))
    rows = np.arange(3, 17)
    held = FrameSource(data, rows, 5.0, torch.float64)
    read = FrameSource(data, rows, 5.0, torch.float64, memory=0)
    index = np.array([5, 0, 9])
    a, b = held.batch(index), read.batch(index)
    assert torch.equal(a.positions, b.positions)
    assert torch.equal(a.energy, b.energy)
    assert a.energy.tolist() == data.frames(rows[index]).energy.tolist()


def test_workers_yield_the_same_batches_in_the_same_order() -> None:
    source = FrameSource(ArrayDataset(toy_frames(12)), None, 5.0, torch.float32)
    here, elsewhere = Loader(source), Loader(source, num_workers=1)
    for epoch in range(2):
        order = shuffled_batches(source.sizes, 4, seed=0, epoch=epoch)
        for a, b in zip(here(order), elsewhere(order), strict=True):
            assert torch.equal(a.positions, b.positions)
            assert torch.equal(a.forces, b.forces)
