"""Two models side by side: what is measured, what the command prints and writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write
from typer.testing import CliRunner, Result

from equimd.cli.main import app
from equimd.data.system import System
from equimd.errors import ConfigError, DataError
from equimd.md.trajectory import Frame, TrajectoryWriter
from equimd.tasks.compare import measures
from equimd.tasks.compare import table as report
from equimd.tasks.compare import task as workflow
from equimd.tasks.simulate import plot
from equimd.tasks.simulate.settings import parse_settings
from tests.training.test_training import start
from tests.training.toy import WATER, toy_config, toy_file

runner = CliRunner()


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulations' own plots take longer than these runs."""
    monkeypatch.setattr(plot, "simulation", lambda *_, **__: None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A conservative and a direct model of the same frames, those frames, and a start geometry."""
    folder = tmp_path_factory.mktemp("compare")
    data = toy_file(folder / "frames.xyz", n=40)
    for forces in ("conservative", "direct"):
        start(toy_config(data, forces=forces, num_epochs=20, lr=1e-2), folder / forces).fit()
    write(folder / "water.xyz", Atoms([8, 1, 1], WATER))
    names = ("conservative", "direct", "frames.xyz", "water.xyz")
    return {name.split(".")[0]: folder / name for name in names}


def compare(runs: dict[str, Path], *arguments: object) -> Result:
    fixed = [runs["conservative"], runs["direct"], runs["water"], "--compile", "off"]
    return runner.invoke(app, ["compare", *map(str, [*fixed, *arguments])])


def test_table_json_and_plot(runs: dict[str, Path], tmp_path: Path) -> None:
    short = ("--steps", 60, "--equilibrate", "10fs", "--save-every", 2, "--replicas", 2, "--dtype", "float64")
    told = compare(runs, *short, "--data", runs["frames"], "--out", tmp_path / "out", "--json")
    assert told.exit_code == 0, told.stderr
    found = json.loads(told.stdout)
    assert found == json.loads((tmp_path / "out" / "comparison.json").read_text())
    a, b = found["models"]
    assert (a["forces"], b["forces"]) == ("conservative", "direct") and a["errors"]["n_frames"] == 40
    assert a["net_force_meV_per_A"] < 0.1 < b["net_force_meV_per_A"] and a["torque_meV"] < 0.1 < b["torque_meV"]
    assert abs(a["drift_meV_per_atom_per_ps"]) < 0.1 * abs(b["drift_meV_per_atom_per_ps"])
    assert min(a["step_ms"]["eager"], b["step_ms"]["eager"], a["drift_error"]) > 0
    # the same start for both
    paths = [tmp_path / "out" / name / "start.xyz" for name in ("conservative", "direct")]
    assert paths[0].read_text() == paths[1].read_text()
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 5000
    text = str(report.table(found))
    assert "force MAE (meV/A)" in text and "energy drift, NVE, 2 x 0.03 ps" in text and "compiled" not in text
    # the dynamics is read back, not run again
    refused = compare(runs, *short, "--out", tmp_path / "out")
    assert refused.exit_code == 2 and "the output file exists" in refused.stderr and "--overwrite" in refused.stderr
    again = compare(runs, *short, "--out", tmp_path / "out", "--json", "--overwrite")
    assert [m["drift_error"] for m in json.loads(again.stdout)["models"]] == [a["drift_error"], b["drift_error"]]
    (tmp_path / "out" / "comparison.json").unlink()  # as if the comparison had been interrupted
    other = compare(runs, *short, "--seed", 1, "--out", tmp_path / "out")
    assert other.exit_code == 2 and "other settings" in other.stderr


def test_without_data_net_force_is_that_of_the_run(runs: dict[str, Path], tmp_path: Path) -> None:
    told = compare(runs, "--steps", 20, "--equilibrate", 0, "--save-every", 2, "--out", tmp_path / "out")
    assert told.exit_code == 0, told.stderr
    assert "net force, rms, frames of the run" in told.stdout and "MAE" not in told.stdout


def test_what_cannot_be_compared(runs: dict[str, Path], tmp_path: Path) -> None:
    twice = runner.invoke(app, ["compare", *map(str, (runs["direct"], runs["direct"], runs["water"]))])
    assert twice.exit_code == 2 and "one and the same run" in twice.stderr
    write(tmp_path / "argon.xyz", Atoms("Ar2", [[0, 0, 0], [0, 0, 3.0]]))
    strange = runner.invoke(
        app, ["compare", str(runs["conservative"]), str(runs["direct"]), str(tmp_path / "argon.xyz")]
    )
    assert strange.exit_code == 2 and "Ar" in strange.stderr
    settings = parse_settings({"structure": str(runs["water"])})
    with pytest.raises(ConfigError, match="keeps no energy"):
        workflow.prepare([str(runs["conservative"]), str(runs["direct"])], settings)


def test_names_tell_runs_apart() -> None:
    assert workflow.unique_names(["runs/a", "runs/b"]) == ["a", "b"]
    assert workflow.unique_names(["x/best", "y/best"]) == ["x-best", "y-best"]


def test_net_force_and_torque_of_known_forces() -> None:
    positions = np.array([[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]])
    force, torque = measures.net_force_and_torque(positions, np.array([[[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]]))
    assert (force[0], torque[0]) == pytest.approx((0.0, 2.0))
    force, torque = measures.net_force_and_torque(positions, np.array([[[0.0, 0.0, 3.0], [0.0, 0.0, 1.0]]]))
    assert (force[0], torque[0]) == pytest.approx((4.0, 2.0))
    assert measures.rms(np.array([3.0, 4.0])) == pytest.approx(1e3 * 12.5**0.5)


def test_a_replica_is_judged_until_a_bond_breaks(tmp_path: Path) -> None:
    system = System.build(np.array([1, 1]))
    rng = np.random.default_rng(0)
    writer = TrajectoryWriter(tmp_path / "trajectory.h5md", system)
    for k in range(30):
        x = np.array([[0.0, 0.0, 0.0], [0.74 + (0.6 if k >= 20 else 0.0), 0.0, 0.0]])
        energy = 1e-3 * k + 1e-5 * rng.normal() if k < 20 else 50.0
        writer.append(Frame(k, 10.0 * k, x, 0 * x, 0 * x, {"conserved": energy, "temperature": 300.0 + k}, {}))
    writer.flush()
    bonds, lengths = np.array([[0, 1]]), np.array([0.74])
    told, positions = measures.judge_replica(tmp_path / "trajectory.h5md", bonds, lengths, length_fs=290.0)
    assert told["stable_ps"] == pytest.approx(0.19) and len(positions) == 20
    assert told["drift"] == pytest.approx(50.0, rel=0.01)  # 1 meV of 2 atoms in 10 fs
    assert told["temperature_ends"] == pytest.approx([300.5, 318.5])  # of two frames each
    never, _ = measures.judge_replica(tmp_path / "no.h5", bonds, lengths, length_fs=290.0, stopped="fused")
    assert (never["stable_ps"], never["drift"], never["stopped"]) == (0.0, None, "fused")


class _Forces:
    """Of a model whose compiled form is there (``cached``), or can be made."""

    def __init__(self, cached: bool, can: bool = True) -> None:
        self.cached, self.can, self.compiled, self.asked = cached, can, None, []

    def begin(self, _: object, mode: str | None) -> None:
        self.asked.append(mode)
        self.compiled = self.can and (mode == "on" or (mode is None and self.cached))


@pytest.mark.parametrize(
    ("cached", "can", "compiled", "asked"),
    [
        ((True, False), (True, True), (True, True), ([None], [None, "on"])),
        ((False, False), (True, True), (False, False), ([None], [None])),
        ((True, True), (True, True), (True, True), ([None], [None])),
        ((True, False), (True, False), (False, False), ([None, "off"], [None, "on"])),
    ],
)
def test_both_are_compiled_or_none(cached: tuple, can: tuple, compiled: tuple, asked: tuple) -> None:
    forces = [_Forces(*pair) for pair in zip(cached, can, strict=True)]
    start, system = SimpleNamespace(positions=torch.zeros(1, 2, 3)), SimpleNamespace(masses=torch.ones(2))
    workflow.alike([SimpleNamespace(forces=f, start=start, system=system) for f in forces])
    assert tuple(f.compiled for f in forces) == compiled and tuple(f.asked for f in forces) == asked


def test_heating_at_constant_energy_has_a_name() -> None:
    def table(*heat: list[float] | None) -> dict[str, list[str]]:
        model = {
            "name": "a", "forces": "direct", "errors": None, "stable_ps": 0.03, "net_force_meV_per_A": None,
            "torque_meV": None, "step_ms": {}, "n_unstable": 1, "drift_meV_per_atom_per_ps": None,
        }  # fmt: skip
        models = [{**model, "replicas": [{"temperature_ends": h}, {}]} for h in heat]
        return dict(report.rows({"models": models, "time_ps": 20, "data": "x"}))

    title = "temperature, NVE, first and last tenth (K)"
    assert table([301.2, 3684.0], [300.0, 299.7])[title] == ["301 to 3684", "300 to 300"]
    assert title not in table(None, None)


def test_drifts_are_pooled() -> None:
    pair = [{"drift": 1.0, "drift_error": 0.1}, {"drift": 3.0, "drift_error": 0.1}]
    assert measures.pooled(pair) == {"drift": 2.0, "error": pytest.approx(1.0)}
    assert measures.pooled([{"drift": None}]) is None


def test_cpu_time_is_that_of_one_thread() -> None:
    import time

    system = System.build(np.array([1, 1]))
    assert torch.get_num_threads() == 1 and measures._clock(system) is time.process_time


def test_elements_of_the_data_are_checked_first(runs: dict[str, Path], tmp_path: Path) -> None:
    from equimd.data.dataset import ArrayDataset
    from equimd.data.frames import Frames

    strange = ArrayDataset(Frames.build(np.array([[18, 18]]), np.array([[[0, 0, 0], [0, 0, 3.0]]])))
    settings = parse_settings({"structure": str(runs["water"]), "ensemble": "nve"})
    with pytest.raises(DataError, match="never saw"):
        workflow.prepare([str(runs["conservative"]), str(runs["direct"])], settings, strange)


def test_the_table_is_even_and_fits_80_columns() -> None:
    errors = {
        "energy_mae_meV": 3.14159,
        "energy_rmse_meV": 1234.5,
        "forces_mae_meV_per_A": 0.5,
        "forces_rmse_meV_per_A": 9,
    }
    model = {
        "name": "conservative", "forces": "conservative", "errors": errors, "net_force_meV_per_A": 3e-5,
        "torque_meV": 0.0, "step_ms": {"eager": 12.345}, "stable_ps": 20.0, "n_unstable": 0, "replicas": [{}],
        "drift_meV_per_atom_per_ps": -0.012345, "drift_error": 0.00234,
    }  # fmt: skip
    sides = [model, {**model, "name": "direct", "drift_error": 250.0}]
    text = str(report.table({"models": sides, "time_ps": 20.0, "data": {}}))
    rows = {line[:30].split("  ")[0]: line.split()[-1] for line in text.splitlines()}
    assert max(map(len, text.splitlines())) <= 80
    assert rows["energy MAE (meV)"] == "3.14" and rows["energy RMSE (meV)"] == "1234"
    assert rows["force RMSE (meV/A)"] == "9.00" and rows["step, eager (ms)"] == "12.3"
    assert "-0.0123 ± 0.0023" in text and "-0 ± 250" in text
