"""``equimd traj analyse`` and ``equimd.analyse``: known answers, folders and files, what is refused."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from typer.testing import CliRunner, Result

import equimd
from equimd.cli.main import app
from equimd.errors import ConfigError, DataError
from equimd.md.observables import distances
from equimd.md.recorded import Recorded, gathered
from equimd.md.trajectory import read
from equimd.shown import with_error
from tests.data.molecules import ethanol as frames_of_ethanol
from tests.data.molecules import save_md17
from tests.golden.saved import SAVED

from .conftest import FRAMES, PERIOD, STEP, SWING


def traj(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["traj", *map(str, arguments)])


def test_known_answers(ethanol: Path) -> None:
    done = equimd.analyse(ethanol)
    found = done.found
    assert (found.formula, found.n_frames, found.interval_fs) == ("C2H6O", FRAMES, STEP)
    energy = read(ethanol).observables["potential_energy"]
    assert found.means["potential_energy"].mean == pytest.approx(energy.mean())
    assert found.means["potential_energy"].error == pytest.approx(energy.std() / FRAMES**0.5, rel=0.4)
    assert found.means["temperature"][:3] == (300, 0, 0)
    assert found.drift is not None and found.drift.slope == pytest.approx(1.0), "9e-6 eV/fs over nine atoms"
    bonds = {b.name: b.length for b in found.bonds}
    assert len(bonds) == 8
    assert bonds["C0-C1"].mean == pytest.approx(1.512, abs=1e-3)
    assert bonds["C0-C1"].std == pytest.approx(SWING / 2**0.5, rel=0.01)
    assert bonds["O2-H3"].std == pytest.approx(0, abs=1e-9)
    (torsion,) = found.torsions
    assert torsion.name == "C0-C1-O2-H3" and torsion.share.sum() == pytest.approx(1)
    assert [round(abs(w.centre)) for w in torsion.wells] in ([60, 60, 180], [180, 60, 60])
    assert [w.population.mean for w in torsion.wells] == pytest.approx([1 / 3] * 3)
    assert all(0.02 < w.population.error < 0.2 for w in torsion.wells), "twelve turns, not 240 independent frames"
    assert found.vibrations is not None
    top = found.vibrations.x[found.vibrations.y.argmax()]
    assert top == pytest.approx(1 / (PERIOD * STEP * 2.99792458e-5), rel=0.02)
    assert [f["step"] for f in found.flagged] == list(range(240, 320, 8)) and found.events == ()
    assert found.flagged[0]["force_sigma_eV_per_A"] == 0.5 and found.left_out == ()
    assert "C0-C1" in done.table() and "10 of 240 saved frames" in done.table() and len(done.table()) < 2000


def test_some_of_the_frames(ethanol: Path) -> None:
    done = equimd.analyse(f"{ethanol}@20:40:2")
    assert done.found.n_frames == 10 and done.found.interval_fs == 2 * STEP
    assert [f["step"] for f in done.found.flagged] == [240, 256, 272, 288, 304]
    (well,) = done.found.torsions[0].wells
    assert abs(well.centre) == pytest.approx(180) and well.population.mean == 1
    for rows, most in (((0, 1, 2), None), (range(0, 10, 4), 3)):
        run = Recorded.of(ethanol, slice(20, 40, 2))
        got = np.concatenate([part.step for part in run.blocks(most, size=2)])
        expected = run.columns.step if most is None else run.columns.step[list(rows)]
        assert got.tolist() == expected.tolist()
    values, which = gathered([run, run], lambda part: distances(part.positions, [0], [1])[:, 0], 8)
    assert len(values) == len(which) == 8 and which.tolist() == [0] * 4 + [1] * 4


def test_a_simulation_with_several_replicas(flagged: Path, tmp_path: Path) -> None:
    done = equimd.analyse(flagged, out=tmp_path / "out")
    summary = json.loads((flagged / "summary.json").read_text())
    found = done.found
    assert list(done.source.runs) == [0, 1, 2] and found.n_frames == summary["n_frames"]
    assert found.means["temperature"].mean == pytest.approx(summary["temperature_K_mean"])
    assert found.drift is not None and found.drift.slope == pytest.approx(summary["drift_meV_per_atom_per_ps"])
    assert found.distances is not None and found.distances.y.tolist() == summary["distances"]["h_per_A"]
    assert len(found.events) == summary["n_flagged"] > 0
    assert "force sigma" in found.events[0]["reason"]
    assert f"{len(found.flagged)} of {found.n_frames} saved frames" in done.table()
    one = equimd.analyse(flagged, replica=1)
    assert list(one.source.runs) == [1] and all(e["replica"] == 1 for e in one.found.events)
    # and the files
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names >= {"analysis.json", "analysis.png", "means.csv", "bonds.csv", "distances.csv", "frames.csv"}
    assert json.loads((tmp_path / "out" / "analysis.json").read_text()) == done.to_json()
    assert (tmp_path / "out" / "analysis.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "out" / "frames.csv").read_text().splitlines()))
    assert len(rows) == found.n_frames and rows[-1]["replica"] == "2" and rows[-1]["step"] == "40"
    temperature = read(flagged / "trajectory-000.h5md").observables["temperature"]
    assert float(rows[3]["temperature"]) == pytest.approx(temperature[3])


def test_the_command(flagged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = traj("analyse", flagged, "--replica", 2, "--json")
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout) == equimd.analyse(flagged, replica=2).to_json()
    monkeypatch.setattr("equimd.tasks.trajectory.plot.save_figure", lambda _, path: path.write_bytes(b"PNG"))
    told = traj("plot", flagged, tmp_path / "a.png")
    assert told.exit_code == 0 and told.stdout == f"{tmp_path / 'a.png'}\n", told.stderr
    assert traj("plot", flagged, tmp_path / "a.png").exit_code == 2
    for _ in range(2):
        told = traj("analyse", flagged, "--out", tmp_path / "out", "--overwrite")
        assert told.exit_code == 0 and "temperature (K)" in told.stdout, told.stderr


def test_the_former_name(tmp_path: Path) -> None:
    found = equimd.analyse(SAVED / "simulation").found
    assert found.n_frames == len(read(SAVED / "simulation" / "traj.h5")) and "potential_energy" in found.means


def test_files_of_others(tmp_path: Path) -> None:
    """Positions, and energies where their unit is known; times by --interval."""
    block = frames_of_ethanol(40)
    save_md17(tmp_path / "a.npz", block)
    write(tmp_path / "a.xyz", [Atoms(a.numbers, a.positions) for a in block.to_ase()])
    energies = equimd.analyse(tmp_path / "a.npz").found
    assert energies.means["potential_energy"].mean == pytest.approx(block.energy.mean())
    found = equimd.analyse(tmp_path / "a.xyz", interval=0.5).found
    assert found.means == {} and found.time_ps == pytest.approx(39 * 0.5e-3)
    assert any("potential energy" in line for line in found.left_out)
    bonds = {b.name: b.length.mean for b in found.bonds}
    assert bonds.keys() == {b.name for b in energies.bonds}
    i, j = found.bonds[0].atoms
    lengths = np.linalg.norm(block.positions[:, i] - block.positions[:, j], axis=-1)
    assert found.bonds[0].length.mean == pytest.approx(lengths.mean(), abs=1e-6)
    assert "left out: times" in equimd.analyse(tmp_path / "a.xyz").table()


def test_what_is_refused(ethanol: Path, flagged: Path, tmp_path: Path) -> None:
    write(tmp_path / "two.xyz", [Atoms("OH"), Atoms("HO")])
    cells = [Atoms("Cu", cell=[a, 3, 3], pbc=True) for a in (3, 3.5)]
    write(tmp_path / "npt.extxyz", cells)
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.h5md").write_bytes(ethanol.read_bytes()[:-3000])
    (tmp_path / "none.h5md").write_bytes(b"")
    shutil.copytree(flagged, tmp_path / "cut")
    (tmp_path / "cut" / "trajectory-001.h5md").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 90)
    shutil.copytree(flagged, tmp_path / "nothing")
    for path in (tmp_path / "nothing").glob("*.h5md"):
        path.unlink()
    for given, message in (
        ([tmp_path / "absent"], "no such file or folder"),
        ([tmp_path / "empty"], "is no simulation"),
        ([SAVED / "direct"], "is no simulation"),
        ([tmp_path / "none.h5md"], "the file is empty"),
        ([tmp_path / "cut.h5md"], "HDF5 file"),
        ([tmp_path / "cut"], "trajectory-001.h5md: is not an HDF5 file, or damaged"),
        ([tmp_path / "nothing"], "no frame was saved"),
        ([tmp_path / "two.xyz"], "of another molecule or atom order than the first"),
        ([tmp_path / "npt.extxyz"], "the volume changes"),
        ([f"{ethanol}@240"], "has 240 frames, and none of them is meant"),
        ([f"{flagged}@9:"], "has 9 frames, and none of them is meant"),
        ([f"{ethanol}@::-1"], "against the order of time"),
        ([flagged, "--replica", 3], "no replica 3"),
        ([ethanol, "--replica", 0], "has no replicas"),
        ([flagged, "--out", flagged], "the output folder is not empty"),
    ):
        for words in (["analyse", *given], ["convert", given[0], tmp_path / "x.extxyz", *given[1:]]):
            if "--out" in words and words[0] == "convert":
                continue
            told = traj(*words)
            assert told.exit_code == 2 and message in re.sub(r"\s+", " ", told.stderr), (words, told.stderr)
            assert ("try:" in told.stderr or "empty" in message) and "Traceback" not in told.stderr, told.stderr
    with pytest.raises(ConfigError, match="not a trajectory: int"):
        equimd.analyse(3)
    with pytest.raises(DataError, match="no replica 7"):
        equimd.analyse(flagged, replica=7)


def test_numbers_have_the_digits_of_their_errors() -> None:
    assert with_error(1.53071, 0.00214) == "1.5307 ± 0.0021"
    assert with_error(301.2, 10.4) == "301 ± 10" and with_error(-309.7552, 0.0169) == "-309.755 ± 0.017"
    assert with_error(100.0, 0.0, 0) == "100" and with_error(1.0, float("inf")) == "1.00"


def test_bundled_frames_are_frames_like_those_of_a_file() -> None:
    found = equimd.analyse("bundled:ethanol-val@:20").found
    assert (found.formula, found.n_frames) == ("C2H6O", 20) and found.means["potential_energy"].mean < -300
