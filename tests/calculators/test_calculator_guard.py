"""The calculator's own guard: integrators stop at the frame that is not to be taken as true."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import get_calculator_class
from ase.db import connect
from ase.md.verlet import VelocityVerlet

import equimd
from equimd.errors import ConfigError, GuardError, UncertaintyError
from tests.training.toy import WATER

from .conftest import moving


def test_an_integrator_stops_at_the_refused_frame(runs: dict[str, Path]) -> None:
    atoms, free = moving(0.3), moving(0.3)
    atoms.calc = equimd.load(runs["calibrated"]).calculator(on_exceed="halt")
    free.calc = equimd.load(runs["calibrated"]).calculator()
    seen = []
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    dynamics.attach(lambda: seen.append(atoms.positions.copy()))
    with pytest.raises(GuardError) as caught:
        dynamics.run(200)
    error = caught.value
    # the caller had nothing of the refused frame, and the one before it was the last good one
    np.testing.assert_array_equal(error.last_accepted, seen[-1])
    assert not np.array_equal(error.structure.positions, seen[-1])
    assert error.code == "force sigma" and error.score > error.threshold > 0 and error.exit_code == 3
    # it is the frame that the decision of molecular dynamics refuses first
    reference, rule = VelocityVerlet(free, 0.5 * units.fs), free.calc.model.calibration.decision("halt")
    over = []
    reference.attach(lambda: over.append(free.calc.uncertainty(free, rule).exceeded))
    reference.run(len(seen))
    assert over == [False] * len(seen) + [True]
    sigma = error.structure.arrays["atom_score"]
    assert error.score == pytest.approx(sigma.max()) and int(sigma.argmax()) in error.atoms
    assert error.structure.arrays["responsible"].nonzero()[0].tolist() == list(error.atoms)
    assert "equimd data label" in str(error) and "atoms" in error.what
    with pytest.raises(GuardError):  # asked again, it is refused again
        atoms.get_potential_energy()


def test_warnings_come_once_an_event(runs: dict[str, Path]) -> None:
    atoms = moving(0.3)
    atoms.calc = equimd.load(runs["calibrated"]).calculator(on_exceed="flag", threshold="flag")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        VelocityVerlet(atoms, 0.5 * units.fs).run(20)
    texts = [str(w.message) for w in told if "force sigma" in str(w.message)]
    assert len(texts) == atoms.calc.guard.events == 1 and atoms.calc.guard.exceeded > 5


def test_flags_are_told_on_the_way_to_a_halt(runs: dict[str, Path]) -> None:
    model, ends = equimd.load(runs["calibrated"]), []
    for threshold in ("auto", "halt"):
        atoms = moving(0.02)
        atoms.calc = model.calculator(on_exceed="halt", threshold=threshold)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with pytest.raises(GuardError) as caught:
                VelocityVerlet(atoms, 0.5 * units.fs).run(200)
        ends.append((caught.value, atoms.calc.guard, [str(w.message) for w in told if "force sigma" in str(w.message)]))
    (both, guard, told), (alone, plain, nothing) = ends
    assert both.score == alone.score and both.threshold == alone.threshold and guard.count == plain.count
    np.testing.assert_array_equal(both.last_accepted, alone.last_accepted)
    lower = model.calibration.flag.value
    assert len(told) == 1 and f"above {lower:.4g} eV/A" in told[0] and not nothing
    assert guard.exceeded > plain.exceeded == 1


def test_thresholds(runs: dict[str, Path]) -> None:
    model = equimd.load(runs["calibrated"])
    calibration = model.calibration
    for asked, expected in (
        ("auto", calibration.decision("halt")[1]),
        ("flag", calibration.decision("flag")[1]),
        (0.5, 0.5 / calibration.error.multiplier),
        ("0.5eV/A", 0.5 / calibration.error.multiplier),
        ("off", None),
    ):
        assert model.calculator(on_exceed="halt", threshold=asked).guard.threshold == expected
    with pytest.raises(ConfigError, match="kcal"):
        model.calculator(on_exceed="halt", threshold="3kcal/mol")
    with pytest.raises(ConfigError, match="on_exceed"):
        model.calculator(on_exceed="stop")  # type: ignore[arg-type]
    for word, now in (("raise", "halt"), ("warn", "flag")):
        with pytest.raises(ConfigError, match=f"on_exceed '{word}'") as renamed:
            model.calculator(on_exceed=word)  # type: ignore[arg-type]
        assert f"'{now}'" in str(renamed.value.hint)
    with pytest.raises(ConfigError, match="without uncertainties"):
        model.calculator(on_exceed="halt", uncertainty=False)
    with pytest.raises(UncertaintyError, match="calibrat"):
        equimd.load(runs["plain"]).calculator(on_exceed="halt")


def test_physical_checks_need_no_calibration(runs: dict[str, Path]) -> None:
    atoms = Atoms([8, 1, 1], WATER)
    atoms.calc = equimd.load(runs["plain"]).calculator(on_exceed="halt", threshold="off")
    atoms.get_forces()
    atoms.positions[1] = atoms.positions[0] + [0.2, 0.0, 0.0]
    with pytest.raises(GuardError) as caught:
        atoms.get_forces()
    assert caught.value.code == "fused" and set(caught.value.atoms) == {0, 1}
    # another molecule has limits of its own
    other = Atoms([8, 1], [[0, 0, 0], [0, 0, 0.97]], calculator=atoms.calc)
    assert other.get_forces().shape == (2, 3)


def test_parameters_and_the_name_in_ase(runs: dict[str, Path], tmp_path: Path) -> None:
    made = get_calculator_class("equimd")(runs["calibrated"], on_exceed="halt", threshold="flag", charge=0)
    assert isinstance(made, equimd.EquimdCalculator)
    expected = {
        "run": str(runs["calibrated"]), "uncertainty": "auto", "on_exceed": "halt", "threshold": "flag",
        "compile": "off", "device": "cpu", "charge": 0, "spin": None,
    }  # fmt: skip
    assert made.parameters == expected and json.loads(json.dumps(made.todict())) == expected | made.todict()
    atoms = moving(0.1)
    atoms.calc = made
    atoms.get_potential_energy()
    with connect(tmp_path / "kept.json") as database:  # ASE's own, which keeps them
        database.write(atoms)
    (row,) = connect(tmp_path / "kept.json").select()
    assert row.calculator == "equimd" and row.calculator_parameters["run"] == expected["run"]


def test_what_dynamics_uses_is_the_same(runs: dict[str, Path]) -> None:
    """The step that is compiled elsewhere, and what else the calculator knows on it."""
    model = equimd.load(runs["calibrated"])
    atoms, other = moving(0.1), moving(0.1)
    atoms.calc = model.calculator(on_exceed="halt", compile="auto")
    other.calc = model.calculator(on_exceed="halt")
    for dynamics in (VelocityVerlet(a, 0.5 * units.fs) for a in (atoms, other)):
        with pytest.raises(GuardError) as caught:
            dynamics.run(200)
        assert caught.value.where == f"structure {dynamics.nsteps + 2} of the calculator"
    assert atoms.calc.guard.count == other.calc.guard.count > 2
    np.testing.assert_allclose(atoms.calc.guard.last_accepted, other.calc.guard.last_accepted, atol=1e-6)
    for one in (atoms, other):
        one.positions = atoms.calc.guard.last_accepted
        one.calc = one.calc if one is other else copy.deepcopy(one.calc)
    np.testing.assert_allclose(atoms.get_forces(), other.get_forces(), atol=1e-5)
    assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=1e-3)
    for name in ("energy_std", "atom_forces_std"):
        np.testing.assert_allclose(
            atoms.calc.get_property(name, atoms), other.calc.get_property(name, other), rtol=1e-3
        )
