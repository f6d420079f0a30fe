"""``equimd traj convert``: what other programs read back is what was simulated, in their units."""

from __future__ import annotations

import builtins
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.io import read as read_atoms
from ase.io import write
from ase.units import fs

import equimd
from equimd.data.system import System
from equimd.md.trajectory import Frame, TrajectoryWriter, read
from equimd.tasks.trajectory.convert import FORMATS, convert
from equimd.units import KJ_PER_MOL

from .test_analyse import traj

#: Its first vector is not along x, and it is not reduced.
CELL = np.array([[0.0, 9.0, 1.0], [8.0, 0.0, 0.0], [0.0, 12.0, 10.0]])


@pytest.fixture(scope="module")
def crystal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of three atoms in a skewed cell, from step 40 in steps of 5."""
    path, rng = tmp_path_factory.mktemp("crystal") / "trajectory.h5md", np.random.default_rng(0)
    writer = TrajectoryWriter(path, System.build([8, 1, 1], cell=CELL, pbc=(True,) * 3))
    for k in range(12):
        x = np.array([[0, 0, 0], [1.0, 0, 0], [0, 7.0, 4.0]]) + rng.normal(0, 0.05, (3, 3))
        step = 40 + 5 * k
        writer.append(Frame(step, 0.5 * step, x, rng.normal(0, 0.01, (3, 3)), rng.normal(0, 1, (3, 3))))
    writer.flush()
    return path


def distances(cell: np.ndarray, positions: np.ndarray) -> np.ndarray:
    from ase.geometry import get_distances

    return np.asarray(get_distances(positions, cell=cell, pbc=True)[1])


def test_extended_xyz_has_it_all(flagged: Path, tmp_path: Path) -> None:
    done = convert(flagged, tmp_path / "out.extxyz")
    assert done.paths == tuple(tmp_path / f"out-00{k}.extxyz" for k in range(3)) and done.n_frames == 27
    part, frames = read(flagged / "trajectory-001.h5md"), read_atoms(tmp_path / "out-001.extxyz", ":")
    assert len(frames) == len(part) == 9
    known = 0
    for k, atoms in enumerate(frames):
        assert (atoms.info["step"], atoms.info["time_fs"]) == (part.step[k], part.time[k])
        np.testing.assert_allclose(atoms.positions, part.positions[k], atol=1e-7)
        np.testing.assert_allclose(atoms.get_forces(), part.forces[k], atol=1e-7)
        np.testing.assert_allclose(atoms.get_velocities() * fs, part.velocities[k], atol=1e-7)
        assert atoms.get_potential_energy() == pytest.approx(part.observables["potential_energy"][k])
        for name in ("force_sigma", "flagged", "temperature", "conserved"):
            assert atoms.info[name] == pytest.approx(part.observables[name][k]), name
        if np.isfinite(part.atoms["force_sigma"][k]).all():
            np.testing.assert_allclose(atoms.arrays["atom_force_sigma"], part.atoms["force_sigma"][k], atol=1e-7)
            known += 1
    assert known and any(a.info["flagged"] for a in frames)
    # it comes back as it was: what is read off it is the same
    again, before = equimd.analyse(tmp_path / "out-001.extxyz"), equimd.analyse(flagged, replica=1)
    for name, of in before.found.means.items():
        same = pytest.approx([x for x in of if x is not None], rel=1e-6)
        assert [x for x in again.found.means[name] if x is not None] == same, name
    assert again.found.drift == pytest.approx(before.found.drift, rel=1e-4)
    assert [f["step"] for f in again.found.flagged] == [f["step"] for f in before.found.flagged]
    assert again.found.vibrations is not None and before.found.vibrations is not None
    np.testing.assert_allclose(again.found.vibrations.y, before.found.vibrations.y, atol=1e-6)


def test_what_is_not_known_is_not_written(ethanol: Path, tmp_path: Path) -> None:
    convert(f"{ethanol}@28:32", tmp_path / "some.xyz")
    frames = read_atoms(tmp_path / "some.xyz", ":", format="extxyz")
    assert ["atom_force_sigma" in a.arrays for a in frames] == [False, False, True, True]
    write(tmp_path / "plain.xyz", [a.copy() for a in frames], plain=True)
    convert(tmp_path / "plain.xyz", tmp_path / "again.extxyz")
    again = read_atoms(tmp_path / "again.extxyz", ":")
    assert again[0].calc is None and not again[0].has("momenta") and set(again[0].info) == {"step"}
    np.testing.assert_allclose(again[3].positions, frames[3].positions, atol=1e-7)


def test_pdb(ethanol: Path, crystal: Path, tmp_path: Path) -> None:
    convert(f"{ethanol}@28:32", tmp_path / "a.pdb")
    models = read_atoms(tmp_path / "a.pdb", ":")
    part = read(ethanol, slice(28, 32))
    assert [a.get_chemical_formula() for a in models] == ["C2H6O"] * 4
    np.testing.assert_allclose([a.positions for a in models], part.positions, atol=6e-4)
    np.testing.assert_allclose(models[3].arrays["bfactor"], 1000 * np.linspace(0.1, 0.5, 9), atol=0.01)
    assert (models[0].arrays["bfactor"] == 0).all()
    lines = [line for line in (tmp_path / "a.pdb").read_text().splitlines() if line.startswith("MODEL")]
    assert lines == [f"MODEL     {k:>4}" for k in (1, 2, 3, 4)]
    convert(crystal, tmp_path / "b.pdb")
    part = read(crystal)
    for k, atoms in enumerate(read_atoms(tmp_path / "b.pdb", ":")):
        np.testing.assert_allclose(
            distances(atoms.cell.array, atoms.positions), distances(CELL, part.positions[k]), atol=5e-3
        )


def test_ases_own(flagged: Path, tmp_path: Path) -> None:
    convert(flagged, tmp_path / "a.traj", replica=2)
    part, frames = read(flagged / "trajectory-002.h5md"), read_atoms(tmp_path / "a.traj", ":")
    np.testing.assert_array_equal([a.positions for a in frames], part.positions)
    np.testing.assert_array_equal([a.get_forces() for a in frames], part.forces)
    assert frames[2].info["flagged"] == part.observables["flagged"][2]


@pytest.mark.parametrize(("ending", "near"), [("dcd", 2e-6), ("trr", 2e-6), ("xtc", 6e-3)])
def test_what_mdanalysis_writes(ethanol: Path, crystal: Path, tmp_path: Path, ending: str, near: float) -> None:
    mda = pytest.importorskip("MDAnalysis", reason="MDAnalysis is not installed")
    for source, at, rows in ((ethanol, "@10::7", slice(10, None, 7)), (crystal, "@2::3", slice(2, None, 3))):
        part, path = read(source, rows), tmp_path / f"{source.parent.name}.{ending}"
        convert(f"{source}{at}", path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            universe = mda.Universe.empty(len(part.numbers), trajectory=False)
            universe.load_new(str(path))
            assert len(universe.trajectory) == len(part)
            for k, frame in enumerate(universe.trajectory):
                assert frame.time == pytest.approx(part.time[k] / 1000, abs=1e-5), "ps"
                if source == ethanol:
                    np.testing.assert_allclose(frame.positions, part.positions[k], atol=near)
                    assert frame.dimensions is None or not frame.dimensions[:3].any()
                else:
                    got = distances(np.asarray(frame.triclinic_dimensions), frame.positions)
                    np.testing.assert_allclose(got, distances(CELL, part.positions[k]), atol=3 * near)
                if ending == "trr":
                    speed, force = (np.linalg.norm(a[k], axis=1) for a in (part.velocities, part.forces))
                    np.testing.assert_allclose(np.linalg.norm(frame.velocities, axis=1), 1000 * speed, rtol=1e-4)
                    np.testing.assert_allclose(np.linalg.norm(frame.forces, axis=1), force / KJ_PER_MOL, rtol=1e-4)
            universe.trajectory.close()


def test_files_are_not_replaced_unasked(flagged: Path, ethanol: Path, tmp_path: Path) -> None:
    (tmp_path / "out-001.extxyz").write_text("mine")
    told = traj("convert", flagged, tmp_path / "out.extxyz")
    assert told.exit_code == 2 and "out-001.extxyz: the output file exists" in told.stderr
    assert not (tmp_path / "out-000.extxyz").exists() and (tmp_path / "out-001.extxyz").read_text() == "mine"
    told = traj("convert", flagged, tmp_path / "out.extxyz", "--overwrite", "--json")
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout) == {"paths": [f"{tmp_path}/out-00{k}.extxyz" for k in range(3)], "n_frames": 27}
    told = traj("convert", flagged, tmp_path / "one.extxyz", "--replica", 1)
    assert told.exit_code == 0 and told.stdout == f"{tmp_path / 'one.extxyz'}\n"
    told = traj("convert", f"{tmp_path / 'one.extxyz'}@:3", tmp_path / "one.extxyz", "--overwrite")
    assert told.exit_code == 2 and "is what is read" in told.stderr
    assert len(read_atoms(tmp_path / "one.extxyz", ":")) == 9


def test_endings(ethanol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = traj("convert", ethanol, tmp_path / "out.docx")
    assert told.exit_code == 2 and all(ending in told.stderr for ending in FORMATS), told.stderr
    imported = builtins.__import__

    def without(name: str, *more: Any, **named: Any) -> Any:
        if name.startswith("MDAnalysis"):
            raise ImportError(name)
        return imported(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    told = traj("convert", ethanol, tmp_path / "out.dcd")
    assert told.exit_code == 2 and "pip install 'equimd[traj]'" in told.stderr, told.stderr
    assert list(tmp_path.iterdir()) == []
