"""docs/development/extending.md: every file it shows is written as it stands, found as a user's would be, and used."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.io import write
from typer.testing import CliRunner, Result

from equimd.cli import main
from equimd.tasks.simulate import plot
from tests.conftest import ROOT
from tests.extended import extended

runner = CliRunner()
BLOCK = re.compile(r"^```python\n(# (\w+)\.py: .*?)^```", re.MULTILINE | re.DOTALL)
PAGE = (ROOT / "docs" / "development" / "extending.md").read_text()
TOYS = {found[2]: found[1] for found in BLOCK.finditer(PAGE)}


def toys(folder: Path, *names: str) -> AbstractContextManager[list[str]]:
    """Files of the page, outside the package, as extensions for a while."""
    paths = [folder / f"{name}.py" for name in names]
    for path in paths:
        path.write_text(TOYS[path.stem])
    return extended(*paths)


def equimd(*words: object, code: int = 0) -> Result:
    result = runner.invoke(main.app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps with the radial basis of the page, by the command line."""
    from tests.training.toy import SMALL, toy_file

    folder = tmp_path_factory.mktemp("extending")
    data = toy_file(folder / "train.xyz")
    settings = {**SMALL, "radial_basis": "chebyshev", "num_epochs": 2, "splits": "30 10 0", "data": data}
    options = [w for key, value in settings.items() for w in (f"--{key.replace('_', '-')}", *str(value).split())]
    with toys(folder, "chebyshev") as added:
        equimd("train", *options, "--out", folder / "run")
        assert added == ["chebyshev"]
    return folder / "run"


def test_the_page_shows_a_file_for_each_kind() -> None:
    assert list(TOYS) == ["andersen", "chebyshev", "json_lines", "constant", "isotropic", "opening", "formula"]
    assert all(text.count("\n") <= 45 for text in TOYS.values())


def test_the_page_names_the_tables_where_they_are() -> None:
    rows = re.findall(r"^\| an? [a-z ]+ \| (`[^|]+) \| (`[^|]+) \|", PAGE, re.MULTILINE)
    assert len(rows) == 6
    for tables, files in rows:
        for table, file in zip(re.findall(r"\w+", tables), re.findall(r"`(.*?)`", files), strict=True):
            assert f"\n{table}: Registry[" in (ROOT / file).read_text(), table


def test_a_run_with_the_radial_basis_needs_its_file(trained: Path, tmp_path: Path) -> None:
    from equimd.files import file_digest
    from equimd.run import Run

    assert "radial_basis: chebyshev" in (trained / "config.yaml").read_text()
    with toys(tmp_path, "chebyshev"):
        model, _ = Run.open(trained).load_model()
        basis = model.backbone.radial(torch.tensor([0.0, 2.5, 5.0]))
        assert model.graph_key()["radial"] == file_digest(tmp_path / "chebyshev.py")  # compiled anew when it changes
    angle = torch.acos(torch.tensor([1.0, 0.0, -1.0]))[:, None]
    torch.testing.assert_close(basis, torch.cos(angle * torch.arange(6)), atol=1e-5, rtol=0)
    told = equimd("predict", trained, trained.parent / "train.xyz", code=2)
    assert "radial_basis = 'chebyshev'" in told.stderr and "'expnorm'" in told.stderr


