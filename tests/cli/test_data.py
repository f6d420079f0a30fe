"""`equimd data` as a user calls it: exit codes, one JSON object on stdout, everything else on stderr."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from equimd.cli.main import app
from equimd.data import ArrayDataset, Frames, open_dataset
from equimd.data.convert import write_frames

NAMES = ("list", "fetch", "inspect", "convert", "generate", "label")


def _run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, args)])


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A structure file that EMT treats in no time."""
    path = tmp_path / "Al3.xyz"
    path.write_text("3\n\nAl 0 0 0\nAl 2.6 0 0\nAl 1.3 2.25 0\n")
    return path


def test_the_help_names_all_commands_with_a_whole_sentence() -> None:
    text = _run("--help").stdout.partition("Commands:")[2]
    for name in NAMES:
        assert re.search(rf"^  {name} +[A-Z].*[^.]\.$", text, re.M), text


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_examples(name: str) -> None:
    result = _run(name, "--help")
    assert result.exit_code == 0
    assert f"      equimd data {name}" in result.stdout


def test_list_shows_licence_and_citation() -> None:
    text = _run("list").stdout
    for word in ("rmd17", "555,092 frames", "CC0-1.0", "doi:10.1088/2632-2153/abba6f", "wB97M-V/def2-TZVPD", "md22"):
        assert word in text
    assert "aspirin" not in _run("list", "md22").stdout
    listed = json.loads(_run("list", "rmd17", "--json").stdout)["collections"]
    assert [c["name"] for c in listed] == ["rmd17"]
    assert len(listed[0]["items"]) == 10


def test_unknown_names_exit_with_2() -> None:
    for args in (("list", "nothing"), ("fetch", "rmd17", "etanol"), ("fetch", "rmd17", "ethanol", "--split", "9")):
        result = _run(*args)
        assert result.exit_code == 2
        assert "try:" in result.stderr
        assert result.stdout == ""


def test_bundled_data_needs_no_fetching() -> None:
    result = _run("fetch", "bundled", "ethanol")
    assert result.exit_code == 2
    assert "--data bundled:ethanol" in result.stderr


