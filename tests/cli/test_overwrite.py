"""No command replaces what another run made unless it is told to, and each looks at the place of its output first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ase import Atoms
from ase.io import write
from typer.testing import CliRunner

from equimd.cli.main import app
from equimd.errors import RunError
from equimd.files import check_output, new_folder

runner = CliRunner()
#: Words of each command that writes, with the file that another run left.
COMMANDS = {
    "train": ("train --data water.xyz --out out", "out/run.json"),
    "calibrate": ("calibrate run --data water.xyz --name 300K", "run/calibration/300K/calibration.json"),
    "audit": ("audit run --starts water.xyz", "run/certificate.json"),
    "simulate": ("simulate run water.xyz --out out", "out/start.safetensors"),
    "predict": ("predict run water.xyz --out out.xyz", "out.xyz"),
    "export": ("export run --out out.pt", "out.pt"),
    "evaluate": ("evaluate run --data water.xyz --out out.xyz", "out.xyz"),
    "evaluate --plot": ("evaluate run --data water.xyz --plot out.png", "out.png"),
    "compare": ("compare run run water.xyz --out out", "out/comparison.json"),
    "learn": ("learn water.xyz --out out", "out/learn.yaml"),
    "generate": ("data generate water.xyz --out out.h5", "out.h5"),
    "label": ("data label water.xyz --out out.h5", "out.h5"),
    "convert": ("data convert water.xyz --out out.h5", "out.h5"),
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a structure and a run that no command gets as far as to open."""
    write(tmp_path / "water.xyz", Atoms("OHH", [[0, 0, 0], [0, 0.76, 0.59], [0, -0.76, 0.59]]))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"version": 1}')
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_results_are_not_replaced_unasked(name: str) -> None:
    words, left = COMMANDS[name]
    Path(left).parent.mkdir(exist_ok=True, parents=True)
    Path(left).write_text("results")
    told = runner.invoke(app, words.split())
    assert (told.exit_code, told.stdout) == (2, ""), told.output
    assert "holds another" in told.stderr or "the output file exists" in told.stderr
    assert "--overwrite" in told.stderr and Path(left).read_text() == "results"
    if name not in ("learn", "generate", "label"):  # these would work, and take a while
        told = runner.invoke(app, [*words.split(), "--overwrite"])
        assert "holds another" not in told.stderr and "the output file exists" not in told.stderr


@pytest.mark.parametrize("name", list(COMMANDS))
def test_an_output_that_cannot_be_written_is_said_before_the_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)  # who runs tests as root may write anywhere
    told = runner.invoke(app, COMMANDS[name][0].split())
    assert (told.exit_code, told.stdout) == (2, "") and "may not be written to" in told.stderr, told.output


def test_folders_of_others_and_what_is_read_stay(tmp_path: Path) -> None:
    made = ("run", "run.json")
    folder = tmp_path / "folder"
    folder.mkdir()
    check_output(folder, made=made)
    (folder / "thesis.tex").write_text("years")
    with pytest.raises(RunError, match="not empty"):
        check_output(folder, True, made=made)
    (folder / "run.json").touch()
    with pytest.raises(RunError, match=r"thesis\.tex is read from it"):
        check_output(folder, True, made=made, reads=["water.xyz", folder / "thesis.tex"])
    check_output(folder, True, made=made, reads=["water.xyz"])
    assert list(new_folder(folder).iterdir()) == [] and not list(tmp_path.glob(".*"))
    with pytest.raises(RunError, match="is a file, not a folder"):
        check_output(tmp_path / "water.xyz" / "run", made=made)
