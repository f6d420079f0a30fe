"""``equimd simulate --continue``: from the last good frames of a halted run, and what is said after a halt."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from ase.io import read as read_atoms
from typer.testing import CliRunner, Result

from equimd.cli.main import app
from equimd.md.trajectory import read

pytestmark = pytest.mark.usefixtures("no_plot")


def simulate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


@pytest.fixture(scope="module")
def halted(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Two replicas halted within 320 steps, at different ones; and what was said."""
    from ase.io import write

    from .conftest import water

    folder = tmp_path_factory.mktemp("halted")
    write(folder / "water.xyz", water())
    told = simulate(
        calibrated, folder / "water.xyz", "--steps", 320, "--replicas", 2, "--save-every", 5, "--temperature", 400,
        "--uq-threshold", "0.22eV/A", "--out", folder / "sim",
    )  # fmt: skip
    assert told.exit_code == 3, told.output
    return folder / "sim", told.stderr


def test_it_goes_on_from_the_last_good_frames(halted: tuple[Path, str], calibrated: Path, tmp_path: Path) -> None:
    folder, _ = halted
    old = json.loads((folder / "summary.json").read_text())
    out = tmp_path / "on"
    told = simulate("--continue", folder, "--run", calibrated, "--uq-threshold", "off", "--out", out, "--json")
    assert told.exit_code == 0, told.output
    new = json.loads(told.stdout)
    first = min(h["step"] for h in old["halted"])
    assert new["steps"] == 320 - (first - 1) and new["settings"]["temperature"] == 400
    assert new["settings"]["replicas"] == 2 and new["continues"] == str(folder)
    for halt in old["halted"]:
        before, after = (read(f / f"trajectory-00{halt['replica']}.h5md") for f in (folder, out))
        steps = halt["step"] - 1 - before.step[-1]  # of the last frame that was written
        assert 0 <= steps <= 5
        moved = np.abs(after.positions[0] - before.positions[-1]).max()
        assert moved <= 0.5 * steps * 1.5 * np.abs(before.velocities[-1]).max() + 1e-9


def test_frames_before_a_halt_are_kept_apart_in_time(halted: tuple[Path, str]) -> None:
    folder, _ = halted
    frames = read_atoms(folder / "before_halts.extxyz", ":")
    halts = {h["replica"]: h["step"] for h in json.loads((folder / "summary.json").read_text())["halted"]}
    for replica, step in halts.items():
        own = [a.info["step"] for a in frames if a.info["replica"] == replica]
        assert len(own) == min(4, (step - 1) // 5 * 5 // 100)
        assert all(b - a == 100 for a, b in zip(own, own[1:], strict=False)) and own[-1:] < [step - 95]
        trajectory = read(folder / f"trajectory-00{replica}.h5md")
        for atoms in frames:
            if atoms.info["replica"] == replica:
                row = int(np.flatnonzero(trajectory.step == atoms.info["step"])[0])
                np.testing.assert_allclose(atoms.positions, trajectory.positions[row], atol=1e-7)


def test_advice_is_one_line_of_commands_that_parse(halted: tuple[Path, str], calibrated: Path) -> None:
    folder, said = halted
    commands = said.strip().split("Next: ")[1].split(" && ")
    assert [shlex.split(c)[1] for c in commands] == ["data", "train", "calibrate", "simulate"]
    label, train, calibrate, go_on = map(shlex.split, commands)
    assert label[3:5] == [str(folder / "flagged.extxyz"), str(folder / "before_halts.extxyz")]
    assert train[train.index("--init") + 1] == str(calibrated)
    new = train[train.index("--out") + 1]
    assert calibrate[2] == new and go_on[2:] == ["--continue", str(folder), "--run", new]
    for command in (label, train, calibrate, go_on):  # every option is known
        told = CliRunner().invoke(app, [*command[1:], "--no-such-option"])
        assert told.exit_code == 2 and "--no-such-option" in told.output


def test_refusals(halted: tuple[Path, str], calibrated: Path, molecule: Path, tmp_path: Path) -> None:
    folder, _ = halted
    for arguments, message in (
        (("--continue", tmp_path), "not a simulation to continue"),
        (("--continue", folder, "--replicas", 3), "--replicas cannot be had with --continue"),
        ((calibrated, molecule, "--continue", folder), "leave out the structure"),
    ):
        told = simulate(*arguments, "--out", tmp_path / "none")
        assert told.exit_code == 2 and message in " ".join(told.stderr.replace("│", " ").split()), told.output
        assert not (tmp_path / "none").exists()
