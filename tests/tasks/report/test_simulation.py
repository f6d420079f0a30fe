"""The page of a simulation: its sections, the frames and sigmas of the 3D view, flags and halts, what is missing."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import equimd
from equimd.errors import EquimdWarning
from equimd.md.trajectory import Columns, read
from equimd.tasks.report import trajectories
from tests.tasks.report.reading import PageReader
from tests.tasks.report.test_run import call

SECTIONS = [
    "The simulation", "The molecule", "Along the trajectory", "Observables", "Distances", "Vibrations", "Torsions",
]  # fmt: skip


@pytest.fixture(scope="module")
def written(watched: Path, tmp_path_factory: pytest.TempPathFactory) -> PageReader:
    path = tmp_path_factory.mktemp("page") / "simulations.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(watched)
        equimd.report("flagged", "halted", out=path)
    assert path.stat().st_size < 1_000_000
    return PageReader(path)


def views(found: PageReader) -> list[dict[str, Any]]:
    return [spec for spec in found.data.values() if "elements" in spec]


def unpacked(replica: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    frames = len(replica["step"])
    x = np.frombuffer(base64.b64decode(replica["positions"]), "<i2").reshape(frames, -1, 3) * replica["unit"]
    return x, np.frombuffer(base64.b64decode(replica["sigmas"]), "<u2").reshape(frames, -1) / 1000


def test_sections(written: PageReader) -> None:
    assert [h for h in written.headings if h in SECTIONS] == 2 * SECTIONS
    assert "The guard halted it at step" in written.words and "Ran through 0.02 ps" in written.words
    assert "Left out: the molecule has no bond about which" in written.words
    assert [layer["at"] for layer in written.layers("Temperature") if layer["name"] == "bath 1500 K"] == [1500]
    assert {layer.get("replica") for layer in written.layers("Energy")} == {0, 1, 2}
    flagged = [x for layer in written.layers("Largest force sigma of a frame") for x in layer.get("x", ())
               if layer["name"] == "flagged frames"]  # fmt: skip
    assert flagged


def test_the_view_has_the_frames_of_the_trajectories(written: PageReader, watched: Path) -> None:
    view = views(written)[0]
    assert view["elements"] == ["O", "H", "H"] and [sorted(b) for b in view["bonds"]] == [[1, 2], [0], [0]]
    assert [r["replica"] for r in view["replicas"]] == [0, 1, 2]
    replica = view["replicas"][1]
    part = read(watched / "flagged" / "trajectory-001.h5md")
    x, sigma = unpacked(replica)
    for k, step in enumerate(part.step):
        row = replica["step"].index(int(step))
        pairs = [np.linalg.norm(p[[0, 0, 1]] - p[[1, 2, 2]], axis=-1) for p in (x[row], part.positions[k])]
        assert pairs[0] == pytest.approx(pairs[1], abs=1e-3)
        if replica["mark"][row] == "" and np.isfinite(part.atoms["force_sigma"][k]).all():
            assert sigma[row] == pytest.approx(part.atoms["force_sigma"][k], abs=1e-3)
    assert any("flagged" in mark for mark in replica["mark"])


def test_frames_that_the_screen_cleared_get_their_sigmas(kept: Path, tmp_path: Path) -> None:
    equimd.report("simulation", out=tmp_path / "page.html", frames=6)
    replica = views(PageReader(tmp_path / "page.html"))[0]["replicas"][0]
    part = read(kept / "simulation" / "traj.h5")
    lacking = [k for k in range(len(part)) if not np.isfinite(part.atoms["force_sigma"][k]).all()]
    _, sigma = unpacked(replica)
    assert lacking and (sigma < 60).all()
    from ase import Atoms

    model, compared = equimd.load("conservative"), 0
    for k in lacking:
        if int(part.step[k]) in replica["step"]:
            expected = model.predict(Atoms(part.numbers, part.positions[k])).atom_forces_std
            assert sigma[replica["step"].index(int(part.step[k]))] == pytest.approx(expected, abs=1e-3)
            compared += 1
    assert compared


def test_a_refused_frame_is_there_with_its_reason(written: PageReader, watched: Path) -> None:
    halt = json.loads((watched / "halted" / "summary.json").read_text())["halted"][0]
    replica = views(written)[1]["replicas"][0]
    row = replica["step"].index(halt["step"])
    assert replica["mark"][row] == f"refused: {halt['reason']}"
    assert f"refused: step {halt['step']} " in written.words
    crosses = [
        layer for spec in written.data.values() for layer in spec.get("layers", ()) if layer.get("mark") == "cross"
    ]
    assert crosses[0]["x"] == pytest.approx([halt["time_ps"]])


def test_both_thresholds_are_drawn(tmp_path: Path) -> None:
    made = {"steps": 20, "save_every": 5, "compile": "off", "threads": 1, "out": tmp_path / "md"}
    with pytest.warns(EquimdWarning):  # it is colder than what was calibrated for
        uq = equimd.simulate("conservative", "water.start.xyz", **made).summary["uncertainty"]
    assert (tmp_path / "md" / "simulation.png").stat().st_size > 10_000
    equimd.report(tmp_path / "md", out=tmp_path / "a.html")
    found = PageReader(tmp_path / "a.html")
    drawn = {layer["name"]: layer["at"] for layer in found.layers("Largest force sigma of a frame") if "at" in layer}
    flag, halt = uq["flag"]["threshold"], uq["threshold"]
    assert drawn == {f"flags above {flag:.3g}": flag, f"halts above {halt:.3g}": halt}
    assert f"(halt threshold), flags above {flag:.4g} eV/Å" in found.words


def test_flagged_frames_are_always_chosen() -> None:
    flagged = np.zeros(5000)
    flagged[[17, 18, 4000]] = 1
    columns = Columns(np.arange(5000), np.arange(5000.0), {"flagged": flagged, "force_sigma": np.arange(5000.0)})
    rows = trajectories.chosen(columns, 10)
    assert set(rows) >= {0, 17, 18, 4000, 4999} and len(rows) == 13
    flagged[1000:2000] = flagged[3000:3100] = 1  # too many: the worst of each stretch
    assert set(trajectories.chosen(columns, 2)) == {0, 18, 1999, 3099, 4000, 4999}


def test_what_cannot_be_had_says_why(watched: Path, tmp_path: Path) -> None:
    shutil.copytree(watched / "simulation", tmp_path / "md")
    summary = json.loads((tmp_path / "md" / "summary.json").read_text())
    summary["settings"]["run"] = "gone"
    summary["velocity_autocorrelation"] = None
    (tmp_path / "md" / "summary.json").write_text(json.dumps(summary))
    told = equimd.report(tmp_path / "md", out=tmp_path / "a.html")
    found = PageReader(tmp_path / "a.html")
    assert "No sigmas of atoms: gone there is no such run folder." in found.words
    assert views(found)[0]["replicas"][0]["sigmas"] is None or "force sigma of each atom" in found.words
    assert any("velocity autocorrelation" in line for line in told.left_out)
    (tmp_path / "md" / "traj.h5").write_bytes(b"no HDF5")
    told = equimd.report(tmp_path / "md", out=tmp_path / "b.html")
    assert sum("traj.h5: is not an HDF5 file" in line for line in told.left_out) >= 2
    assert "Observables" in PageReader(tmp_path / "b.html").headings


@pytest.mark.parametrize("content", [None, "{", "[]", '{"status": 1}'])
def test_simulations_without_a_whole_summary_are_refused(content: str | None, kept: Path, tmp_path: Path) -> None:
    shutil.copytree(kept / "simulation", tmp_path / "md")
    path = tmp_path / "md" / "summary.json"
    path.unlink() if content is None else path.write_text(content)
    told = call(tmp_path / "md", "--out", tmp_path / "page.html")
    assert told.exit_code == 2 and "summary.json" in told.stderr and "Traceback" not in told.stderr
