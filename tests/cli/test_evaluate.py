"""``equimd evaluate``: the contract's keys, the table, the plot, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from equimd.cli.main import app
from equimd.units import KCAL_PER_MOL
from tests.training.test_training import start
from tests.training.toy import toy_config, toy_file

runner = CliRunner()
CONTRACT = {
    "n_frames", "energy_mae_meV", "energy_rmse_meV", "energy_mse_meV2", "forces_mae_meV_per_A", "forces_rmse_meV_per_A",
    "forces_mse", "per_element",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    data = toy_file(folder / "train.xyz")
    toy_file(folder / "new.xyz", n=10, seed=7)
    start(toy_config(data, num_epochs=1), folder / "run").fit()
    return folder


def test_json_is_one_object_with_the_contracts_keys(folder: Path) -> None:
    words = ["evaluate", str(folder / "run"), "--data", str(folder / "new.xyz"), "--energy-unit", "eV", "--json"]
    told = runner.invoke(app, words)
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert set(found) >= CONTRACT
    assert found["n_frames"] == 10
    assert set(found["per_element"]) == {"H", "O"}
    assert found["n_known_frames"] == 0


def test_the_table_and_its_units(folder: Path) -> None:
    words = ["evaluate", str(folder / "run"), "--data", str(folder / "new.xyz"), "--energy-unit", "eV"]
    shown = runner.invoke(app, words).stdout
    assert "meV/A" in shown
    other = runner.invoke(app, [*words, "--display-unit", "kcal/mol"]).stdout
    assert "kcal/mol/A" in other

    def mae(text: str) -> float:
        return float(next(line for line in text.splitlines() if line.startswith("forces")).split()[1])

    assert mae(other) == pytest.approx(1e-3 * mae(shown) / KCAL_PER_MOL, rel=1e-3)


def test_frames_of_the_training_are_pointed_out(folder: Path) -> None:
    words = ["evaluate", str(folder / "run"), "--data", str(folder / "train.xyz"), "--energy-unit", "eV", "--json"]
    told = runner.invoke(app, words)
    assert json.loads(told.stdout)["n_known_frames"] == 32
    assert "32 of these frames were used in training or validation" in told.stderr


def test_the_plot_is_a_png(folder: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(folder / "run"), "--data", str(folder / "new.xyz"), "--energy-unit", "eV"]
    assert runner.invoke(app, [*words, "--plot", str(tmp_path / "p.png")]).exit_code == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_refusals(folder: Path, tmp_path: Path) -> None:
    from tests.data.molecules import ethanol, save_md17

    stranger = save_md17(tmp_path / "ethanol.npz", ethanol(12))
    for words, message in (
        ([str(folder / "run"), "--data", str(stranger)], "elements the model never saw: C"),
        ([str(folder / "run"), "--data", "absent.xyz"], "absent.xyz"),
        ([str(tmp_path), "--data", str(folder / "new.xyz")], "is not a run"),
    ):
        told = runner.invoke(app, ["evaluate", *words])
        assert told.exit_code == 2
        assert message in told.stderr
        assert told.stdout == ""


def test_unlabelled_frames_cannot_be_evaluated(folder: Path, tmp_path: Path) -> None:
    bare = toy_file(tmp_path / "bare.xyz", n=4, energy=False, forces=False)
    told = runner.invoke(app, ["evaluate", str(folder / "run"), "--data", str(bare), "--energy-unit", "eV"])
    assert told.exit_code == 2
    assert "energy" in told.stderr
