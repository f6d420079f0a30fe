"""A metatomic model: energies, forces, stress and energy sigmas of the calculator, in metatomic's own calculator."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read
from typer.testing import CliRunner, Result

import equimd
from equimd.cli.main import app
from equimd.errors import ModelError
from tests.golden.saved import SAVED
from tests.pairwise import PairwiseModel
from tests.training.test_training import charged
from tests.training.test_training import start as start_training
from tests.training.toy import WATER, toy_config

mta = pytest.importorskip("metatomic.torch", reason="metatomic is not installed (pip install metatomic-torch)")
from metatensor.torch import Labels  # noqa: E402
from metatomic_ase import MetatomicCalculator  # noqa: E402

from equimd.calculators.metatomic import MEMBERS, exported  # noqa: E402

START = {"conservative": "water", "direct": "water", "periodic": "alloy", "lmax1": "ethanol"}
Found = tuple[equimd.LoadedModel, MetatomicCalculator]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A saved run, and metatomic's calculator of its exported file, with all of metatomic's own checks."""
    folder, known = tmp_path_factory.mktemp("metatomic"), dict[str, Found]()

    def of(run: str) -> Found:
        if run not in known:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", equimd.errors.EquimdWarning)  # lmax1 is not calibrated
                done = equimd.export(SAVED / run, out=folder / f"{run}.pt")
            direct = {"non_conservative": "forces", "do_gradients_with_energy": False} if run == "direct" else {}
            known[run] = equimd.load(SAVED / run), MetatomicCalculator(done.path, check_consistency=True, **direct)
        return known[run]

    return of


def start(run: str, seed: int = 1) -> Atoms:
    atoms = read(SAVED / f"{START[run]}.start.xyz")
    atoms.rattle(0.05, seed=seed)
    return atoms


def asked(
    calculator: MetatomicCalculator, atoms: Atoms | list[Atoms], name: str, kind: str = "system", **more: Any
) -> Any:
    """(S, 1) values of one output; of vectors (S, 3, 1)."""
    outputs = {name: mta.ModelOutput(unit="eV/A" if "force" in name else "eV", sample_kind=kind)}
    return calculator.run_model(atoms, outputs, **more)[name].block().values.detach().double().numpy()


@pytest.mark.parametrize("run", ["conservative", "periodic", "lmax1"])
def test_values_are_those_of_the_calculator(made: Any, run: str) -> None:
    model, theirs = made(run)
    ours = model.calculator()
    double = model.potential.dtype == torch.float64
    for seed in (1, 2):
        atoms, same = start(run, seed), start(run, seed)
        atoms.calc, same.calc = theirs, ours
        energy = same.get_potential_energy()
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9 if double else 1e-6 * abs(energy) / 4)
        np.testing.assert_allclose(atoms.get_forces(), same.get_forces(), atol=1e-10 if double else 1e-5)
        if run == "periodic":
            np.testing.assert_allclose(atoms.get_stress(), same.get_stress(), atol=1e-10)
        if run == "lmax1":
            continue
        sigma = ours.get_property("energy_std", same)
        assert asked(theirs, atoms, "energy_uncertainty")[0, 0] == pytest.approx(sigma, rel=1e-9)
        drawn = asked(theirs, atoms, "energy_ensemble")[0]
        assert len(drawn) == MEMBERS and drawn.mean() == pytest.approx(energy, abs=1e-9)
        assert drawn.std() == pytest.approx(sigma, rel=0.4)  # of 32 draws and their mirror images
        np.testing.assert_array_equal(drawn, asked(theirs, atoms, "energy_ensemble")[0])


def test_what_it_says_of_itself(made: Any) -> None:
    model, theirs = made("periodic")
    can = theirs.model().capabilities()
    assert (can.atomic_types, can.length_unit, can.dtype) == ([29, 79], "angstrom", "float64")
    assert can.interaction_range == 2 * model.potential.cutoff and can.supported_devices == ["cuda", "cpu"]
    assert set(can.outputs) == {"energy", "energy_uncertainty", "energy_ensemble"}
    assert all(output.unit == "eV" for output in can.outputs.values())
    told = theirs.metadata()
    assert told.name == "periodic" and told.extra["model_sha256"] == model.potential.identity()
    assert made("lmax1")[1].model().capabilities().dtype == "float32"
    with pytest.raises(ValueError, match="does not support the atomic type '8'"):
        asked(theirs, Atoms("O"), "energy")