def test_the_ensemble_is_simulated(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tasks.simulate.conftest import water

    monkeypatch.setattr(plot, "simulation", lambda *_, **__: None)
    write(tmp_path / "water.xyz", water())
    options = ("--ensemble", "andersen", "--collision-rate", 0.05, "--steps", 10, "--replicas", 2, "--save-every", 2)
    with toys(tmp_path, "andersen", "chebyshev"):
        shown = equimd("simulate", "--help").output
        assert "<langevin|nose-hoover|nve|andersen>" in shown and "how often an atom meets the bath" in shown
        told = equimd("simulate", trained, tmp_path / "water.xyz", *options, "--out", tmp_path / "a", "--json")
        summary = json.loads(told.stdout)
        assert summary["degrees_of_freedom"] == 9 and summary["conserved_quantity"] == "total energy minus the heat"
        assert summary["settings"]["collision_rate"] == 0.05
        assert "collision_rate: 0.05" in (tmp_path / "a" / "simulation.yaml").read_text()
        equimd("simulate", "--resume", tmp_path / "a", "--steps", 14)
        assert "<langevin|nose-hoover|nve|andersen>" in equimd("calibrate", "--help").output
    told = equimd("simulate", trained, tmp_path / "water.xyz", *options[:2], code=2)
    assert "'langevin', 'nose-hoover' or 'nve'" in told.stderr


def test_the_ensemble_has_its_temperature(tmp_path: Path) -> None:
    from equimd.md.ensembles import ENSEMBLES
    from equimd.md.simulation import Simulation
    from equimd.md.state import maxwell_boltzmann, temperature
    from tests.potentials import water

    molecule = water()
    x = molecule.reference.expand(64, -1, -1).clone()
    v = maxwell_boltzmann(molecule.system, x, 300.0, seed=1, replicas=range(64), bath=True)
    with toys(tmp_path, "andersen"):
        settings = SimpleNamespace(collision_rate=0.1)
        integrator = ENSEMBLES["andersen"].make(0.25, temperature=600.0, dof=9, seed=2, settings=settings)
    simulation = Simulation.start(molecule.system, integrator, molecule, x, v, dof=9)
    first = integrator.conserved(molecule.system, simulation.state)
    found = []
    simulation.run(600, observer=lambda s: found.append(float(temperature(s.system, s.state.velocities, 9).mean())))
    assert np.mean(found[300:]) == pytest.approx(600.0, rel=0.08)  # 64 replicas, 7 collision times: 2 %
    assert float((integrator.conserved(molecule.system, simulation.state) - first).abs().max()) < 0.02


def test_the_reader_opens_its_files_and_refuses_broken_ones(tmp_path: Path) -> None:
    from equimd.data import open_dataset
    from tests.training.toy import toy_frames

    frames = toy_frames(5)
    columns = ("numbers", "positions", "energy", "forces")
    rows = [{key: getattr(frames, key)[k].tolist() for key in columns} for k in range(5)]
    path = tmp_path / "frames.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with toys(tmp_path, "json_lines"):
        np.testing.assert_array_equal(open_dataset(path).frames().forces, frames.forces)
        told = json.loads(equimd("data", "inspect", path, "--json").stdout)
        assert told["format"] == "json-lines" and told["n_frames"] == 5 and told["units"]["source"] == "stated"
        path.write_text('{"numbers": [8, 1, 1]}\n')
        assert "not one frame a line: 'positions'" in equimd("data", "inspect", path, code=2).stderr


def test_the_uncertainty_method_is_compared(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from equimd.benchmarks import models
    from equimd.benchmarks.calibration import baselines, calibration_tables, sigmas
    from equimd.benchmarks.options import Options
    from equimd.benchmarks.pieces import MeasuredRow
    from equimd.benchmarks.results import merge
    from equimd.data.dataset import ArrayDataset
    from tests.training.toy import toy_frames

    held = models.HeldOut(ArrayDataset(toy_frames(150, 5)), {"300K": ArrayDataset(toy_frames(40, 6))})
    monkeypatch.setattr(models, "held_out", lambda *_: held)
    with toys(tmp_path, "constant", "chebyshev"):
        assert list(baselines.METHODS)[-1] == "constant"
        # the others take their time in tests of their own
        monkeypatch.setattr(sigmas, "METHODS", {"constant": baselines.METHODS["constant"]})
        monkeypatch.setattr(sigmas, "LAST_LAYERS", {"all": baselines.LAST_LAYERS["all"]})
        found = sigmas.measure(models.case(models.BUNDLED), trained, [], Options((tmp_path,)), 0)["methods"]
        assert list(found) == ["last-layer", "constant"] and found["constant"]["step_ratio"] > 0
        assert 0.2 < found["constant"]["splits"]["300K"]["forces"]["zms"] < 5
        row = MeasuredRow("bundled/ethanol/300K/constant/forces_zms", 1.0, "1", "equimd bench", "-", 1.0, 1, 0)
        results = merge(tmp_path / "calibration.json", "calibration", [row], {})
        assert "| bundled ethanol | 300K | one sigma for all | 1.00 |" in calibration_tables.markdown(results)


def test_the_form_is_fitted_and_saved(tmp_path: Path) -> None:
    from equimd.errors import UncertaintyError
    from equimd.uq.recalibration import Recalibration, compare_forms
    from equimd.uq.samples import Samples

    rng = np.random.default_rng(0)
    raw = rng.gamma(2.0, size=(2000, 3)) ** 2
    truth = 0.25 * raw + 0.75 * raw.mean(1, keepdims=True)
    covariance = raw[:, :, None] * np.eye(3)
    samples = Samples.build(np.sqrt(truth) * rng.standard_normal(raw.shape), covariance)
    with toys(tmp_path, "isotropic"):
        found = compare_forms(samples, samples)
        form = found.fitted["isotropic"]
        assert form.isotropic == pytest.approx(0.75, abs=0.05) and found.held_out["isotropic"] < found.held_out["scale"]
        saved = form.to_json()
        assert Recalibration.from_json(saved) == form
    with pytest.raises(UncertaintyError, match="unknown form of calibration 'isotropic'"):
        Recalibration.from_json(saved)


def test_the_suite_runs_and_joins_the_report(tmp_path: Path) -> None:
    with toys(tmp_path, "opening"):
        assert "  opening " in equimd("bench", "--help").output
        told = equimd("bench", "opening", "--out", tmp_path / "results", "--data", tmp_path)
        assert re.search(r"- bundled/ethanol/all/reader/open_ms: \d+\.\d ms", told.stdout)
        assert "## Opening" in equimd("bench", "report", "--out", tmp_path / "results").stdout


def test_the_command_runs(tmp_path: Path) -> None:
    from tests.tasks.simulate.conftest import water

    write(tmp_path / "water.xyz", water())
    with toys(tmp_path, "formula"):
        assert "  formula    formulas of the structures in a file" in equimd("--help").output
        assert equimd("formula", tmp_path / "water.xyz").stdout == "OH2\n"
        assert "did you mean 'formula'" in equimd("formla", code=2).stderr
        assert "no such file" in equimd("formula", tmp_path / "missing.xyz", code=2).stderr
    assert "no command 'formula'" in equimd("formula", tmp_path / "water.xyz", code=2).stderr


def test_help_waits_for_no_extension_that_adds_no_command(tmp_path: Path) -> None:
    (tmp_path / "andersen.py").write_text(TOYS["andersen"])
    code = (
        "import sys; from equimd.cli.main import app\ntry: app(['--help'])\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    environment = {"EQUIMD_EXTENSIONS": str(tmp_path / "andersen.py"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("words", [["--help"], ["simulate", "--help"], ["formula"], ["bench", "--help"]])
def test_a_broken_extension_is_an_error_of_one_message(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("# COMMANDS, ENSEMBLES, SUITES\nimport no_such_package\n")
    with extended(path):
        told = equimd(*words, code=2)
    assert told.stderr.startswith(f"error: extension {path}, line 2: cannot be imported: ModuleNotFoundError")
    assert "Traceback" not in told.output and told.stderr.count("\n") == 2
