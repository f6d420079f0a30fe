"""Trajectories, stores and npz as inputs, and frames of a file by ``@``."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from equimd.data import open_dataset
from equimd.data.convert import write_frames
from equimd.data.dataset import ArrayDataset, notes
from equimd.data.given import open_given, structures_of
from equimd.data.system import System
from equimd.errors import DataError
from equimd.md.trajectory import Frame, TrajectoryWriter
from tests.data.molecules import ethanol, save_md17
from tests.potentials import WATER

#: A skewed cell whose first vector is not along x: files hold it turned.
CELL = np.array([[0.0, 9.0, 1.0], [8.0, 0.0, 0.0], [0.0, 3.0, 10.0]])


def trajectory(path: Path, cell: np.ndarray | None = None) -> np.ndarray:
    """Ten frames of water; returns their positions."""
    system = System.build(WATER, cell=cell, pbc=(cell is not None,) * 3)
    writer = TrajectoryWriter(path, system)
    positions = np.random.default_rng(0).normal(size=(10, 3, 3))
    for step, x in enumerate(positions):
        writer.append(Frame(5 * step, 2.5 * step, x, 0 * x, x, {"potential_energy": -1.0}))
    writer.flush()
    return positions


@pytest.mark.parametrize("cell", [None, CELL])
def test_a_trajectory_is_data_and_structures(tmp_path: Path, cell: np.ndarray | None) -> None:
    path = tmp_path / "trajectory.h5md"
    positions = trajectory(path, cell)
    data = open_dataset(path)
    frames = data.frames()
    np.testing.assert_allclose(frames.positions, positions, atol=1e-12)
    assert frames.numbers[0].tolist() == [8, 1, 1] and frames.pbc.all() == (cell is not None)
    assert not frames.has_energy.any() and not frames.has_forces.any(), "a model's results are no labels"
    assert any("not labels" in note for note in notes(data))
    last = structures_of(f"{path}@-1")
    assert len(last) == 1
    np.testing.assert_allclose(last[0].positions, positions[-1], atol=1e-12)
    if cell is not None:  # the same crystal: each lattice vector is a whole number of the other's
        turns = last[0].cell.array @ np.linalg.inv(cell)
        np.testing.assert_allclose(turns, turns.round(), atol=1e-9)
        assert abs(abs(np.linalg.det(turns)) - 1) < 1e-9


def test_frames_by_name(tmp_path: Path) -> None:
    block = ethanol(12)
    store, npz, xyz = tmp_path / "a.h5", tmp_path / "a.npz", tmp_path / "a.xyz"
    write_frames(store, ArrayDataset(block))
    write_frames(xyz, ArrayDataset(block))
    save_md17(npz, block)
    for path in (store, npz, xyz):
        for at, rows in (
            ("-1", [11]),
            ("3", [3]),
            ("::5", [0, 5, 10]),
            ("2:4", [2, 3]),
            ("-2:", [10, 11]),
            (":", range(12)),
        ):
            expected = block.positions[list(rows)]
            found = open_dataset(f"{path}@{at}", energy_unit="eV", length_unit="Angstrom") if path == npz else None
            found = found or open_dataset(f"{path}@{at}")
            np.testing.assert_allclose(found.frames().positions, expected, atol=1e-7)
            np.testing.assert_allclose([a.positions for a in structures_of(f"{path}@{at}")], expected, atol=1e-7)
        for at in ("12", "-13", "5:5"):
            with pytest.raises(DataError, match="has 12 frames"):
                open_dataset(f"{path}@{at}", check_units=False)
            with pytest.raises(DataError, match="has 12 frames"):
                structures_of(f"{path}@{at}")
    with pytest.raises(DataError, match="steps of 0"):
        open_dataset(f"{store}@::0")
    with pytest.raises(DataError, match="no such file"):
        open_dataset(f"{tmp_path / 'b.h5'}@-1")
    joined = open_dataset([f"{store}@:2", f"{xyz}@-1"])
    np.testing.assert_allclose(joined.frames().positions, block.positions[[0, 1, 11]], atol=1e-7)


def test_a_file_that_is_called_so_is_meant_whole(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.xyz", ArrayDataset(ethanol(3)))
    shutil.copy(tmp_path / "a.xyz", tmp_path / "a.xyz@1")
    assert len(structures_of(tmp_path / "a.xyz@1")) == 3 and len(structures_of(tmp_path / "a.xyz")) == 3


def test_bundled_sets_too() -> None:
    whole = open_given("bundled:ethanol", part="test")
    some = open_given("bundled:ethanol@-2:", part="test")
    assert some.frames().content_hashes() == whole.frames().content_hashes()[-2:]
    assert len(open_given("bundled:ethanol-val@0")) == 1