def test_systems_of_any_size_together_and_parts_of_them(made: Any) -> None:
    """The parts of atoms add up to the whole, also where an engine asks for some atoms alone."""
    model, theirs = made("conservative")
    batch = [start("conservative"), Atoms("O"), Atoms("HOH", start("conservative").positions[[1, 0, 2]])]
    total = asked(theirs, batch, "energy")[:, 0]
    expected = [p.energy for p in model.predict(batch, uncertainty=False)]
    np.testing.assert_allclose(total, expected, atol=1e-9)
    parts = asked(theirs, batch, "energy", "atom")[:, 0]
    np.testing.assert_allclose([parts[:3].sum(), parts[3], parts[4:].sum()], total, atol=1e-9)
    np.testing.assert_allclose(parts[[4, 5]], parts[[1, 0]], atol=1e-9)
    chosen = Labels(["system", "atom"], torch.tensor([[0, 1], [2, 0], [2, 2]]))
    np.testing.assert_allclose(asked(theirs, batch, "energy", "atom", selected_atoms=chosen)[:, 0], parts[[1, 4, 6]])
    found = asked(theirs, batch, "energy", selected_atoms=chosen)[:, 0]
    np.testing.assert_allclose(found, [parts[1], 0.0, parts[4] + parts[6]], atol=1e-9)


def test_a_composition_that_was_not_calibrated_on_is_told_of_once(made: Any) -> None:
    _, theirs = made("conservative")
    with pytest.warns(UserWarning, match="not a composition that uncertainties were calibrated on"):
        asked(theirs, [start("conservative"), Atoms("O")], "energy_uncertainty")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked(theirs, Atoms("O"), "energy_uncertainty")


def test_direct_forces_are_an_output_and_the_energy_has_no_gradient(made: Any) -> None:
    model, theirs = made("direct")
    atoms, same = start("direct"), start("direct")
    atoms.calc, same.calc = theirs, model.calculator()
    forces = asked(theirs, atoms, "non_conservative_force", "atom")[:, :, 0]
    np.testing.assert_allclose(forces, same.get_forces(), atol=1e-5)
    np.testing.assert_allclose(
        atoms.get_forces(), forces - forces.mean(0), atol=1e-6
    )  # their calculator takes that off
    chosen = Labels(["system", "atom"], torch.tensor([[0, 2]]))
    picked = asked(theirs, atoms, "non_conservative_force", "atom", selected_atoms=chosen)
    np.testing.assert_allclose(picked[0, :, 0], forces[2], atol=1e-6)
    sigma = model.calculator().get_property("energy_std", same)
    assert asked(theirs, atoms, "energy_uncertainty")[0, 0] == pytest.approx(sigma, rel=1e-4)
    atoms.calc = MetatomicCalculator(theirs.parameters["model"])
    with pytest.raises(RuntimeError, match="does not require grad"):
        atoms.get_forces()


def test_nothing_in_the_file_stays_behind_on_another_device(made: Any) -> None:
    """Tensors that move with the module, and numbers, are all that the traced graphs hold."""
    _, theirs = made("periodic")
    module = theirs.model().module
    for graph in (module.network.inlined_graph, module.sigmas.inlined_graph):
        for node in graph.findAllNodes("prim::Constant"):
            kind = node.output().type().kind()
            assert kind != "DeviceObjType", node
            assert kind != "TensorType" or node.t("value").ndim == 0, node


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, words)])


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An uncalibrated run of several states: one of them, without uncertainties, in double precision."""
    monkeypatch.chdir(tmp_path)
    data = charged(Path("two.xyz"), [(k % 2, 1 + k % 2) for k in range(40)])
    start_training(toy_config(data, num_epochs=1), "run").fit()
    told = run("run")
    assert told.exit_code == 2 and "--charge and --spin: charge 0, spin 1; charge 1, spin 2" in told.stderr
    told = run("run", "--charge", "2", "--spin", "1")
    assert told.exit_code == 2 and "states the model never saw: charge 2, spin 1" in told.stderr
    assert not list(tmp_path.glob("*.pt"))
    told = run("run", "--charge", "1", "--spin", "2", "--dtype", "float64", "--json")
    assert told.exit_code == 0, told.output
    assert told.stderr.count("not calibrated") == 1 and "Traceback" not in told.stderr
    found = json.loads(told.stdout)
    assert found == {
        "path": "model.pt", "bytes": Path("model.pt").stat().st_size, "outputs": ["energy"], "elements": ["H", "O"],
        "interaction_range_A": found["interaction_range_A"], "dtype": "float64",
    }  # fmt: skip
    atoms = Atoms("OHH", WATER, info={"charge": 1, "spin": 2})
    atoms.calc = MetatomicCalculator("model.pt")
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = equimd.load("run").calculator()
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)  # of 2000 eV: more digits than float32 has
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-5)
    assert run("run").exit_code == 2 and "--overwrite" in run("run").stderr
    assert run("nothing", "--out", "other.pt").exit_code == 2


def test_what_cannot_be_exported_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be traced"):
        exported(equimd.LoadedModel(PairwiseModel((1, 8), cutoff=3.0, num_radial=4)), uncertainty=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "metatomic" else find(name))
    told = run(SAVED / "direct", "--out", tmp_path / "model.pt")
    assert told.exit_code == 2 and "metatomic is not installed" in told.stderr and "equimd[metatomic]" in told.stderr
