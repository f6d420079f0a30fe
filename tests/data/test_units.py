"""The rule that infers units: every unit recognised, every contradiction refused, no false alarm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from equimd.data import Frames, open_dataset
from equimd.data.unit_rule import THERMAL, judge_units
from equimd.errors import ConfigError, UnitsError
from equimd.units import BOHR, ENERGY_UNITS, HARTREE, KCAL_PER_MOL, LENGTH_UNITS

from .molecules import assert_same, ethanol, save_md17


def _in(block: Frames, energy: float, length: float = 1.0) -> Frames:
    """``block`` in other units."""
    return replace(
        block,
        positions=block.positions / length,
        energy=block.energy / energy,
        forces=block.forces * (length / energy),
    )


@pytest.mark.parametrize("energy", ENERGY_UNITS)
@pytest.mark.parametrize("length", LENGTH_UNITS)
def test_total_energies_with_forces_give_every_unit(tmp_path: Path, energy: str, length: str) -> None:
    path = save_md17(tmp_path / "a.npz", ethanol(), ENERGY_UNITS[energy], LENGTH_UNITS[length])
    data = open_dataset(path)
    assert (data.info.units.energy, data.info.units.length) == (energy, length)
    assert data.info.units.source == "inferred" and energy in data.info.units.note
    assert_same(data.frames(), ethanol(), rtol=1e-12)


@pytest.mark.parametrize("energy", ENERGY_UNITS)
def test_total_energies_alone_suffice(energy: str) -> None:
    block = _in(replace(ethanol(), forces=np.full((60, 9, 3), np.nan)), ENERGY_UNITS[energy])
    verdict = judge_units(block)
    assert (verdict.energy, verdict.problem) == (energy, None)


def test_references_removed_leaves_it_to_the_forces() -> None:
    shifted = replace(ethanol(), energy=ethanol().energy + 4210.0)
    verdict = judge_units(shifted)
    assert (verdict.energy, verdict.problem) == ("eV", None)
    assert judge_units(replace(shifted, forces=np.full((60, 9, 3), np.nan))).problem == "units_unknown"
    # 30 kcal/mol/A is 1.3 eV/A, but 30 kJ/mol/A would be thermal too: not sure
    assert judge_units(_in(replace(shifted, forces=shifted.forces * 1.4), KCAL_PER_MOL)).problem == "units_unknown"


def test_energies_and_forces_must_agree() -> None:
    block = ethanol()
    kcal = replace(block, energy=block.energy / KCAL_PER_MOL)
    verdict = judge_units(kcal)
    assert verdict.problem == "units_unknown" and "forces do not" in verdict.note


def test_convention_is_checked_in_both_directions() -> None:
    assert judge_units(ethanol(), convention=True).problem is None
    for name, factor in ENERGY_UNITS.items():
        if name != "eV":
            verdict = judge_units(_in(ethanol(), factor), convention=True)
            assert (verdict.problem, verdict.probable_energy) == ("units_mismatch", name)
    verdict = judge_units(_in(ethanol(), HARTREE, BOHR), convention=True)
    assert (verdict.problem, verdict.probable_length, verdict.probable_energy) == ("units_mismatch", "Bohr", "Hartree")
    shifted = replace(ethanol(), energy=ethanol().energy + 4200.0)
    assert judge_units(shifted, convention=True).problem is None
    assert judge_units(_in(shifted, KCAL_PER_MOL), convention=True).problem == "units_mismatch"


def test_relaxed_structures_raise_no_alarm_in_a_convention_format() -> None:
    still = replace(ethanol(), forces=ethanol().forces * 1e-3)
    assert judge_units(still, convention=True).problem is None
    assert judge_units(still).problem == "units_unknown"  # an npz states nothing: the forces may be in another unit


def test_noble_gases_and_lone_atoms_show_no_bonds() -> None:
    argon = Frames.build(np.array([18, 18]), np.array([[[0.0, 0, 0], [3.8, 0, 0]]]), np.array([-28709.0]))
    assert judge_units(argon, convention=True).problem is None
    atoms = Frames.build(np.array([[1], [6], [8]]), np.zeros((3, 1, 3)), np.array([-13.6, -1027.0, -2038.0]))
    assert judge_units(atoms, convention=True).problem is None
    assert judge_units(atoms).energy == "eV"
    hartree = replace(atoms, energy=atoms.energy / HARTREE)
    assert judge_units(hartree).energy == "Hartree"
    assert judge_units(hartree, convention=True).probable_energy == "Hartree"


def test_gfn2_energies_in_ev_open_and_in_hartree_do_not() -> None:
    # GFN2-xTB energies computed with tblite: ethanol, CO2, H2 and the atoms H, C, N, O
    molecule = replace(ethanol(), energy=ethanol().energy + 4210.0 - 309.98)
    assert judge_units(molecule, convention=True).problem is None
    assert judge_units(molecule).energy == "eV"
    verdict = judge_units(_in(molecule, HARTREE), convention=True)
    assert (verdict.problem, verdict.probable_energy) == ("units_mismatch", "Hartree")
    atoms = Frames.build(np.array([[1], [6], [7], [8]]), np.zeros((4, 1, 3)), np.array([-10.7, -48.8, -71.0, -102.6]))
    assert judge_units(atoms, convention=True).problem is None


def test_tight_binding_of_another_unit_yields_to_thermal_forces() -> None:
    """Plane-wave energies in eV may look like GFN2-xTB in Hartree; eV-like forces settle it, none leave it open."""
    block = ethanol()
    lookalike = replace(block, energy=np.full(60, -309.98 / HARTREE))
    assert judge_units(lookalike, convention=True).problem is None
    silent = replace(lookalike, forces=np.full((60, 9, 3), np.nan))
    assert judge_units(silent, convention=True).problem == "units_mismatch"


def test_no_force_is_thermal_in_ev_and_in_kcal() -> None:
    assert THERMAL[1] / THERMAL[0] < 1 / KCAL_PER_MOL


def test_a_stated_unit_settles_it(tmp_path: Path) -> None:
    shifted = replace(ethanol(), energy=ethanol().energy + 4210.0, forces=np.full((60, 9, 3), np.nan))
    path = save_md17(tmp_path / "a.npz", shifted, KCAL_PER_MOL)
    with pytest.raises(UnitsError, match="--energy-unit") as caught:
        open_dataset(path)
    assert caught.value.code == "units_unknown"
    data = open_dataset(path, energy_unit="kcal/mol")
    assert data.info.units.energy == "kcal/mol" and data.info.units.length == "Angstrom"
    np.testing.assert_allclose(data.frames().energy, shifted.energy, atol=1e-9)
    both = open_dataset(path, energy_unit="kcal/mol", length_unit="Angstrom")
    assert both.info.units.source == "stated"
    with pytest.raises(ConfigError, match="unknown unit"):
        open_dataset(path, energy_unit="furlong")


def test_unchecked_units_are_recorded_as_unknown(tmp_path: Path) -> None:
    shifted = replace(ethanol(), energy=ethanol().energy + 4210.0, forces=np.full((60, 9, 3), np.nan))
    data = open_dataset(save_md17(tmp_path / "a.npz", shifted, KCAL_PER_MOL), check_units=False)
    assert data.info.units.source == "unknown"
    assert data.info.extra["units_problem"]["code"] == "units_unknown"
    np.testing.assert_allclose(data.frames().energy, shifted.energy / KCAL_PER_MOL)


def test_units_an_archive_states_are_taken(tmp_path: Path) -> None:
    units = {"e_unit": np.array("kcal/mol"), "r_unit": np.array("Ang")}
    data = open_dataset(save_md17(tmp_path / "a.npz", ethanol(), KCAL_PER_MOL, **units))
    assert (data.info.units.energy, data.info.units.source) == ("kcal/mol", "stated")
    assert_same(data.frames(), ethanol(), rtol=1e-12)
