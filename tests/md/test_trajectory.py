"""Trajectories: what is written is read back, by us and by MDAnalysis, and survives kills and full disks."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from equimd.data.system import System
from equimd.errors import DataError, MachineError
from equimd.md import trajectory
from equimd.md.trajectory import Frame, TrajectoryWriter, read, trajectory_files, trajectory_path
from tests.potentials import WATER

CELL = np.array([[9.0, 0.0, 0.0], [1.0, 8.0, 0.0], [0.0, 0.0, 10.0]])


def frame(step: int) -> Frame:
    rng = np.random.default_rng(step)
    x, v, f = rng.normal(size=(3, 3, 3))
    observables = {"temperature": 300.0 + step, "flagged": step % 2}
    return Frame(step, 0.5 * step, x, 0.01 * v, f, observables, {"sigma": x[:, 0]})


def write(path: Path, steps: range, system: System | None = None, **more: object) -> TrajectoryWriter:
    units = {"temperature": "K", "sigma": "eV Angstrom-1"}
    writer = TrajectoryWriter(path, system or System.build(WATER), units=units, **more)
    for step in steps:
        writer.append(frame(step))
        if step % 7 == 0:
            writer.flush()
    writer.flush()
    return writer


def check(path: Path, steps: range) -> None:
    back = read(path)
    assert back.step.tolist() == list(steps)
    frames = [frame(s) for s in steps]
    np.testing.assert_array_equal(back.positions, [f.positions for f in frames])
    np.testing.assert_allclose(back.velocities, [f.velocities for f in frames], rtol=1e-7)
    np.testing.assert_allclose(back.forces, [f.forces for f in frames], rtol=2e-7)
    np.testing.assert_array_equal(back.time, [f.time for f in frames])
    np.testing.assert_array_equal(back.observables["temperature"], [300.0 + s for s in steps])
    np.testing.assert_allclose(back.atoms["sigma"], [f.atoms["sigma"] for f in frames], rtol=1e-7)
    assert back.numbers.tolist() == [8, 1, 1]


def test_frames_come_back(tmp_path: Path) -> None:
    write(tmp_path / "trajectory.h5md", range(30))
    check(tmp_path / "trajectory.h5md", range(30))
    assert len(read(tmp_path / "trajectory.h5md", slice(0, None, 10))) == 3
    assert os.listdir(tmp_path) == ["trajectory.h5md"]


@pytest.mark.parametrize("stop", [0, 11, 29])
def test_going_on_drops_what_came_after_the_restart(tmp_path: Path, stop: int) -> None:
    path = tmp_path / "trajectory.h5md"
    write(path, range(30))
    writer = write(path, range(0), resume_step=stop)
    check(path, range(stop + 1))
    for step in range(stop + 1, 40):
        writer.append(frame(step))
    writer.flush()
    check(path, range(40))


@pytest.mark.parametrize("periodic", [False, True])
def test_mdanalysis_reads_it(tmp_path: Path, periodic: bool) -> None:
    mda = pytest.importorskip("MDAnalysis", reason="MDAnalysis is not installed")
    system = System.build(WATER, cell=CELL, pbc=[True] * 3) if periodic else None
    write(tmp_path / "trajectory.h5md", range(20), system)
    universe = mda.Universe.empty(3)
    universe.load_new(str(tmp_path / "trajectory.h5md"), format="H5MD")
    assert len(universe.trajectory) == 20
    for step, snapshot in enumerate(universe.trajectory):
        expected = frame(step)
        assert snapshot.time == pytest.approx(step * 0.5e-3)  # ps
        np.testing.assert_allclose(snapshot.positions, expected.positions, rtol=1e-6)
        np.testing.assert_allclose(snapshot.velocities, 1000.0 * expected.velocities, rtol=1e-6)  # Angstrom/ps
        np.testing.assert_allclose(snapshot.forces, 96.48533 * expected.forces, rtol=1e-6)  # kJ/mol/Angstrom
        assert snapshot.data["trajectory/temperature"] == 300.0 + step
        if periodic:
            assert snapshot.dimensions[0] == pytest.approx(9.0)
            assert snapshot.dimensions[5] == pytest.approx(np.degrees(np.arctan2(8.0, 1.0)))
        else:
            assert snapshot.dimensions is None
    universe.trajectory.close()


FCC = 2.025 * (np.ones((3, 3)) - np.eye(3))
CELLS = {
    "first vector not along x": (2 * FCC, (1, 1, 1)),
    "left-handed": (CELL[[1, 0, 2]], (1, 1, 1)),
    "skewed": (np.array([[2, 0, 0], [3, 1, 0], [-4, 7, 2]]) @ FCC * 2, (1, 1, 1)),
    "slab without a third vector": (np.diag([0.0, 5.0, 6.0])[[2, 1, 0]] * -1.0, (1, 1, 0)),
    "wire": (np.array([[0.0, 5.0, 0.0], [0, 0, 0], [0, 0, 0]]), (1, 0, 0)),
}


@pytest.mark.parametrize("name", CELLS)
def test_mdanalysis_reads_any_cell_right(tmp_path: Path, name: str) -> None:
    """Distances by its own images are those by ours, and what we read back is what was written."""
    mda = pytest.importorskip("MDAnalysis", reason="MDAnalysis is not installed")
    from ase.geometry import complete_cell, get_distances
    from MDAnalysis.lib.distances import self_distance_array

    cell, pbc = CELLS[name]
    write(tmp_path / "trajectory.h5md", range(8), System.build(WATER, cell=cell, pbc=pbc))
    back = read(tmp_path / "trajectory.h5md")
    np.testing.assert_allclose(back.positions, [frame(k).positions for k in range(8)], atol=1e-12)
    np.testing.assert_allclose(back.velocities, [frame(k).velocities for k in range(8)], atol=1e-7)
    np.testing.assert_allclose(back.forces, [frame(k).forces for k in range(8)], atol=1e-5)
    universe = mda.Universe.empty(3)
    universe.load_new(str(tmp_path / "trajectory.h5md"), format="H5MD")
    for k, snapshot in enumerate(universe.trajectory):
        found = self_distance_array(snapshot.positions, box=snapshot.dimensions)
        expected = get_distances(frame(k).positions, cell=complete_cell(cell), pbc=np.array(pbc, bool))[1]
        np.testing.assert_allclose(found, expected[np.triu_indices(3, 1)], atol=1e-5)
        lengths = np.linalg.norm(snapshot.velocities, axis=1), np.linalg.norm(snapshot.forces, axis=1)
        np.testing.assert_allclose(lengths[0], 1000.0 * np.linalg.norm(frame(k).velocities, axis=1), rtol=1e-5)
        np.testing.assert_allclose(lengths[1], 96.48533 * np.linalg.norm(frame(k).forces, axis=1), rtol=1e-5)
    universe.trajectory.close()


def test_the_layout_is_h5md(tmp_path: Path) -> None:
    write(tmp_path / "trajectory.h5md", range(3))
    with h5py.File(tmp_path / "trajectory.h5md") as file:
        assert file["h5md"].attrs["version"].tolist() == [1, 1]
        assert {"name"} <= set(file["h5md/author"].attrs)
        assert {"name", "version"} <= set(file["h5md/creator"].attrs)
        box = file["particles/trajectory/box"].attrs
        assert box["dimension"] == 3
        assert [b.decode() if isinstance(b, bytes) else b for b in box["boundary"]] == ["none"] * 3
        assert file["particles/trajectory/sigma/value"].attrs["unit"] == "eV Angstrom-1"
        assert file["observables/trajectory/temperature/value"].attrs["unit"] == "K"
        assert file["observables/trajectory/temperature/step"] == file["particles/trajectory/position/step"]


def test_a_kill_while_writing_leaves_the_file_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any of the points between the first byte of a block and the last: the frames before it are there."""
    path = tmp_path / "trajectory.h5md"
    writer = write(path, range(10))
    writer.append(frame(10))

    class Killed(BaseException):
        pass

    def killed(*args: object) -> None:
        raise Killed

    for name in ("equimd.md.trajectory._append", "os.fsync", "os.replace", "shutil.copyfile"):
        with monkeypatch.context() as patch:
            patch.setattr(name, killed)
            with pytest.raises(Killed):
                writer.flush()
        check(path, range(10))
    again = write(path, range(0), resume_step=9)
    again.append(frame(10))
    again.flush()
    check(path, range(11))


