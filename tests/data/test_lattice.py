"""Nearest images in cells of every shape, against all images there are."""

from __future__ import annotations

import numpy as np
import pytest
from ase.geometry import complete_cell

from equimd.data.cells import frame_differences
from equimd.data.frames import Frames
from equimd.data.lattice import Lattice
from equimd.data.system import System
from equimd.errors import DataError

DIRECTIONS = [(1, 1, 1), (1, 1, 0), (0, 1, 1), (1, 0, 0), (0, 0, 1)]


def random_cell(rng: np.random.Generator) -> np.ndarray:
    """Of any handedness and size, skewed by other vectors of its lattice."""
    cell = (np.eye(3) + 0.2 * rng.normal(size=(3, 3))) * rng.choice([-1.0, 1.0], 3)
    skew = np.eye(3) + np.triu(rng.integers(-2, 3, (3, 3)), 1)
    return skew @ cell[rng.permutation(3)] * rng.uniform(2.0, 6.0)


def all_images(delta: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Shortest lengths of differences (P, 3), among every image that can be as short as they are."""
    given = complete_cell(np.where(pbc[:, None], cell, 0.0))
    longest = np.linalg.norm(delta, axis=1).max()
    counts = np.where(pbc, np.ceil(2 * longest * np.linalg.norm(np.linalg.inv(given), axis=0)), 0).astype(int)
    grid = np.array(list(np.ndindex(*(2 * counts + 1)))) - counts
    return np.linalg.norm(delta[:, None] + grid @ given, axis=-1).min(1)


@pytest.mark.parametrize("pbc", DIRECTIONS, ids=str)
def test_random_cells(pbc: tuple[int, int, int]) -> None:
    rng, flags = np.random.default_rng(sum(pbc)), np.array(pbc, bool)
    wrong = 0
    for _ in range(6):
        cell = random_cell(rng)
        lattice = Lattice.of(cell, pbc)
        delta = rng.normal(size=(12, 3))
        found = lattice.nearest(delta)
        lengths = np.linalg.norm(found, axis=1)
        np.testing.assert_allclose(lengths, all_images(delta, cell, flags), atol=1e-10)
        hops = (found - delta) @ np.linalg.inv(complete_cell(np.where(flags[:, None], cell, 0.0)))
        np.testing.assert_allclose(hops, hops.round() * flags, atol=1e-9)
        far = delta + rng.integers(-9, 9, delta.shape) * flags @ cell
        np.testing.assert_allclose(np.linalg.norm(lattice.nearest(far), axis=1), lengths, atol=1e-9)
        for reach in (0.5, 2.0):
            short = np.linalg.norm(lattice.nearest(delta, reach), axis=1)
            np.testing.assert_allclose(np.minimum(short, reach), np.minimum(lengths, reach), atol=1e-10)
        rounded = delta - (delta @ np.linalg.inv(complete_cell(cell))).round() * flags @ cell
        wrong += int((np.linalg.norm(rounded, axis=1) > lengths + 1e-6).sum())
    assert wrong or sum(pbc) == 1, "rounding finds all of them: the cells are too easy"


def test_what_is_not_finite_stays_so() -> None:
    lattice = Lattice.of(4.0 * np.eye(3), (True, True, True))
    found = lattice.nearest(np.array([[np.nan, 0, 0], [np.inf, 0, 0], [3.0, 0, 0]]))
    assert not np.isfinite(found[:2]).all(1).any() and found[2].tolist() == [-1.0, 0.0, 0.0]


def test_frames_of_several_cells() -> None:
    cells = np.stack([4.0 * np.eye(3), np.zeros((3, 3)), 5.0 * np.eye(3), np.diag([4.0, 0, 0])])
    pbc = np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]], bool)
    positions = np.tile([[0.0, 0, 0], [3.0, 3.0, 0]], (4, 1, 1))
    frames = Frames.build(np.full((4, 2), 13), positions, cell=cells, pbc=pbc)
    found = frame_differences(frames, np.array([0]), np.array([1]))[:, 0]
    assert found.tolist() == [[-1, -1, 0], [3, 3, 0], [-2, -2, 0], [-1, 3, 0]]


def test_open_directions_need_no_vector_and_periodic_ones_do() -> None:
    system = System.build([13], cell=np.diag([4.0, 5.0, 0.0]), pbc=(True, True, False))
    assert system.lattice is not None
    assert system.lattice.nearest(np.array([[3.0, 3.0, 99.0]])).tolist() == [[-1.0, -2.0, 99.0]]
    with pytest.raises(DataError, match="absent or zero"):
        System.build([13], cell=np.diag([4.0, 5.0, 0.0]), pbc=(True, True, True))
    with pytest.raises(DataError, match="not independent"):
        System.build([13], cell=np.ones((3, 3)), pbc=(True, True, False))