def test_omol25_explains_its_gate(monkeypatch: pytest.MonkeyPatch, shared_data: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    result = _run("fetch", "omol25")
    assert result.exit_code == 2
    assert "CC-BY-4.0" in result.stderr
    folder = shared_data / "omol25" / "aselmdb"
    result = _run("fetch", "omol25", "--from", folder)
    assert result.exit_code == 0
    assert result.stdout.strip() == str(folder)
    assert "23 frames" in result.stderr


def test_fetch_prints_paths_of_what_is_there_already(shared_data: Path) -> None:
    result = _run("fetch", "rmd17", "ethanol", "--to", shared_data / "rmd17", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [Path(p).name for p in report["paths"]] == ["rmd17_ethanol_train_01.npz", "rmd17_ethanol_test_01.npz"]
    assert report["licence"] == "CC0-1.0"


def test_inspect_reports_as_a_table_and_as_json() -> None:
    result = _run("inspect", "bundled:ethanol-600K")
    assert result.exit_code == 0, result.output
    for words in ("500 frames, 9 atoms", "H C O", "eV, eV/Angstrom (stated)", "eV/A RMS"):
        assert words in result.stdout
    report = json.loads(_run("inspect", "bundled:ethanol-600K", "--json").stdout)
    assert report["n_frames"] == 500
    assert report["has_forces"] is True
    assert report["units"]["source"] == "stated"


def test_inspect_catches_wrong_units(shared_data: Path) -> None:
    trap = shared_data / "traps" / "rmd17_aspirin_in_meV.xyz"
    result = _run("inspect", trap, "--json")
    assert result.exit_code == 0
    assert [p["code"] for p in json.loads(result.stdout)["problems"]] == ["units_mismatch"]
    assert _run("inspect", trap, "--strict").exit_code == 2
    stated = json.loads(_run("inspect", trap, "--energy-unit", "meV", "--json", "--strict").stdout)
    assert stated["problems"] == []
    assert stated["units"]["energy"] == "meV"


def test_inspect_finds_frames_in_two_files() -> None:
    result = _run("inspect", "bundled:ethanol", "--against", "bundled:ethanol-validation")
    assert result.exit_code == 0
    assert "error  leakage  200 of 200 frames" in result.stdout


def test_missing_and_broken_files_exit_with_2(tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    for path in (tmp_path / "none.npz", tmp_path / "broken.npz", "bundled:water"):
        result = _run("inspect", path)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.output


def test_convert_and_back_keeps_every_digit(tmp_path: Path) -> None:
    first = _run("convert", "bundled:ethanol-validation", "--out", tmp_path / "a.xyz")
    assert first.exit_code == 0, first.output
    assert first.stdout.strip() == str(tmp_path / "a.xyz")
    second = _run("convert", tmp_path / "a.xyz", "--out", tmp_path / "b.h5", "--json")
    assert json.loads(second.stdout) == {"path": str(tmp_path / "b.h5"), "n_frames": 200}
    before, after = open_dataset("bundled:ethanol-validation").frames(), open_dataset(tmp_path / "b.h5").frames()
    np.testing.assert_array_equal(after.energy, before.energy)
    np.testing.assert_allclose(after.forces, before.forces, atol=1e-11)


def test_output_files_are_not_overwritten_unasked(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    out.write_text("precious")
    result = _run("convert", "bundled:ethanol-validation", "--out", out)
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    assert out.read_text() == "precious"
    assert _run("convert", "bundled:ethanol-validation", "--out", out, "--overwrite").exit_code == 0
    assert len(open_dataset(out)) == 200
    assert _run("convert", "bundled:ethanol-validation", "--out", tmp_path / "a.csv").exit_code == 2


def test_convert_refuses_unknown_units(shared_data: Path, tmp_path: Path) -> None:
    trap = shared_data / "traps" / "rmd17_aspirin_in_meV.xyz"
    result = _run("convert", trap, "--out", tmp_path / "a.h5")
    assert result.exit_code == 2
    assert "--energy-unit meV" in result.stderr
    assert _run("convert", trap, "--energy-unit", "meV", "--out", tmp_path / "a.h5").exit_code == 0


def test_generate_and_label(cluster: Path, tmp_path: Path) -> None:
    out = tmp_path / "al.h5"
    common = ("--calculator", "emt", "--time-step", "2", "--interval", "20", "--equilibration", "40")
    result = _run("generate", cluster, "--temperature", "200", "--frames", "4", "--trajectories", "2", *common,
                  "--seed", "3", "--out", out, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["n_frames"] == 4
    assert report["theory"] == "emt"
    assert "mean temperature" in result.stderr
    again = _run("label", out, "--calculator", "emt", "--out", tmp_path / "again.h5")
    assert again.exit_code == 0, again.output
    made, labelled = open_dataset(out).frames(), open_dataset(tmp_path / "again.h5").frames()
    np.testing.assert_allclose(labelled.energy, made.energy, atol=1e-12)
    np.testing.assert_allclose(labelled.forces, made.forces, atol=1e-12)


def test_generate_refuses_turns_where_nothing_turns(cluster: Path, tmp_path: Path) -> None:
    result = _run("generate", cluster, "--calculator", "emt", "--torsion-interval", "20", "--out", tmp_path / "al.h5")
    assert result.exit_code == 2
    assert "--torsion-interval" in result.stderr
    assert not (tmp_path / "al.h5").exists()


def test_label_names_the_frame_it_fails_on(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 2, 3))
    write_frames(tmp_path / "hf.xyz", ArrayDataset(Frames.build(np.array([1, 9]), x)))
    result = _run("label", tmp_path / "hf.xyz", "--calculator", "emt", "--out", tmp_path / "o.h5")
    assert result.exit_code == 2
    assert "frame 0" in result.stderr


def test_a_pattern_that_the_shell_has_spread_out(tmp_path: Path) -> None:
    """``--data part*.h5`` without quotes: the second file is no argument of any command."""
    for k in range(2):
        write_frames(
            tmp_path / f"part{k}.h5", ArrayDataset(Frames.build(np.array([1]), np.zeros((1, 1, 3)), np.ones(1)))
        )
    files = [str(tmp_path / f"part{k}.h5") for k in range(2)]
    for words in (["train", "--data", *files], ["evaluate", "run", "--data", *files]):
        told = CliRunner().invoke(app, words)
        assert told.exit_code == 2 and "in quotes, --data 'part*.h5'" in told.output, told.output
    found = _run("inspect", tmp_path / "part*.h5", "--json")
    assert found.exit_code == 0 and json.loads(found.stdout)["n_frames"] == 2