def test_a_full_disk_is_reported_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trajectory.h5md"
    writer = write(path, range(10))
    writer.append(frame(10))
    with monkeypatch.context() as patch:
        patch.setattr(trajectory, "_append", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(MachineError, match="No space left on device.*intact"):
            writer.flush()
    check(path, range(10))
    assert os.listdir(tmp_path) == ["trajectory.h5md"]
    writer.flush()
    check(path, range(11))


def test_blocks_grow_with_the_file(tmp_path: Path) -> None:
    writer = TrajectoryWriter(tmp_path / "trajectory.h5md", System.build(WATER))
    for step in range(99):
        writer.append(frame(step))
    assert not writer.due
    writer.append(frame(99))
    assert writer.due
    writer.written = 10_000
    assert not writer.due


def test_bad_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "trajectory.h5md", range(2))
    with pytest.raises(DataError, match="is there already"):
        TrajectoryWriter(tmp_path / "trajectory.h5md", System.build(WATER))
    with pytest.raises(DataError, match="another system"):
        TrajectoryWriter(tmp_path / "trajectory.h5md", System.build([1, 1]), resume_step=1)
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("not hdf5")
    with pytest.raises(DataError, match="not an HDF5 file"):
        read(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(DataError, match="not an H5MD trajectory"):
        read(tmp_path / "other.h5")


def test_names_of_files(tmp_path: Path) -> None:
    assert trajectory_path(tmp_path, 0, 1).name == "trajectory.h5md"
    assert trajectory_path(tmp_path, 7, 32).name == "trajectory-007.h5md"
    (tmp_path / "traj-007.h5").touch()  # of an earlier version
    assert trajectory_path(tmp_path, 7, 32).name == "traj-007.h5"
    assert trajectory_path(tmp_path, 8, 32).name == "trajectory-008.h5md"
    assert trajectory_files(tmp_path) == [tmp_path / "traj-007.h5"]
