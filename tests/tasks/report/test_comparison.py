"""Runs side by side, and the page of what ``equimd compare`` wrote."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

import equimd
from equimd.tasks.compare.table import rows
from tests.tasks.report.reading import PageReader
from tests.tasks.report.test_run import call

MOTION = "Speed and conservation of energy side by side"


def _speed(folder: Path) -> str:
    return f"{json.loads((folder / 'summary.json').read_text())['ns_per_day_total']:.3g}"


def test_conservative_and_direct_side_by_side(kept: Path, tmp_path: Path) -> None:
    equimd.report("conservative", "direct", out=tmp_path / "page.html", test_frames=0)
    found = PageReader(tmp_path / "page.html")
    assert found.headings[1:4] == ["Runs side by side", "Errors side by side", MOTION]
    assert "equimd compare conservative direct STRUCTURE" in found.words  # what would measure it
    for name, kind in (("conservative", "conservative"), ("direct", "direct")):
        test = json.loads((kept / name / "test.json").read_text())
        assert f"{name} ({kind})" in found.words
        assert f"{test['forces_rmse_meV_per_A']:.4g}" in found.words.split("Run conservative")[1]  # behind the links


def test_a_comparison(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equimd.tasks.compare.table.plot", lambda *_: None)
    monkeypatch.setattr("equimd.tasks.simulate.plot.simulation", lambda *_, **__: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = equimd.compare(
            "conservative", "direct", "water.start.xyz", steps=10, equilibrate="5fs", save_every=1, compile="off",
            threads=1, out=tmp_path / "compared",
        )  # fmt: skip
    out = tmp_path / "page.html"
    told = equimd.report(done, out=out)
    assert told.folders == ({"path": str(done.folder), "kind": "comparison"},) and told.left_out == ()
    found = PageReader(out)
    for title, cells in rows(done.summary)[1:]:
        assert title in found.words and all(cell in found.words for cell in cells), title
        assert title in done.table()
    assert {layer["name"] for layer in found.layers("Total energy at constant energy")} == {
        "conservative (conservative)", "direct (direct)",
    }  # fmt: skip
    moved = done.folder / "direct"  # beside the other's dynamics, and a run of which nothing is known
    equimd.report("conservative", "direct", "lmax1", done.folder, moved, out=out, overwrite=True, test_frames=0)
    found = PageReader(out)
    table = found.words.split(MOTION)[1].split("Run conservative")[0]
    for title, cells in rows(done.summary)[1:]:
        if title.startswith(("step, ", "energy drift", "stable")):
            assert f"{title}{cells[0]}{cells[1]}–" in table, title
    assert f"simulated, nve, 300 K, 0.5 fs, all replicas (ns/day)–{_speed(moved)}–" in table
    (done.folder / "comparison.json").write_text("{}")
    assert call(done.folder, "--out", out, "--overwrite").exit_code == 2
