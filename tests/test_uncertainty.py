"""Uncertainties of a calibrated run: from Python, ASE and the commands, all the same; refusals and warnings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import read, write
from typer.testing import CliRunner

import equimd
from equimd.calculators import EquimdCalculator
from equimd.cli.main import app
from equimd.data.batch import Batch
from equimd.data.dataset import ArrayDataset
from equimd.data.frames import Frames
from equimd.errors import UncertaintyError
from equimd.tasks.evaluate.measure import measure, uncertainties
from equimd.uq import metrics
from tests.guard.calibrated import calibrate_run
from tests.training.test_training import start
from tests.training.toy import toy_config, toy_file, toy_frames

runner = CliRunner()
SIGMA_KEYS = {
    "energy_std_eV", "forces_std_eV_per_A", "atom_forces_std_eV_per_A", "score_eV_per_A", "screened", "flagged", "atom"
}  # fmt: skip


@pytest.fixture(scope="module", params=["conservative", "direct"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    data = toy_file(folder / "train.xyz", n=40)
    start(toy_config(data, forces=request.param, num_epochs=2), folder / "run").fit()
    calibrate_run(folder / "run", toy_frames(40), toy_frames(60, seed=1))
    return folder / "run"


@pytest.fixture(scope="module")
def structures() -> list[Atoms]:
    """Ordinary ones, and one far from them; with positions that a file holds without rounding."""
    frames = toy_frames(5, seed=2).to_ase()
    frames[3].positions[1] += [0.6, 0.5, 0.4]
    return [Atoms(a.numbers, a.positions.round(6)) for a in frames]


@pytest.fixture
def changed(run: Path, tmp_path: Path) -> Path:
    """The run with other weights than were calibrated."""
    copy = tmp_path / "changed"
    shutil.copytree(run, copy)
    shutil.copy(copy / "last.safetensors", copy / "model.safetensors")
    meta = json.loads((copy / "calibration" / "calibration.json").read_text())
    meta["model_sha256"] = "0" * 64
    (copy / "calibration" / "calibration.json").write_text(json.dumps(meta))
    return copy


def test_predictions_have_the_calibrated_sigmas(run: Path, structures: list[Atoms]) -> None:
    model = equimd.load(run)
    found = model.predict(structures)
    batch = Batch.from_frames(Frames.from_ase(structures), model.config.cutoff, dtype=model.potential.dtype)
    expected = model.calibration.calibrated(model.potential, batch)
    decision, threshold = model.calibration.decision("flag")
    for k, p in enumerate(found):
        atoms = slice(3 * k, 3 * k + 3)
        assert p.energy_std == pytest.approx(expected.energy_std[k], rel=1e-4)
        np.testing.assert_allclose(p.forces_std, expected.component_std[atoms], rtol=1e-4)
        np.testing.assert_allclose(p.atom_forces_std, expected.force_std[atoms], rtol=1e-4)
        np.testing.assert_allclose(np.square(p.forces_std).sum(1), np.square(p.atom_forces_std), rtol=1e-9)
        assert p.atom == int(np.argmax(p.atom_forces_std))
        assert p.flagged == (p.score > threshold)
        assert p.score == pytest.approx(p.atom_forces_std.max()) or p.score < decision.level
    assert found[3].flagged
    assert found[3].score > found[0].score


def test_sigmas_turn_as_they_should(run: Path, structures: list[Atoms]) -> None:
    model = equimd.load(run)
    turned = structures[3].copy()
    turned.rotate(90, "z", center=(0, 0, 0))
    a, b = model.predict(structures[3]), model.predict(turned)
    np.testing.assert_allclose(b.atom_forces_std, a.atom_forces_std, rtol=1e-4)
    np.testing.assert_allclose(b.forces_std, a.forces_std[:, [1, 0, 2]], rtol=1e-3)


def test_without(run: Path, structures: list[Atoms], tmp_path: Path) -> None:
    assert equimd.load(run).predict(structures[0], uncertainty=False).energy_std is None
    bare = tmp_path / "bare"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns("calibration"))
    model = equimd.load(bare)
    assert model.predict(structures[0]).energy_std is None
    for ask in (
        lambda: model.predict(structures[0], uncertainty=True),
        lambda: EquimdCalculator(model, uncertainty=True),
        lambda: EquimdCalculator(model).get_property("energy_std", structures[0]),
        lambda: EquimdCalculator(model).uncertainty(structures[0]),
    ):
        with pytest.raises(UncertaintyError, match="not calibrated") as error:
            ask()
        assert f"equimd calibrate {bare} --data" in str(error.value)


def test_a_changed_model_is_refused_with_the_line_to_type(
    changed: Path, structures: list[Atoms], tmp_path: Path
) -> None:
    model = equimd.load(changed)
    with pytest.raises(UncertaintyError, match="weights have changed"):
        model.predict(structures[0])
    assert model.predict(structures[0], uncertainty=False).energy_std is None
    structures[0].copy().calc = model.calculator()
    assert np.isfinite(model.calculator().get_property("energy", structures[0]))  # nobody asked for a sigma
    write(tmp_path / "mol.xyz", structures)
    for words in (["predict", str(changed), str(tmp_path / "mol.xyz")], ["evaluate", str(changed), "--data", "x.xyz"]):
        told = runner.invoke(app, words)
        assert told.exit_code == 2
        assert f"equimd calibrate {changed} --data FRAMES" in told.stderr
        assert "--no-uncertainty" in told.stderr
        assert told.stdout == ""
    words = ["predict", str(changed), str(tmp_path / "mol.xyz"), "--no-uncertainty", "--json"]
    assert set(json.loads(runner.invoke(app, words).stdout)["structures"][0]) == {"energy_eV", "forces_eV_per_A"}


def test_other_compositions_are_warned_of_once(run: Path) -> None:
    model, hydrogen = equimd.load(run), Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])
    with pytest.warns(UserWarning, match=r"^H2: not a composition .* \(H2O\)") as caught:
        model.predict([hydrogen, hydrogen])
    assert len(caught) == 1
    calculator = model.calculator()
    with pytest.warns(UserWarning, match="H2: not a composition"):
        calculator.get_property("energy_std", hydrogen)
    hydrogen.positions[0, 2] += 0.01
    calculator.get_property("energy_std", hydrogen)  # a second warning would fail the test


def test_the_calculator_computes_sigmas_when_asked(
    run: Path, structures: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = structures[1].copy()
    expected = equimd.load(run).predict(a)
    a.calc = EquimdCalculator(run)
    calls = []
    evaluate = a.calc.model.potential.evaluate
    monkeypatch.setattr(a.calc.model.potential, "evaluate", lambda b: calls.append(1) or evaluate(b))
    a.get_forces()
    assert not {"energy_std", "forces_std", "atom_forces_std"} & set(a.calc.results)
    assert a.calc.get_property("energy_std", a) == pytest.approx(expected.energy_std, rel=1e-4)
    assert "forces_std" not in a.calc.results
    np.testing.assert_allclose(a.calc.get_property("forces_std", a), expected.forces_std, rtol=1e-4)
    np.testing.assert_allclose(a.calc.results["atom_forces_std"], expected.atom_forces_std, rtol=1e-4)
    assert len(calls) == 1  # the structure did not move
    a.positions[0] += 0.01
    a.get_forces()
    assert "forces_std" not in a.calc.results
    a.calc = EquimdCalculator(run, uncertainty=True)
    a.get_potential_energy()
    assert {"energy_std", "forces_std", "atom_forces_std"} <= set(a.calc.results)
    a.calc = EquimdCalculator(run, uncertainty=False)
    with pytest.raises(PropertyNotImplementedError):
        a.calc.get_property("energy_std", a)


def test_the_calculators_decision(run: Path, structures: list[Atoms], monkeypatch: pytest.MonkeyPatch) -> None:
    calculator = EquimdCalculator(run)
    predicted = calculator.model.predict(structures)
    level = calculator.model.calibration.levels.flag
    quiet = 0
    for a, p in zip(structures, predicted, strict=True):
        found = calculator.uncertainty(a)
        assert (found.exceeded, found.energy_std) == (p.flagged, pytest.approx(p.energy_std, rel=1e-3))
        assert found.score == pytest.approx(p.score, rel=1e-3)
        assert (found.atom_forces_std is None) == (found.score < level and found.atom is None)
        if found.atom_forces_std is None:
            quiet += 1
        else:
            np.testing.assert_allclose(found.atom_forces_std, p.atom_forces_std, rtol=1e-3)
            assert found.atom == p.atom
    assert 0 < quiet < len(structures)
    rule = calculator.model.calibration.error_decision(1e-6)
    assert calculator.uncertainty(structures[0], rule).exceeded
    assert calculator.uncertainty(structures[0], rule).threshold == rule[1]


def test_predict_writes_what_it_says(run: Path, structures: list[Atoms], tmp_path: Path) -> None:
    write(tmp_path / "mol.xyz", structures)
    told = runner.invoke(
        app, ["predict", str(run), str(tmp_path / "mol.xyz"), "--json", "--out", str(tmp_path / "o.xyz")]
    )
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)["structures"]
    for s, a, p in zip(found, read(tmp_path / "o.xyz", ":"), equimd.load(run).predict(structures), strict=True):
        assert set(s) == SIGMA_KEYS | {"energy_eV", "forces_eV_per_A"}
        assert s["energy_std_eV"] == pytest.approx(p.energy_std, rel=1e-4)
        np.testing.assert_allclose(s["forces_std_eV_per_A"], p.forces_std, rtol=1e-4)
        for key in ("forces_std", "atom_forces_std"):
            np.testing.assert_allclose(a.arrays[key], s[f"{key}_eV_per_A"], rtol=1e-6, atol=1e-7)
        assert (bool(a.info["flagged"]), a.info["atom"]) == (s["flagged"], s["atom"]) == (p.flagged, p.atom)
        assert a.info["energy_std"] == pytest.approx(s["energy_std_eV"], rel=1e-6)
    shown = runner.invoke(app, ["predict", str(run), str(tmp_path / "mol.xyz")]).stdout
    assert shown.count("sigma") == 2 * len(structures)
    assert f"atom {found[3]['atom']} is the least certain" in shown


def test_evaluate_sets_sigmas_beside_errors(run: Path) -> None:
    model, frames = equimd.load(run), toy_frames(40, seed=5)
    plain = measure(model, ArrayDataset(frames)).summary()
    known = uncertainties(model, ArrayDataset(frames), batch_size=7)
    found = known.join(plain)
    assert {k: found[k] for k in plain if k != "worst_frames"} == {k: plain[k] for k in plain if k != "worst_frames"}
    forces = model.calibration.calibrated.forces.apply(known.predictions.forces())
    assert found["uncertainty"]["forces"]["zms"] == pytest.approx(metrics.zms(forces))
    assert found["uncertainty"]["energy"]["coverage_95"] == pytest.approx(
        metrics.coverage(model.calibration.calibrated.energy.apply(known.predictions.energies()), 0.95)
    )
    assert set(found["uncertainty"]["forces"]["per_element"]) == {"H", "O"}
    predicted = model.predict(frames)
    rms = np.sqrt(np.mean([p.energy_std**2 for p in predicted]))
    assert found["energy_std_meV"] == pytest.approx(1e3 * rms, rel=1e-4)
    assert found["uncertainty"]["flag"]["n_flagged"] == sum(p.flagged for p in predicted)
    worst = found["worst_frames"][0]
    assert worst["max_force_std_meV_per_A"] == pytest.approx(
        1e3 * predicted[worst["frame"]].atom_forces_std.max(), rel=1e-4
    )


def test_evaluate_of_some_frames_and_without_labels(run: Path) -> None:
    model = equimd.load(run)
    known = uncertainties(model, ArrayDataset(toy_frames(40, seed=5, energy=False)), max_frames=9)
    assert list(known.rows[[0, -1]]) == [0, 39]
    assert len(np.unique(known.rows)) == len(known.sigmas) == 9
    assert known.summary()["energy"] is None
    assert known.summary()["forces"]["n"] == 27


def test_the_evaluate_command(run: Path, tmp_path: Path) -> None:
    data = toy_file(tmp_path / "new.xyz", n=30, seed=6)
    words = ["evaluate", str(run), "--data", str(data), "--energy-unit", "eV"]
    told = runner.invoke(app, [*words, "--json", "--uncertainty-frames", "12", "--out", str(tmp_path / "o.xyz")])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["uncertainty"]["n_frames"] == 12
    assert {"zms", "nll", "crps", "ence", "intervals"} <= set(found["uncertainty"]["forces"])
    assert found["energy_std_meV"] > 0
    assert "uncertainties 12 of 12 frames" in told.stderr
    written = read(tmp_path / "o.xyz", ":")
    assert sum("forces_std" in a.arrays for a in written) == 12
    error = np.concatenate([a.get_forces() - a.arrays["forces_ref"] for a in written])
    assert 1e3 * np.abs(error).mean() == pytest.approx(found["forces_mae_meV_per_A"], rel=1e-3)
    error = np.array([a.get_potential_energy() - a.info["energy_ref"] for a in written])
    assert 1e3 * np.abs(error).mean() == pytest.approx(found["energy_mae_meV"], rel=1e-3)
    shown = runner.invoke(app, words).stdout
    assert "ZMS" in shown
    assert "flagged: " in shown
    without = runner.invoke(app, [*words, "--no-uncertainty"])
    assert "ZMS" not in without.stdout
    assert "uncertainties" not in without.stderr and "errors 30 of 30 frames" in without.stderr
